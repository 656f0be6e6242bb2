"""A recipe's data set as rows: which reader a path, a folder or a hub id needs.

Pictures inside tables come as `StoredImage`: in hand while their row is, read again later, so that a table's pictures are never
all in memory.
"""

from __future__ import annotations

import re
from pathlib import Path

from mlxtune.data.base import ALL, SPLIT_NAMES, Source, SourceRow, Table, listed, shown
from mlxtune.data.files import SUFFIXES, row_file
from mlxtune.data.folders import archive_source, folder_source
from mlxtune.data.hub import hub_tables
from mlxtune.errors import DataError
from mlxtune.recipe.spec import RowsSpec

__all__ = ["ALL", "SPLIT_NAMES", "SUFFIXES", "Source", "SourceRow", "Table", "listed", "open_source", "shown"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def open_source(spec: RowsSpec, *, root: Path | None = None) -> Source:
    """What `spec.path` names, as a `Source`; no row is read yet. Relative paths start from `root` (default: here).

    Of the spec: path, config, revision, streaming. A file with rows, a folder (see `folders.folder_source`), a .zip of
    pictures, or else a hub id. Raises DataError where there is nothing of that name, or nothing that can be read.
    """
    place = (root or Path()) / Path(spec.path).expanduser()
    if place.is_dir():
        return folder_source(place, config=spec.config)
    if place.is_file() and place.suffix.lower() == ".zip":
        return archive_source(place)
    if place.is_file():
        return Source(shown(place), place.parent, {place.stem: row_file(place).rows})
    if _HUB_ID.fullmatch(spec.path) and not spec.path.endswith((*SUFFIXES, ".zip")):
        tables = hub_tables(spec.path, config=spec.config, revision=spec.revision, streaming=spec.streaming)
        return Source(spec.path, root or Path(), tables)
    raise DataError(
        f"data.path: no such file or folder '{shown(place)}'. Give a file, a folder or a hub id of the form owner/name"
    )
