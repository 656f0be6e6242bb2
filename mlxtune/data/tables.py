"""Rows of Parquet files, and the pictures that stand in a table's cells."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlxtune.data.base import SourceRow
from mlxtune.errors import DataError
from mlxtune.images import StoredImage

BATCH_BYTES = 1 << 20  # of rows that are in memory at once
_COSTLY_BYTES = 32 << 20  # a picture that costs more than this to read again is not read again
_KEPT_BYTES = 32 << 20
_BUFFER_BYTES = 1 << 20

Reread = Callable[[str, int | None], Callable[[], bytes] | None]  # column, place in a list -> reads the cell again


def with_stored(values: Mapping[str, Any], reread: Reread) -> dict[str, Any]:
    """A table's row with its pictures as `StoredImage`, also in lists, and {"bytes", "path"} without bytes as the path alone."""
    return {name: _stored(value, partial(reread, name)) for name, value in values.items()}


def cell_bytes(value: Any, place: int | None) -> bytes:
    """The picture of a cell: bytes or {"bytes", "path"}, or such a thing at `place` of a list."""
    value = value if place is None else value[place]
    return value["bytes"] if isinstance(value, dict) else value


def _stored(value: Any, reread: Callable[[int | None], Callable[[], bytes] | None], place: int | None = None) -> Any:
    if isinstance(value, list) and place is None and value and isinstance(value[0], (bytes, dict)):
        return [_stored(item, reread, number) for number, item in enumerate(value)]
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes) and content:
        return StoredImage(content, reread(place))
    return value["path"] if isinstance(value, dict) and set(value) == {"bytes", "path"} else value


def read_parquet(file: Path, *, shown: str) -> Iterator[SourceRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{shown}: Parquet needs a package that is missing. Run: pip install pyarrow") from error
    try:
        # Without a buffer, or with one filled ahead, Arrow reads a row group whole, and pandas writes a file as one row group.
        with parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES) as table:
            number = 0
            for group in range(table.num_row_groups):
                first = number
                for batch in _batches(table, group):
                    reread = _Reread(str(file.absolute()), group, costs=_costs(table.metadata.row_group(group), batch))
                    for values in batch.to_pylist():
                        cells = partial(reread, number - first)
                        number += 1
                        yield SourceRow(f"{shown}#{number}", with_stored(values, cells))
    except pyarrow.ArrowException as error:
        raise DataError(f"{shown}: not a Parquet file that can be read ({error}). Fetch or write it again") from error


def _batches(table: Any, group: int) -> Iterator[Any]:
    size = table.metadata.row_group(group)
    rows = int(BATCH_BYTES * size.num_rows / max(1, size.total_byte_size))
    return table.iter_batches(batch_size=max(1, min(1024, rows)), row_groups=[group], use_threads=False)


def _costs(group: Any, batch: Any) -> dict[str, float]:
    """Bytes that reading a column of the row group takes. Equal values are stored once, so the batch's own size counts too."""
    costs = {name: group.num_rows * batch.column(name).nbytes / max(1, len(batch)) for name in batch.schema.names}
    stored = dict.fromkeys(costs, 0)
    for number in range(group.num_columns):
        column = group.column(number)
        name = column.path_in_schema if column.path_in_schema in stored else column.path_in_schema.split(".")[0]
        stored[name] = stored.get(name, 0) + column.total_uncompressed_size
    return {name: max(cost, stored[name]) for name, cost in costs.items()}


@dataclass(frozen=True)
class _Reread:
    file: str
    group: int
    costs: Mapping[str, float]

    def __call__(self, index: int, column: str, place: int | None) -> ParquetCell | None:
        if self.costs[column] > _COSTLY_BYTES:
            return None
        return ParquetCell(self.file, self.group, column, index, place)


@dataclass(frozen=True)
class ParquetCell:
    """Reads one picture of a Parquet file again."""

    file: str
    group: int
    column: str
    index: int
    place: int | None = None

    def __call__(self) -> bytes:
        return cell_bytes(_COLUMNS.get(self.file, self.group, self.column)[self.index].as_py(), self.place)


class _Columns:
    """Columns of row groups that were read last: a cell costs its whole row group, and the hub writes 100 pictures into one."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._kept: OrderedDict[tuple[str, int, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: str, group: int, name: str) -> Any:
        key = (file, group, name)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = column = _read_column(file, group, name)
                self._bytes += column.nbytes
                while self._bytes > self._max_bytes and len(self._kept) > 1:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
            self._kept.move_to_end(key)
            return self._kept[key]

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._bytes = 0


def _read_column(file: str, group: int, name: str) -> Any:
    from pyarrow import parquet

    with parquet.ParquetFile(file, pre_buffer=False) as table:
        return table.read_row_group(group, columns=[name], use_threads=False).column(name)


_COLUMNS = _Columns(_KEPT_BYTES)
