"""What lies in a folder or an archive: files of rows, a data set as downloaded from the hub, or pictures alone.

The rule, first that fits:

1. What `datasets` saved to disk, or with `config` the subfolder of that name.
2. Files of rows. `train.jsonl`, `train-00000-of-00002.parquet` and, where every file names one, `train_human.json` are splits.
   Files without a split's name are together the table "all" (unless one is called so), and each is a table of its own. A .json
   file that holds an object and has no split's name is settings (names, prompts) beside other files of rows, or pictures.
3. Subfolders of such files: `train/`, `test/` … are splits; `data/`, or the only one there is, stands for the folder itself, and
   so does the only one where its subfolders are splits.
4. Pictures: `<split>/<class>/x.jpg`, `<split>/x.jpg`, `<class>/x.jpg` or `x.jpg`. Rows are {"image", "file_name", "class"}.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from mlxtune.data.archives import Archive
from mlxtune.data.base import ALL, SPLIT_NAMES, Source, SourceRow, Table, listed, shown
from mlxtune.data.files import SUFFIXES, RowFile, archived_file, is_row_file, row_file
from mlxtune.data.hub import saved_tables
from mlxtune.data.picture_files import joined, picture_files, picture_tables
from mlxtune.errors import DataError

_SAVED = ("dataset_dict.json", "state.json")  # marks of `save_to_disk`
_METADATA = "metadata"  # of picture folders, as the hub knows it
_WORDS = re.compile(r"[^\W_]+")


def folder_source(place: Path, *, config: str | None) -> Source:
    """The folder as the module says. Raises DataError where there are no rows, or several data sets to choose from."""
    place = config_folder(place, config) or place
    if any((place / mark).is_file() for mark in _SAVED):
        return Source(shown(place), place, saved_tables(place))
    if tables := _file_tables(place, base=place):
        return Source(shown(place), place, tables)
    inner = _folder_tables(place)
    if splits := {name: _whole(tables) for name, tables in inner.items() if name in SPLIT_NAMES}:
        return Source(shown(place), place, splits)
    if not inner and len(only := _subfolders(place)) == 1 and not _folder_tables(only[0]).keys().isdisjoint(SPLIT_NAMES):
        return folder_source(only[0], config=None)
    lonely = "data" if "data" in inner else next(iter(inner)) if len(inner) == 1 else None
    if lonely == "data" or (lonely and not picture_files(place / lonely, first=True)):
        return Source(shown(place), place, inner[lonely])
    if pictures := picture_files(place):
        return Source(shown(place), place, picture_tables(pictures, shown=shown(place)))
    if inner:
        raise DataError(
            f"data.path: folder '{shown(place)}' holds several data sets: {listed(inner)}. Set data.config to one of them"
        )
    if (place / "data").is_dir():
        return folder_source(place / "data", config=None)
    if len(zips := sorted(place.glob("*.[zZ][iI][pP]"))) == 1:
        return archive_source(zips[0])
    raise DataError(
        f"data.path: folder '{shown(place)}' holds no {', '.join(SUFFIXES)} file and no picture. Put train.jsonl and test.jsonl "
        "there, or pictures in one folder per class"
    )


def config_folder(place: Path, config: str | None) -> Path | None:
    """The subfolder of a configuration, None where none is asked for. Raises DataError where there is none of that name."""
    if config is None or place.name == config:
        return None
    for folder in (place / config, place / "data" / config):
        if folder.is_dir():
            return folder
    if config == "default":
        return None
    there = listed(folder.name for folder in _subfolders(place))
    raise DataError(f"data.config: '{shown(place)}' has no folder '{config}'; it has {there}. Set data.config to one, or null")


def archive_source(path: Path) -> Source:
    """The rows or the pictures in a .zip, by the rules for folders; pictures are found inside it. Raises DataError."""
    archive = Archive(path)
    files = [name for name in archive.names if is_row_file(name)]
    pictures = picture_files(archive)
    depth = min((name.count("/") for name in files), default=0)
    first = [archived_file(archive, name) for name in files if name.count("/") == depth]
    if tables := _tables(first, has_pictures=bool(pictures), folder=None):
        return Source(shown(path), path, tables)
    if not pictures:
        raise DataError(f"data.path: '{shown(path)}' holds neither rows nor pictures. Give another archive, or a folder")
    return Source(shown(path), path, picture_tables(pictures, shown=shown(path)))


def _file_tables(folder: Path, *, base: Path) -> dict[str, Table]:
    files = [file for file in sorted(folder.iterdir()) if is_row_file(file.name) and not file.name.startswith(".")]
    return _tables([row_file(file, base=base) for file in files if file.is_file()], has_pictures=None, folder=folder)


def _folder_tables(place: Path) -> dict[str, dict[str, Table]]:
    """The tables of each subfolder that has any."""
    return {folder.name: tables for folder in _subfolders(place) if (tables := _file_tables(folder, base=place))}


def _tables(files: Sequence[RowFile], *, has_pictures: bool | None, folder: Path | None) -> dict[str, Table]:
    """has_pictures: whether pictures lie beside the files; None = look, if it matters."""
    if settings := [file for file in files if _is_settings(file)]:
        rows = [file for file in files if file not in settings]
        if rows or (bool(picture_files(folder, first=True)) if folder and has_pictures is None else has_pictures):
            files = rows
    parts: dict[str, list[RowFile]] = {}
    for file in files:
        parts.setdefault(file.table, []).append(file)
    for name, pieces in parts.items():
        if len(pieces) > 1 and not all(piece.is_shard for piece in pieces):
            raise DataError(
                f"data.path: {listed(piece.shown for piece in pieces)} are all split '{name}'. Keep one of them there"
            )
    tables: dict[str, Table] = {name: partial(_read, tuple(pieces)) for name, pieces in parts.items()}
    if len(tables) < 2 or any(name in SPLIT_NAMES for name in tables):
        return tables
    words = {name: [word for word in _WORDS.findall(name.lower()) if word in SPLIT_NAMES] for name in tables}
    if not all(len(found) == 1 for found in words.values()):
        return {ALL: _chained(tables), **tables}
    named = {split for (split,) in words.values()}
    return {split: _chained({name: tables[name] for name in tables if words[name] == [split]}) for split in named} | tables


def _is_settings(file: RowFile) -> bool:
    if file.suffix != ".json" or file.table in SPLIT_NAMES:
        return False
    try:
        with file.open() as stream:
            return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    except OSError:  # whoever reads it will say so
        return False


def _read(files: Iterable[RowFile]) -> Iterator[SourceRow]:
    for file in files:
        folder = file.path.parent.as_posix().removeprefix(".")
        for row in file.rows():
            values = joined(row.values, folder=folder) if file.table == _METADATA else row.values
            yield SourceRow(row.where, values, folder)


def _whole(tables: dict[str, Table]) -> Table:
    """All rows of one folder, each file once."""
    return _chained({name: tables[name] for name in Source("", Path(), tables).everything()})


def _chained(tables: dict[str, Table]) -> Table:
    return partial(_chain, tuple(tables.values()))


def _chain(tables: Iterable[Table]) -> Iterator[SourceRow]:
    for table in tables:
        yield from table()


def _subfolders(place: Path) -> list[Path]:
    return sorted(folder for folder in place.iterdir() if folder.is_dir() and not folder.name.startswith("."))
