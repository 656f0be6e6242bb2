"""The review file: a table that a person edits in a spreadsheet. Lines are only ever added to it, never changed.

What stands in it is a person's word: it goes into the annotation file as it is, and is never asked for again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mlxtune.caption.store import Row, write_whole
from mlxtune.errors import DataError

COLUMNS = ("id", "image", "class", "question", "answer", "flag", "keep")
_NEEDED = ("id", "question", "answer", "keep")
_YES = {"", "yes", "y", "1", "true", "x", "+", "да", "д"}
_NO = {"no", "n", "0", "false", "-", "нет", "н"}
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet takes such text for a formula, and saves what it makes of it


class Reviewed(NamedTuple):
    """A line of the review file. keep: False takes the row out of what runs read."""

    question: str
    answer: str
    keep: bool


class Review:
    """The lines of a review file by row id, and where to add new ones."""

    def __init__(self, path: Path) -> None:
        """Raises DataError that names the line where the table cannot be read."""
        self.path = path
        self.lines: dict[str, Reviewed] = {}
        self._columns: Sequence[str] = COLUMNS
        self._delimiter = ","
        self._ends_line = True
        if path.exists() and (text := self._text()).strip():
            self._ends_line = text.endswith("\n")
            self._read(text)

    def add(self, rows: Iterable[Row]) -> int:
        """Appends the rows that are not in the file yet; how many there were."""
        new = [row for row in rows if row["id"] not in self.lines]
        if not new:
            return 0
        stream = io.StringIO()
        writer = csv.DictWriter(
            stream, self._columns, delimiter=self._delimiter, extrasaction="ignore", restval="", lineterminator="\n"
        )
        fresh = not self.path.exists() or not self.path.stat().st_size
        if fresh:
            writer.writeheader()
        for row in new:
            writer.writerow({key: _shielded(str(value)) for key, value in row.items()} | {"keep": "yes"})
        # The mark tells spreadsheets that the text is UTF-8; without it Cyrillic opens as gibberish.
        text = ("\ufeff" if fresh else "" if self._ends_line else "\n") + stream.getvalue()
        # Whole, though lines are only added: of a line that a kill cuts short, the rest would read as a person's edit.
        write_whole(self.path, (b"" if fresh else self.path.read_bytes()) + text.encode())
        self._ends_line = True
        self.lines |= {row["id"]: Reviewed(row["question"], row["answer"], True) for row in new}
        return len(new)

    def _text(self) -> str:
        try:
            return self.path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f'{self.path}: not UTF-8. Save it in the spreadsheet as "CSV UTF-8"') from error
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}). Check the file and its permissions") from error

    def _read(self, text: str) -> None:
        header = text.split("\n", 1)[0]
        self._delimiter = max(",;\t", key=header.count)  # spreadsheets save with what their country uses
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=self._delimiter)
        self._columns = reader.fieldnames or COLUMNS
        if missing := [name for name in _NEEDED if name not in self._columns]:
            raise DataError(
                f"{self.path}: no column '{missing[0]}'; it has {', '.join(self._columns)}. Restore the first line: "
                f"{self._delimiter.join(COLUMNS)}"
            )
        try:
            for line in reader:
                self._take(line, where=f"{self.path}:{reader.line_num}")
        except csv.Error as error:
            raise DataError(f"{self.path}:{reader.line_num}: not a line of a table ({error}). Mend or remove it") from error

    def _take(self, line: dict[str, str | None], *, where: str) -> None:
        identity, question, answer = (_plain(line[name]) for name in ("id", "question", "answer"))
        if not any(_plain(value) for value in line.values() if isinstance(value, str)):
            return
        keep = _plain(line["keep"]).lower()
        if keep not in _YES | _NO:
            raise DataError(f"{where}: keep is '{keep}'. Write yes or no")
        if not identity:
            raise DataError(f"{where}: the id is empty. Restore it, or remove the line: it comes back as it was")
        if identity in self.lines:
            raise DataError(f"{where}: the id '{identity}' stands in the file twice. Remove one of the lines")
        if keep in _YES and not (question and answer):
            raise DataError(f"{where}: question or answer is empty. Write one, or no under keep")
        self.lines[identity] = Reviewed(question, answer, keep in _YES)


def _plain(text: str | None) -> str:
    text = (text or "").replace("\r\n", "\n").strip()
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULA) else text


def _shielded(text: str) -> str:
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text
