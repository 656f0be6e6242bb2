"""The folder of pictures: what is in it, who is on it, and the bytes that a captioner gets."""

from __future__ import annotations

import hashlib
import io
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mlxtune.data.picture_files import PICTURE_SUFFIXES, files_below
from mlxtune.errors import DataError
from mlxtune.images import image_ref

_NO_PICTURES = (".json", ".jsonl", ".csv", ".txt", ".md", ".yaml", ".yml")  # what usually lies beside pictures
_QUALITY = 90


@dataclass(frozen=True)
class Picture:
    """One content in one class. path: the first file that holds it."""

    path: Path
    sha256: str  # hex, of the file's bytes
    entity: str  # the class: the folder below the pictures' folder


@dataclass(frozen=True)
class Folder:
    """What was found. left_out: suffixes of files that are no picture we read, with their number."""

    pictures: tuple[Picture, ...]
    duplicates: int = 0  # files whose content is another file's of the same class
    left_out: Mapping[str, int] = field(default_factory=dict)
    shared: tuple[tuple[Path, Path], ...] = ()  # the same content in two classes

    @property
    def classes(self) -> list[str]:
        return sorted({picture.entity for picture in self.pictures})


def scan(folder: Path) -> Folder:
    """Every picture below `folder`, in the order of their paths; each file is read once, for its hash.

    Raises DataError where the folder is missing, holds no picture, or holds pictures outside of class folders.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give the folder that holds one folder of pictures per class")
    known: dict[tuple[str, str], Picture] = {}
    classes: dict[str, Picture] = {}
    duplicates, left_out, shared = 0, Counter[str](), []
    for path in (folder / name for name in sorted(files_below(folder))):
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            left_out[path.suffix.lower()] += path.suffix.lower() not in _NO_PICTURES
            continue
        picture = Picture(path, _digest(path), _class_of(path, folder))
        if (key := (picture.sha256, picture.entity)) in known:
            duplicates += 1
            continue
        if (other := classes.setdefault(picture.sha256, picture)) is not picture:
            shared.append((other.path, path))
        known[key] = picture
    if not known:
        raise DataError(f"{folder}: holds no picture ({', '.join(PICTURE_SUFFIXES)}). Put them into one folder per class")
    return Folder(tuple(known.values()), duplicates, {suffix: n for suffix, n in left_out.items() if n}, tuple(shared))


def to_send(path: Path, *, longest_side: int) -> bytes:
    """The picture as a JPEG: upright, RGB over white, without its EXIF (where it was taken is nobody's business), and no
    side longer than `longest_side` pixels. Raises DataError where it cannot be read."""
    image = image_ref(path).load()
    if max(image.size) > longest_side:
        image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def _class_of(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).parts
    if len(parts) < 2:
        raise DataError(
            f"{path}: lies in no class folder, so nobody can tell who is on it. Move it to {folder}/<class>/, "
            "and give the folder that holds the class folders"
        )
    # macOS hands out "й" as two characters; a names file that a person typed has one.
    return unicodedata.normalize("NFC", parts[0])


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Check its permissions") from error
