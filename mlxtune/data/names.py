"""Finding a picture by what a row calls it, where it is not at exactly that path."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from mlxtune.data.picture_files import PICTURE_SUFFIXES

_COCO = re.compile(r"coco_[a-z]+\d{4}_(?=\d{12}$)")  # 2014 names have it, those of 2017 do not
_TELLING = re.compile(r"\d{9,}|[0-9a-f]{16,}|[0-9a-f]{8}-[0-9a-f]{4}-")  # as in COCO, Flickr, OpenImages, GUIDs


class Found(NamedTuple):
    """paths: one if the picture is found, several if the name may mean any of them. elsewhere: of that name, in other folders."""

    paths: list[str]
    elsewhere: list[str]


class Names:
    """Relative paths of files, by name. Case, Unicode form and a picture's suffix may differ if only one file is meant.

    Folders must not contradict: "coco/train2014/a.jpg" is "train2014/a.jpg" and the other way round, "red/0.png" never is
    "blue/0.png". The exception are names with a long number or hash, which mean one picture wherever it lies.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_stem: dict[str, list[str]] = {}
        for path in paths:
            self._by_stem.setdefault(_stem(path), []).append(path)

    def find(self, text: str) -> Found:
        """text: a path, a name or a name without suffix."""
        same = self._by_stem.get(_stem(text), [])
        aligned = [path for path in same if agree(path, text)]
        if not aligned and is_telling(text):
            aligned = same
        if len(aligned) > 1:
            ranks = [(_likeness(path, text), _overlap(path, text)) for path in aligned]
            aligned = [path for path, rank in zip(aligned, ranks, strict=True) if rank == max(ranks)]
        return Found(aligned, [path for path in same if path not in aligned])


def is_telling(text: str) -> bool:
    """Whether the name alone means one picture."""
    return bool(_TELLING.search(_stem(text)))


def agree(one: str, other: str) -> bool:
    """Whether the folders of one path are the last folders of the other."""
    return _overlap(one, other) == min(len(_folders(one)), len(_folders(other)))


def _overlap(one: str, other: str) -> int:
    pairs = zip(reversed(_folders(one)), reversed(_folders(other)), strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(_folders(one)), len(_folders(other))))


def _likeness(path: str, text: str) -> int:
    one, other = path.rpartition("/")[2], text.rpartition("/")[2]
    return (one == other) + (_plain(one) == _plain(other)) + (_without_suffix(_plain(one)) == _without_suffix(_plain(other)))


def _folders(path: str) -> list[str]:
    return [part for part in _plain(path).split("/")[:-1] if part not in ("", ".")]


def _stem(path: str) -> str:
    return _COCO.sub("", _without_suffix(_plain(path.rpartition("/")[2])))


def _without_suffix(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in PICTURE_SUFFIXES if name.endswith(suffix)), name)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
