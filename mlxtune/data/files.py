"""A file of rows: which reader its name asks for."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import BinaryIO

from mlxtune.data.archives import Archive
from mlxtune.data.base import SourceRow, shown
from mlxtune.data.hub import saved_tables
from mlxtune.data.tables import read_parquet
from mlxtune.data.text_files import read_csv, read_json, read_jsonl, read_tsv
from mlxtune.errors import DataError

_TEXT = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".tsv": read_tsv}
_BINARY = {".parquet": read_parquet, ".arrow": lambda file, shown: next(iter(saved_tables(file).values()))()}
SUFFIXES = (*_TEXT, *_BINARY)
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]{8,})?$")  # the hub's names of a split in pieces


@dataclass(frozen=True)
class RowFile:
    """path: below the folder or archive that pictures' paths start from. shown: for messages. open: its bytes.
    file: where it lies on disk, None in an archive."""

    path: PurePath
    shown: str
    open: Callable[[], BinaryIO]
    file: Path | None

    @property
    def table(self) -> str:
        """Its name without suffix and number: the split, where it has one."""
        return _SHARD.sub("", self.path.stem)

    @property
    def is_shard(self) -> bool:
        return bool(_SHARD.search(self.path.stem))

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    def rows(self) -> Iterator[SourceRow]:
        """Raises DataError where the file or a row of it cannot be read."""
        try:
            if self.suffix in _TEXT:
                yield from _TEXT[self.suffix](self.open, shown=self.shown)
            elif self.suffix in _BINARY and self.file is not None:
                yield from _BINARY[self.suffix](self.file, shown=self.shown)
            elif self.suffix in _BINARY:
                raise DataError(f"{self.shown}: a {self.suffix} file cannot be read inside an archive. Unpack the archive")
            else:
                raise DataError(f"data.path: '{self.shown}' is of no known form. Give one of {', '.join(SUFFIXES)}")
        except (OSError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{self.shown}: cannot be read ({reason}). Check the file and its permissions") from error


def row_file(file: Path, *, base: Path | None = None) -> RowFile:
    return RowFile(PurePath(file.relative_to(base or file.parent)), shown(file), partial(file.open, "rb"), file)


def archived_file(archive: Archive, name: str) -> RowFile:
    return RowFile(PurePath(name), f"{shown(archive.path)}/{name}", partial(archive.open, name), None)


def is_row_file(name: str) -> bool:
    return PurePath(name).suffix.lower() in SUFFIXES
