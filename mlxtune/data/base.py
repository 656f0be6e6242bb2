"""What a source is: rows by split, one at a time, each of which knows where it stands."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mlxtune.errors import DataError
from mlxtune.images import ImageRef

SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "testdev")
ALL = "all"  # the table of a folder whose files have no split's name


class SourceRow(NamedTuple):
    """where: "data/train.jsonl:17" is a line of a file, "data/train.parquet#17" the 17th record of a table.
    folder: where that file lies below the source's folder, "" in it."""

    where: str
    values: Mapping[str, Any]
    folder: str = ""


Table = Callable[[], Iterator[SourceRow]]


class LookUp(Protocol):
    """As `FindPicture`. near: the row's `folder`, which decides between pictures that have one name."""

    def __call__(self, value: Any, *, where: str, near: str = "") -> ImageRef: ...


@dataclass(frozen=True)
class Source:
    """What a path or a hub id holds.

    name: for messages. folder: what relative picture paths start from; a .zip where the pictures are inside it.
    tables: a split's name and how to read its rows anew.
    """

    name: str
    folder: Path
    tables: Mapping[str, Table]

    def everything(self) -> list[str]:
        """The splits that make up the whole: those with usual names where there are any, not a folder's other files."""
        usual = [name for name in SPLIT_NAMES if name in self.tables]
        if usual or len(self.tables) == 1:
            return usual or list(self.tables)
        if ALL in self.tables:
            return [ALL]
        raise DataError(
            f"{self.name} holds {listed(self.tables)}, none of them a usual split. Name one in data.splits or as data.path"
        )


def shown(path: Path | str) -> str:
    """A path as a person would write it from here."""
    absolute = Path(os.path.abspath(path))
    return (absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute).as_posix()


def listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"
