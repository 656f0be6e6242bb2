"""Rows from files, folders and the hub, one at a time; each knows where it stands.

"data/train.jsonl:17" is a line of a file, "data/train.parquet#17" the 17th record of a table. Pictures inside Parquet and hub
tables come as `StoredImage`: in hand while their row is, read again later, so that a table's pictures are never all in memory.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune.errors import DataError
from mlxtune.images import StoredImage, describe

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "testdev")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")  # the hub's names of a split in pieces
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class SourceRow(NamedTuple):
    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """What a path or a hub id holds.

    name: for messages. folder: what relative picture paths start from. tables: a split's name and how to read its rows anew.
    """

    name: str
    folder: Path
    tables: Mapping[str, Callable[[], Iterator[SourceRow]]]

    def everything(self) -> list[str]:
        """The splits that make up the whole: those with usual names where there are any, not a folder's other files."""
        usual = [name for name in SPLIT_NAMES if name in self.tables]
        if usual or len(self.tables) == 1:
            return usual or list(self.tables)
        raise DataError(
            f"{self.name} holds {listed(self.tables)}, none of them a usual split. Name one in data.splits or as data.path"
        )


def open_source(path: str, *, config: str | None = None, root: Path | None = None) -> Source:
    """A file, a folder or a hub id as a `Source`; no row is read yet. Relative paths start from `root` (default: here).

    Raises DataError where there is nothing of that name, or nothing that can be read.
    """
    place = (root or Path()) / Path(path).expanduser()
    if place.is_file():
        reader = partial(_read_file, place, shown=shown(place))
        return Source(shown(place), place.parent, {place.stem: reader})
    if place.is_dir():
        return Source(shown(place), place, _folder_tables(place))
    if _HUB_ID.fullmatch(path) and not path.endswith(SUFFIXES):
        return Source(path, root or Path(), _hub_tables(path, config=config))
    raise DataError(
        f"data.path: no such file or folder '{shown(place)}'. Give a file, a folder or a hub id of the form owner/name"
    )


def shown(path: Path) -> str:
    """A path as a person would write it from here."""
    absolute = Path(os.path.abspath(path))
    return (absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute).as_posix()


def listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"


def _folder_tables(folder: Path) -> dict[str, Callable[[], Iterator[SourceRow]]]:
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not files and (folder / "data").is_dir():  # a data set as downloaded from the hub
        return _folder_tables(folder / "data")
    if not files:
        raise DataError(
            f"data.path: folder '{shown(folder)}' holds no {', '.join(SUFFIXES)} file. Put train.jsonl and test.jsonl there"
        )
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_SHARD.sub("", file.stem), []).append(file)
    for name, parts in splits.items():
        if len(parts) > 1 and not all(_SHARD.search(part.stem) for part in parts):
            raise DataError(f"data.path: {listed(shown(part) for part in parts)} are all split '{name}'. Keep one of them there")
    return {name: partial(_read_files, tuple(parts)) for name, parts in splits.items()}


def _read_files(files: tuple[Path, ...]) -> Iterator[SourceRow]:
    for file in files:
        yield from _read_file(file, shown=shown(file))


def _read_file(file: Path, *, shown: str) -> Iterator[SourceRow]:
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}
    if file.suffix.lower() not in readers:
        raise DataError(f"data.path: '{shown}' is of no known form. Give one of {', '.join(SUFFIXES)}")
    try:
        yield from readers[file.suffix.lower()](file, shown)
    except OSError as error:
        raise DataError(f"{shown}: cannot be read ({error.strerror or error}). Check the file and its permissions") from error


def _read_jsonl(file: Path, shown: str) -> Iterator[SourceRow]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if text := line.removeprefix(b"\xef\xbb\xbf").strip():
                where = f"{shown}:{number}"
                yield _row(_parse(text, where=where), where=where)


def _read_json(file: Path, shown: str) -> Iterator[SourceRow]:
    content = _parse(file.read_bytes().removeprefix(b"\xef\xbb\xbf"), where=shown)
    if isinstance(content, dict):
        lists = [name for name, value in content.items() if isinstance(value, list)]
        if len(lists) != 1:
            held = f"holds {len(lists)} lists ({listed(lists)})" if lists else "holds no list"
            raise DataError(f"{shown}: the object {held}; one list of rows is expected. Keep one list in the file")
        content = content[lists[0]]
    if not isinstance(content, list):
        raise DataError(f"{shown}: a list of rows is expected, not {describe(content)}. Write the rows as a JSON list of objects")
    for number, item in enumerate(content, start=1):
        yield _row(item, where=f"{shown}#{number}")


def _read_csv(file: Path, shown: str) -> Iterator[SourceRow]:
    csv.field_size_limit(2**31 - 1)  # 131,072 characters by default: too short for a picture as base64 text
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
        line = 0
        try:
            header = next(rows, [])
            if len(set(header)) != len(header):
                raise DataError(f"{shown}:1: a column's name stands twice in {listed(header)}. Give each column its own name")
            line = rows.line_num
            for cells in rows:
                where, line = f"{shown}:{line + 1}", rows.line_num
                if cells and len(cells) != len(header):
                    raise DataError(
                        f"{where}: {len(cells)} cells, but the header has {len(header)}. Mend the row; quote cells with commas"
                    )
                if cells:
                    yield SourceRow(where, dict(zip(header, cells, strict=True)))
        except csv.Error as error:
            raise DataError(
                f"{shown}:{line + 1}: not CSV ({error}). Quote cells that hold quotes, commas or line breaks"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{shown}: after line {line}: not UTF-8 ({error.reason}). Save the file as UTF-8") from error


def _parse(text: bytes, *, where: str) -> Any:
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start}). Save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}). Mend or remove it") from error


def _row(value: Any, *, where: str) -> SourceRow:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be an object with named fields, not {describe(value)}. Mend or remove it")
    return SourceRow(where, value)


@dataclass(frozen=True)
class _ParquetCell:
    """Reads one picture of a Parquet file again."""

    file: str
    group: int
    column: str
    index: int

    def __call__(self) -> bytes:
        value = _parquet_column(self.file, self.group, self.column)[self.index].as_py()
        return value["bytes"] if isinstance(value, dict) else value


# One cell costs its whole row group (the hub writes 100 rows of pictures into one), so neighbours are kept.
@lru_cache(maxsize=2)
def _parquet_column(file: str, group: int, column: str) -> Any:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as table:
        return table.read_row_group(group, columns=[column]).column(column)


def _read_parquet(file: Path, shown: str) -> Iterator[SourceRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{shown}: Parquet needs a package that is missing. Run: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(file) as table:
            number = 0
            for group in range(table.num_row_groups):
                first = number
                for batch in table.iter_batches(batch_size=64, row_groups=[group]):
                    for values in batch.to_pylist():
                        cell = partial(_ParquetCell, str(file.absolute()), group, index=number - first)
                        number += 1
                        yield SourceRow(f"{shown}#{number}", _with_stored(values, lambda name, cell=cell: cell(column=name)))
    except pyarrow.ArrowException as error:
        raise DataError(f"{shown}: not a Parquet file that can be read ({error}). Fetch or write it again") from error


def _with_stored(values: Mapping[str, Any], cell: Callable[[str], Callable[[], bytes]]) -> dict[str, Any]:
    """A table's row with its embedded pictures as `StoredImage`, and {"bytes", "path"} without bytes as the path alone."""
    row = dict(values)
    for name, value in values.items():
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes) and content:
            row[name] = StoredImage(content, cell(name))
        elif isinstance(value, dict) and set(value) == {"bytes", "path"}:
            row[name] = value["path"]
    return row


@dataclass(frozen=True)
class _HubCell:
    """Reads one picture of a hub table again; the table is a memory map that pickles by file name."""

    table: Any  # datasets.Dataset with this one column
    column: str
    index: int

    def __call__(self) -> bytes:
        return self.table[self.index][self.column]["bytes"]


def _hub_tables(path: str, *, config: str | None) -> dict[str, Callable[[], Iterator[SourceRow]]]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"data.path: '{path}' is no file here, and hub data sets need: pip install datasets") from error
    try:
        splits = datasets.load_dataset(path, config)
    except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"data.path: '{path}' is neither a file here nor a data set that the hub gives ({reason}). "
            "Check the name, data.config and the network, or download it and give its folder"
        ) from error
    return {str(name): partial(_read_hub, table, shown=f"{path}:{name}") for name, table in splits.items()}


def _read_hub(table: Any, *, shown: str) -> Iterator[SourceRow]:
    import datasets

    pictures = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    for name in pictures:
        table = table.cast_column(name, datasets.Image(decode=False))
    columns = {name: table.select_columns([name]) for name in pictures}
    for index, values in enumerate(table):
        stored = _with_stored(
            {name: values[name] for name in pictures}, lambda name, index=index: _HubCell(columns[name], name, index)
        )
        yield SourceRow(f"{shown}#{index + 1}", {**values, **stored})
