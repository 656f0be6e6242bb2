"""Folders of pictures without a file of rows: the names of their folders say split and class."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mlxtune.data.archives import Archive, is_hidden
from mlxtune.data.base import ALL, SPLIT_NAMES, SourceRow, Table

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2")
# Phones write it, Pillow cannot read it: a row for each, refused by name. Passed over in silence, half a folder may be missing.
_FOREIGN_SUFFIXES = (".heic", ".heif")


def picture_files(place: Path | Archive, *, first: bool = False) -> list[str]:
    """Paths of all pictures below a folder or in an archive, relative to it and sorted; only one of them with `first`."""
    found = (name for name in files_below(place) if name.lower().endswith(PICTURE_SUFFIXES + _FOREIGN_SUFFIXES))
    return [name for name, _ in zip(found, range(1), strict=False)] if first else sorted(found)


def files_below(place: Path | Archive) -> Iterator[str]:
    """Relative paths ("a/b.png") of all files that are not hidden; links to folders are followed, once each."""
    if isinstance(place, Archive):
        yield from place.names
        return
    seen = set()
    for folder, folders, files in os.walk(place, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link back to a folder above would go round for ever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        below = os.path.relpath(folder, place).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        yield from (prefix + name for name in files if not is_hidden(name))


def picture_tables(paths: Sequence[str], *, shown: str) -> dict[str, Table]:
    """Tables of rows {"image", "file_name", "class"}; pictures outside of class folders have no "class".

    Folders are splits only where all of them have a split's name: "train" may be a class beside "car".
    """
    root = _root(paths)
    below = [path[len(root) :] for path in paths]
    tops = {path.partition("/")[0] if "/" in path else "" for path in below}
    if not tops <= set(SPLIT_NAMES):
        return {ALL: partial(_rows, tuple(paths), root, shown)}
    groups: dict[str, list[str]] = {}
    for path, inner in zip(paths, below, strict=True):
        groups.setdefault(inner.partition("/")[0], []).append(path)
    return {split: partial(_rows, tuple(group), f"{root}{split}/", shown) for split, group in groups.items()}


def joined(values: Mapping[str, Any], *, folder: str) -> Mapping[str, Any]:
    """A row of metadata.jsonl or metadata.csv with the pictures that `file_name`, `x_file_name`, `file_names` name as columns
    "image", "x", "images". folder: where the metadata lies below the folder of the pictures."""
    row = dict(values)
    for name, value in values.items():
        if name == "file_name" or name.endswith("_file_name"):
            row.setdefault(name.removesuffix("file_name").removesuffix("_") or "image", _below(folder, value))
        elif (name == "file_names" or name.endswith("_file_names")) and isinstance(value, list):
            row.setdefault(
                name.removesuffix("file_names").removesuffix("_") or "images", [_below(folder, item) for item in value]
            )
    if isinstance(file_name := values.get("file_name"), str) and "/" in file_name:
        row.setdefault("class", _class(file_name))
    return row


def _below(folder: str, value: Any) -> Any:
    return f"{folder}/{value}" if isinstance(value, str) and value and folder else value


def _rows(paths: Sequence[str], root: str, shown: str) -> Iterator[SourceRow]:
    for path in paths:
        values = {"image": path, "file_name": path.rpartition("/")[2]}
        if "/" in path[len(root) :]:
            values["class"] = _class(path[len(root) :])
        yield SourceRow(f"{shown}/{path}", values)


def _class(path: str) -> str:
    # macOS hands out "й" as two characters; a file of names that a person typed has one.
    return unicodedata.normalize("NFC", path.partition("/")[0])


def _root(paths: Sequence[str]) -> str:
    """What every path starts with and says nothing: a lonely folder that holds folders alone, as "images/" above the classes."""
    root = ""
    while True:
        below = [path[len(root) :].split("/") for path in paths]
        if any(len(parts) < 3 for parts in below) or len({parts[0] for parts in below}) > 1 or below[0][0] in SPLIT_NAMES:
            return root
        root += f"{below[0][0]}/"
