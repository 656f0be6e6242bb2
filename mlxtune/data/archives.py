"""Zip archives: their members are read where they lie, one at a time."""

from __future__ import annotations

import threading
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from mlxtune.data.base import shown
from mlxtune.data.held import Held
from mlxtune.errors import DataError


class Archive(Held):
    """An open .zip, read by any thread. It pickles by its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file: zipfile.ZipFile | None = None

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self.path,)

    @cached_property
    def names(self) -> dict[str, None]:
        """Its files, in order; not those that macOS and others put beside them. Raises DataError where it is no .zip."""
        names = (info.filename for info in self._opened().infolist() if not info.is_dir())
        return dict.fromkeys(name for name in names if not is_hidden(name))

    def open(self, name: str) -> BinaryIO:
        return self._opened().open(name)

    def read(self, name: str) -> bytes:
        """Raises OSError, also where the member is damaged or locked: its sum of bytes is checked."""
        try:
            return self._opened().read(name)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, KeyError, DataError) as error:
            raise OSError(f"in {shown(self.path)}: {error}") from error

    def cell(self, name: str) -> Member:
        info = self._opened().getinfo(name)
        return Member(self, name, stamp=f"|{info.file_size}|{info.CRC:08x}")

    def _opened(self) -> zipfile.ZipFile:
        with self._lock:
            if self._file is None:
                try:
                    self._file = zipfile.ZipFile(self.path)
                except (zipfile.BadZipFile, OSError) as error:
                    raise DataError(f"{shown(self.path)}: not a .zip that can be read ({error}). Fetch it again") from error
            return self._file


@dataclass(frozen=True)
class Member:
    """Reads one file of an archive. stamp: changes with its content."""

    archive: Archive
    name: str
    stamp: str

    def __call__(self) -> bytes:
        return self.archive.read(self.name)


def is_hidden(name: str) -> bool:
    """Whether a path below a data set's folder is the system's own (.DS_Store, ._a.jpg, __MACOSX/…)."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
