"""The annotation file: rows are appended one reply at a time and stay, whatever happens to the process.

Beside `annotations.jsonl` lie `annotations.review.csv` (a person's), `annotations.aside.jsonl` (rows that a person rejected
or whose picture is gone: paid for, so kept, but not read by runs) and `annotations.failed.jsonl` (pictures that failed).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlxtune.errors import DataError, MlxtuneError

Row = dict[str, Any]
_FIELDS = ("id", "image", "image_sha256", "class", "kind", "question", "answer")  # texts that every row of ours has


class Store:
    """Rows by id, in the order of the file. `append` may be called from any thread; all else from one at a time."""

    def __init__(self, path: Path) -> None:
        """Reads the file; nothing is written until there is something to write. Raises DataError for a line that is no row."""
        self.path = path
        self.repaired = 0  # bytes of a last line that a kill cut short
        self._lock = threading.Lock()
        self._foreign: list[str] = []  # rows of another origin, kept as they are
        self._rows: dict[str, Row] = {}
        self._lines = 0
        self._whole_bytes = 0
        self._ends_line = True
        self._read()

    def __contains__(self, identity: object) -> bool:
        return identity in self._rows

    def __getitem__(self, identity: str) -> Row:
        return self._rows[identity]

    def __iter__(self) -> Iterator[Row]:
        return iter(list(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, rows: Iterable[Row]) -> None:
        """Writes rows to the disk before it returns. A row with the id of an older one takes its place."""
        rows = list(rows)
        if not rows:
            return
        content = "".join(_line(row) for row in rows).encode()
        with self._lock:
            content = content if self._ends_line else b"\n" + content
            try:
                self._cut_tail()
                with self.path.open("ab") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                raise MlxtuneError(
                    f"{self.path}: cannot be written ({error.strerror}). Make room, then run the same command again"
                ) from error
            self._whole_bytes += len(content)
            self._ends_line = True
            self._lines += len(rows)
            self._rows |= {row["id"]: row for row in rows}

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Makes `rows` the content, at once; rows of another origin stay in front. Does nothing where nothing changed."""
        rows = {row["id"]: row for row in rows}
        unchanged = list(rows.values()) == list(self._rows.values()) and len(rows) == self._lines
        if unchanged and not self.repaired:
            self._rows = rows
            return
        content = ("".join(self._foreign) + "".join(_line(row) for row in rows.values())).encode()
        write_whole(self.path, content)
        self._rows, self._lines, self._whole_bytes, self.repaired, self._ends_line = rows, len(rows), len(content), 0, True

    def _cut_tail(self) -> None:
        """Removes what a kill, or a disk that was full, left of a line: before the next line is put behind it."""
        if self.path.exists() and self.path.stat().st_size > self._whole_bytes:
            os.truncate(self.path, self._whole_bytes)

    def _read(self) -> None:
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}). Check the file and its permissions") from error
        *lines, tail = content.split(b"\n")
        if tail.strip() and _parsed(tail) is not None:  # whole, only its end of line is missing (an editor left it out)
            lines, tail, self._ends_line = [*lines, tail], b"", False
        self.repaired = len(tail)
        self._whole_bytes = len(content) - len(tail)
        for number, line in enumerate(lines, start=1):
            if line.strip():
                self._take(line.removeprefix(b"\xef\xbb\xbf"), number)

    def _take(self, line: bytes, number: int) -> None:
        row = _parsed(line)
        if row is None:
            raise DataError(f"{self.path}:{number}: not a JSON object. Mend or remove the line")
        if not all(isinstance(row.get(field), str) for field in _FIELDS):
            self._foreign.append(line.decode() + "\n")
            return
        self._rows[row["id"]] = row
        self._lines += 1


@contextmanager
def locked(path: Path, *, only_look: bool = False) -> Iterator[None]:
    """Keeps a second process away from the annotation file, unless nothing will be written (`only_look`).

    Raises MlxtuneError where there is one.
    """
    from filelock import FileLock, Timeout

    if only_look:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise MlxtuneError(f"{path}: another mlxtune caption is writing it. Wait for it, or give another --out") from error
    try:
        yield
    finally:
        lock.release()


def write_whole(path: Path, content: bytes) -> None:
    """Writes a whole file at once: readers see the old or the new one, never half of it."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise MlxtuneError(
            f"{path}: cannot be written ({error.strerror}). Make room, or mend the folder's permissions"
        ) from error


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _parsed(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
