"""Handles that many small picture readers share: an open table, an archive, a file of bytes put aside."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass


class Held:
    """Base of heavy handles that picture readers refer to. A pickle that stays in this process keeps a `Held` by reference
    (`pickle.Pickler.persistent_id`), so that a reader costs a few bytes; a handle that pickles whole says so in its class."""


class Spool(Held):
    """Bytes put aside on disk, in a file without a name that goes with this object. Any thread may read."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="mlxtune-")
        self._lock = threading.Lock()
        self._end = 0

    def put(self, content: bytes) -> Callable[[], bytes]:
        """Writes `content` behind all others; what it returns reads it again."""
        with self._lock:
            start, self._end = self._end, self._end + len(content)
            self._file.seek(start)
            self._file.write(content)
            self._file.flush()
        return SpoolCell(self, start, len(content))

    def read(self, start: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, start)


@dataclass(frozen=True)
class SpoolCell:
    """Reads one piece of a `Spool`."""

    spool: Spool
    start: int
    length: int

    def __call__(self) -> bytes:
        return self.spool.read(self.start, self.length)
