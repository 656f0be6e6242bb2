"""Finding the picture that a row names: beside the rows, in a folder or archive of their own, or in a table by its key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.data.archives import Archive
from mlxtune.data.base import LookUp, Source, listed, shown
from mlxtune.data.folders import config_folder
from mlxtune.data.names import Names, agree, is_telling
from mlxtune.data.picture_files import files_below
from mlxtune.data.picture_table import PictureTable, key_text
from mlxtune.data.sources import open_source
from mlxtune.errors import DataError, RowError
from mlxtune.images import ImageRef, embedded, image_ref
from mlxtune.recipe.spec import PicturesSpec, RowsSpec
from mlxtune.tasks import get_task

_SHOWN = 3  # candidates in a message


def open_pictures(spec: RowsSpec, *, source: Source, root: Path | None = None) -> LookUp:
    """What turns the picture column of the rows into references. Nothing is read before the first picture is asked for.

    Pictures come from `spec.image_folder`, else from the table that `spec.images` or the task names, else from the folder or
    archive of the rows. Cells that hold a picture themselves (bytes, base64, a `StoredImage`) need none of these.
    Raises DataError where the folder or the table is not there; the finder raises RowError for a row's picture.
    """
    if spec.images is not None:
        return _table(spec, spec.images, root=root)
    if spec.image_folder is not None:
        return FolderPictures(_image_folder(spec.image_folder, root=root))
    images = get_task(spec.task).default_images(spec)
    if images is not None and _has_table(spec, images, root=root):
        return _table(spec, images, root=root)
    return FolderPictures(source.folder)


def _image_folder(given: str, *, root: Path | None) -> Path:
    folder = (root or Path()) / Path(given).expanduser()
    if folder.is_dir() or (folder.is_file() and folder.suffix.lower() == ".zip"):
        return folder
    raise DataError(
        f"data.image_folder: no such folder '{shown(folder)}'. Give the folder or .zip that the rows' picture paths start from"
    )


def _has_table(spec: RowsSpec, images: PicturesSpec, *, root: Path | None) -> bool:
    """Whether the rows' own data set has the task's usual table of pictures; local rows often come without it."""
    place = (root or Path()) / Path(images.path or spec.path).expanduser()
    if place.is_file():
        return False
    if not place.is_dir():
        return True
    try:
        return config_folder(place, images.config) is not None
    except DataError:
        return False


def _table(spec: RowsSpec, images: PicturesSpec, *, root: Path | None) -> PictureTable:
    own = images.path is None
    where = RowsSpec(
        task=spec.task,
        path=images.path or spec.path,
        config=images.config or (spec.config if own else None),
        revision=spec.revision if own else None,
        streaming=spec.streaming,
    )
    return PictureTable(images, open_table=lambda: open_source(where, root=root), find_file=FolderPictures)


class FolderPictures:
    """Finds pictures in a folder or a .zip: exactly at the row's path, in a .zip that the path names, or else by name. Of several
    that a name may mean, the one below the folder of the row's own file is meant: `train/labels.json` has `train/images/`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._archives: dict[Path, Archive] = {}
        self._names: dict[Path, Names] = {}
        self._takers: dict[str, str] = {}  # found by name alone -> what the first row called it

    def __call__(self, value: Any, *, where: str, near: str = "") -> ImageRef:
        text = path_text(value)
        if text is None or embedded(text, where=where):
            return image_ref(value, where=where)
        for spelling in dict.fromkeys((text, text.replace("\\", "/"))):
            if found := self._exact(spelling, where=where, near=near) or self._by_name(spelling, where=where, near=near):
                return found
        raise self._missing(text, where=where)

    def _exact(self, text: str, *, where: str, near: str) -> ImageRef | None:
        if self._folder.suffix.lower() == ".zip" and self._folder.is_file():
            return self._member(self._folder, text, where=where, near=near)
        if os.path.isfile(self._folder / text):
            return image_ref(text, folder=self._folder, where=where)
        return next((found for path in self._zips(text) if (found := self._member(path, text, where=where, near=near))), None)

    def _zips(self, text: str) -> list[Path]:
        """Archives that stand for a folder of the path: "ours/box/a.png" may lie in "ours.zip"."""
        folders = [part for part in text.split("/")[:-1] if part not in ("", ".", "..")]
        ways = ["/".join(folders[: end + 1]) for end in range(len(folders))] + folders
        zips = [self._folder / f"{way}.zip" for way in dict.fromkeys(ways)]
        return [path for path in zips if path in self._archives or path.is_file()]

    def _member(self, path: Path, text: str, *, where: str, near: str) -> ImageRef | None:
        archive = self._archives.setdefault(path, Archive(path))
        name = os.path.normpath(text).replace(os.sep, "/")
        if name not in archive.names:
            name = self._one(path, text, where=where, near=near) or ""
        return ImageRef(archive.cell(name), key=name, where=where, folder=os.path.abspath(path)) if name else None

    def _by_name(self, text: str, *, where: str, near: str) -> ImageRef | None:
        if self._folder in self._archives or not self._folder.is_dir():
            return None
        name = self._one(self._folder, text, where=where, near=near)
        return image_ref(name, folder=self._folder, where=where) if name else None

    def _one(self, place: Path, text: str, *, where: str, near: str) -> str | None:
        """The only file below `place` that the text can mean. Raises RowError where there are several."""
        if place not in self._names:
            self._names[place] = Names(files_below(self._archives.get(place, place)))
        paths = self._names[place].find(text).paths
        if len(paths) > 1 and near:
            paths = [path for path in paths if path.startswith(f"{near}/")] or paths
        if len(paths) > 1:
            raise RowError(
                f"{where}: picture '{text}' may be {_some(paths)} in '{shown(place)}'. Give the path in the row, "
                "or set data.image_folder to the folder that is meant",
                reason="picture missing",
            )
        if not paths:
            return None
        taker = self._takers.setdefault(f"{place}/{paths[0]}", text)
        if not agree(taker, text) and not is_telling(text):
            raise RowError(
                f"{where}: pictures '{taker}' and '{text}' would both be '{paths[0]}' in '{shown(place)}'. "
                "Put them where their paths say, or set data.image_folder",
                reason="picture missing",
            )
        return paths[0]

    def _missing(self, text: str, *, where: str) -> RowError:
        near = [path for names in self._names.values() for path in names.find(text.replace("\\", "/")).elsewhere]
        hint = f" ({_some(near)} has that name but lies in another folder)" if near else ""
        return RowError(
            f"{where}: picture '{text}' is not in '{shown(self._folder)}'{hint}. "
            "Set data.image_folder to the folder or .zip that holds the pictures",
            reason="picture missing",
        )


def path_text(value: Any) -> str | None:
    """The path, name or key that a cell holds; None for a cell that holds a picture, or nothing of the kind."""
    if isinstance(value, Mapping) and not value.get("bytes") and isinstance(value.get("path"), (str, Path)):
        value = value["path"]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return value if value.strip() else None
    return key_text(value)


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return listed(sorted(paths)[:_SHOWN]) + more
