"""The rows of a JSON file, one at a time: a file of any length needs the memory of its longest row.

The standard library's decoder reads each value, so that all of what `json.loads` takes is taken and means the same. (Faster
streaming parsers turn half a surrogate pair into "?", and refuse NaN and integers beyond 64 bits.)
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from mlxtune.data.base import listed
from mlxtune.errors import DataError
from mlxtune.images import describe

_CHUNK = 1 << 20
_SPACE = " \t\n\r"


def json_rows(open_file: Callable[[], BinaryIO], *, shown: str) -> Iterator[Any]:
    """The items of the list that the file is, or of the only list that the object in it holds, or all objects where they stand
    one behind the other (JSON Lines under a name of its own). Raises DataError.

    The first object is read twice: what it is, and that it holds no second list, is known before the first row is given.
    """
    with open_file() as stream:
        reader = _Reader(stream, shown=shown)
        first = reader.peek()
        if first == "[":
            yield from _items(reader)
            reader.end()
        elif first != "{":
            content = reader.value()
            raise DataError(
                f"{shown}: a list of rows is expected, not {describe(content)}. Write the rows as a JSON list of objects"
            )
    if first == "{":
        is_one = _is_one_object(open_file, shown=shown)
        with open_file() as stream:
            reader = _Reader(stream, shown=shown)
            yield from (value for is_row, value in _members(reader) if is_row) if is_one else _objects(reader)


def _is_one_object(open_file: Callable[[], BinaryIO], *, shown: str) -> bool:
    """Whether the file's object stands alone, and not in front of others. Raises DataError where a lone one holds no rows."""
    with open_file() as stream:
        reader = _Reader(stream, shown=shown)
        lists = [name for is_row, name in _members(reader) if not is_row]
        if reader.peek() == "{":
            return False
        reader.end()
    if len(lists) != 1:
        held = f"holds {len(lists)} lists ({listed(lists)})" if lists else "holds no list"
        raise DataError(f"{shown}: the object {held}; one list of rows is expected. Keep one list in the file")
    return True


def _objects(reader: _Reader) -> Iterator[Any]:
    while reader.peek():
        yield reader.value()


def _members(reader: _Reader) -> Iterator[tuple[bool, Any]]:
    """Of an object: (False, name) for every list in it, and (True, item) for every item of such a list."""
    reader.take("{")
    while reader.peek() != "}":
        name = reader.value()
        if not isinstance(name, str):
            raise reader.refusal("Expecting property name enclosed in double quotes")
        reader.take(":")
        if reader.peek() == "[":
            yield False, name
            yield from ((True, item) for item in _items(reader))
        else:
            reader.value()
        if reader.peek() != "}":
            reader.take(",")
            if reader.peek() == "}":
                raise reader.refusal("Expecting property name enclosed in double quotes")
    reader.take("}")


def _items(reader: _Reader) -> Iterator[Any]:
    reader.take("[")
    if reader.peek() != "]":
        yield reader.value()
    while reader.peek() != "]":
        reader.take(",")
        yield reader.value()
    reader.take("]")


class _Reader:
    """A window on the file's text that moves on with what was read."""

    def __init__(self, stream: BinaryIO, *, shown: str) -> None:
        self._stream, self._shown = stream, shown
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at, self._bytes = "", 0, 0
        self._lines, self._columns, self._chars = 0, 0, 0  # before the window

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, sign: str) -> None:
        if self.peek() != sign:
            raise self.refusal(f"Expecting '{sign}'" + (" delimiter" if sign in ",:" else ""))
        self._at += 1

    def end(self) -> None:
        if self.peek():
            raise self.refusal("Extra data")

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                inside = error.pos - self._at
                if not self._more():  # which moves the window on
                    raise self.refusal(error.msg, at=self._at + inside) from error
                continue
            except (ValueError, RecursionError) as error:
                raise self.refusal(str(error)) from error
            # A number that touches the window's end may go on behind it.
            if end < len(self._text) or not self._more():
                self._at = end
                return value

    def refusal(self, what: str, *, at: int | None = None) -> DataError:
        before = self._text[: self._at if at is None else at]
        line = self._lines + before.count("\n")
        column = len(before) - before.rfind("\n") - 1 + (0 if "\n" in before else self._columns)
        place = f"line {line + 1} column {column + 1} (char {self._chars + len(before)})"
        return DataError(f"{self._shown}: not JSON ({what}: {place}). Mend or remove it")

    def _more(self) -> bool:
        """Reads on, at least as much as is unread: a long value is scanned few times. False at the end of the file."""
        done = self._text[: self._at]
        content = self._stream.read(max(_CHUNK, len(self._text) - self._at))
        self._bytes += len(content)
        try:
            text = self._decode.decode(content, final=not content)
        except UnicodeDecodeError as error:
            start = self._bytes - len(error.object) + error.start
            raise DataError(f"{self._shown}: not UTF-8 ({error.reason} at byte {start}). Save the file as UTF-8") from error
        self._columns = len(done) - done.rfind("\n") - 1 + (0 if "\n" in done else self._columns)
        self._lines += done.count("\n")
        self._chars += len(done)
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(content)
