"""Rows of the hub's data sets and of those that `datasets` saved to disk. Cells are read as stored: no picture is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlxtune.data.base import SourceRow, Table, shown
from mlxtune.data.held import Held
from mlxtune.data.tables import cell_bytes, with_stored
from mlxtune.errors import DataError

_BATCH = 32  # rows; hub pictures are some 100 KB, a batch of megabytes


def hub_tables(path: str, *, config: str | None, revision: str | None, streaming: bool) -> dict[str, Table]:
    """The splits of a hub data set. With `streaming` rows come over the network one by one, and a picture cannot be read again.

    Raises DataError where the hub does not give it.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"data.path: '{path}' is no file here, and hub data sets need: pip install datasets") from error
    try:
        splits = datasets.load_dataset(path, config, revision=revision, streaming=streaming)
    except _failures() as error:
        raise DataError(
            f"data.path: '{path}' is neither a file here nor a data set that the hub gives ({_first_line(error)}). "
            "Check the name, data.config, data.revision and the network, or download it and give its folder"
        ) from error
    return {str(name): partial(_read, table, shown=f"{path}:{name}") for name, table in splits.items()}


def saved_tables(place: Path) -> dict[str, Table]:
    """The splits of a folder that `save_to_disk` wrote, or of an .arrow file. Raises DataError."""
    import datasets

    try:
        saved = datasets.Dataset.from_file(str(place)) if place.is_file() else datasets.load_from_disk(str(place))
    except _failures() as error:
        raise DataError(f"{shown(place)}: not Arrow data that can be read ({_first_line(error)}). Save it again") from error
    if isinstance(saved, Mapping):
        return {str(name): partial(_read, table, shown=f"{shown(place)}:{name}") for name, table in saved.items()}
    name = str(saved.split) if saved.split is not None and place.is_dir() else place.stem
    return {name: partial(_read, saved, shown=shown(place))}


def _read(table: Any, *, shown: str) -> Iterator[SourceRow]:
    import datasets

    held = HubTable(table) if isinstance(table, datasets.Dataset) else None
    number = 0
    try:
        # "arrow": rows as they are stored. Any other format decodes pictures, which costs more than all else.
        for batch in table.with_format("arrow").iter(batch_size=_BATCH):
            for values in batch.to_pylist():
                reread = partial(HubCell, held, number) if held else _never
                number += 1
                yield SourceRow(f"{shown}#{number}", with_stored(values, reread))
    except _failures() as error:
        raise DataError(
            f"{shown}: reading ends after row {number} ({_first_line(error)}). Check the network and the disk, and start again"
        ) from error


class HubTable(Held):
    """An open table of `datasets`, a memory map that pickles by its files' names."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._columns: dict[str, Any] = {}

    def __reduce__(self) -> tuple[type[HubTable], tuple[Any]]:
        return HubTable, (self._table,)

    def cell(self, column: str, index: int) -> Any:
        if column not in self._columns:
            self._columns[column] = self._table.select_columns([column]).with_format("arrow")
        return self._columns[column][index].column(column)[0].as_py()


@dataclass(frozen=True)
class HubCell:
    """Reads one picture of a hub table again."""

    table: HubTable
    index: int
    column: str
    place: int | None = None

    def __call__(self) -> bytes:
        return cell_bytes(self.table.cell(self.column, self.index), self.place)


def _never(column: str, place: int | None) -> None:
    return None


def _failures() -> tuple[type[Exception], ...]:
    """What `datasets`, its file systems and its network client raise where data is not there or broken."""
    import datasets
    import httpx
    import pyarrow

    own = datasets.exceptions.DatasetsError
    return (OSError, ValueError, RuntimeError, LookupError, TypeError, own, pyarrow.ArrowException, httpx.HTTPError)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
