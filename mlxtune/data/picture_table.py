"""Pictures that rows name by a key, in a table of their own (GQA-ru: `imageId` names `id` of the pictures' table)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mlxtune.data.base import Source, SourceRow, listed
from mlxtune.data.held import Spool
from mlxtune.errors import DataError, RowError
from mlxtune.images import FindPicture, ImageRef, describe, image_ref
from mlxtune.recipe.spec import PicturesSpec


class PictureTable:
    """`LookUp` by key; a key means one picture, whatever is near. The table is read once, before the first picture: of each, its
    key and a way to read it again stay in memory, and a picture that has no such way is put aside on disk."""

    def __init__(self, spec: PicturesSpec, *, open_table: Callable[[], Source], find_file: Callable[[Path], FindPicture]) -> None:
        self._spec, self._open, self._find_file = spec, open_table, find_file
        self._known: dict[str, ImageRef | RowError] | None = None
        self._spool = Spool()
        self._name = ""

    def __call__(self, value: Any, *, where: str, near: str = "") -> ImageRef:
        key = key_text(value)
        if key is None:
            return image_ref(value, where=where)
        if self._known is None:
            self._known = self._read()
        found = self._known.get(key)
        if found is None:
            raise RowError(
                f"{where}: no picture has {self._spec.key} '{key}' in {self._name}. Set data.images, or data.image_folder",
                reason="picture missing",
            )
        if isinstance(found, RowError):
            raise RowError(f"{where}: picture '{key}': {found}", reason=found.reason)
        return found.at(where)

    def _read(self) -> dict[str, ImageRef | RowError]:
        source = self._open()
        names = [self._spec.split] if self._spec.split is not None else source.everything()
        if missing := [name for name in names if name not in source.tables]:
            raise DataError(
                f"data.images.split: {source.name} has no split '{missing[0]}'; it has {listed(source.tables)}. Set one of them"
            )
        self._name, find = source.name, self._find_file(source.folder)
        known: dict[str, ImageRef | RowError] = {}
        for row in (row for name in names for row in source.tables[name]()):
            key = key_text(self._cell(row, self._spec.key, role="key"))
            if key is None:
                raise DataError(
                    f"{row.where}: field '{self._spec.key}' is no key but {describe(row.values[self._spec.key])}. "
                    "Set data.images.key to the column of keys"
                )
            picture = self._picture(self._cell(row, self._spec.image, role="image"), where=row.where, find=find)
            known[key] = _first(known.get(key), picture, where=row.where)
        return known

    def _picture(self, value: Any, *, where: str, find: FindPicture) -> ImageRef | RowError:
        try:
            picture = find(value, where=where)
        except RowError as error:
            return error
        return picture.kept(self._spool.put(picture.source)) if isinstance(picture.source, bytes) else picture

    def _cell(self, row: SourceRow, name: str, *, role: str) -> Any:
        if name not in row.values:
            raise DataError(f"{row.where}: no field '{name}'; it has {listed(_names(row.values))}. Set data.images.{role}")
        return row.values[name]


def _first(known: ImageRef | RowError | None, picture: ImageRef | RowError, *, where: str) -> ImageRef | RowError:
    if known is None or known == picture or isinstance(known, RowError):
        return known or picture
    return RowError(f"two pictures have this key, the second at {where}. Give each its own", reason="picture missing")


def _names(values: Iterable[Any]) -> list[str]:
    return [str(name) for name in values]


def key_text(value: Any) -> str | None:
    """Keys are compared as text: rows may have 17 where the table has "17", or 17.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 2**63 else None
    return value.strip() or None if isinstance(value, str) else None
