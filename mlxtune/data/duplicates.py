"""Pictures that are the same under different names, rows that belong together, and pictures that two splits share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlxtune.data.examples import Examples, Store
from mlxtune.images import ImageRef

_TAIL = 4096  # bytes; files of one size that differ nearly always differ here


class Shared(NamedTuple):
    """Pictures that are in two splits: how many, and one of them as each split calls it."""

    count: int
    first: str
    second: str


def equal_pictures(store: Store, rows: np.ndarray) -> dict[int, int]:
    """Pictures of these rows with equal content under different names: the hash of a key to the smallest hash that equals it.

    Only files of equal size are read, and of those only what tells them apart; other pictures are named by their content.
    """
    places, found = store.pictures_of(rows)
    keys, first = np.unique(np.array(store.picture_keys)[found], return_index=True)
    sizes = np.array(store.picture_bytes)[found][first]
    files = [_File(int(sizes[at]), int(keys[at]), int(rows[places[first[at]]])) for at in _of_repeated_size(sizes)]
    equal: dict[int, int] = {}
    for same_size in _alike(files, lambda file: abs(file.size)):
        plain = all(isinstance(file.picture(store).source, Path) for file in same_size)
        for same_tail in [same_size] if not plain else _alike(same_size, lambda file: file.tail(store)):
            for same in _alike(same_tail, lambda file: file.picture(store).digest()):
                least = min(file.key for file in same)
                equal |= {file.key: least for file in same}
    return equal


class _File(NamedTuple):
    size: int  # bytes, negative where the picture is named by its content
    key: int
    row: int

    def picture(self, store: Store) -> ImageRef:
        return next(image for image in store.example(self.row).images if store.picture_hash(image) == self.key)

    def tail(self, store: Store) -> bytes:
        """Tells files of one size apart without reading all of them."""
        source = self.picture(store).source
        assert isinstance(source, Path)
        with source.open("rb") as file:
            file.seek(max(0, self.size - _TAIL))
            return hashlib.sha256(file.read()).digest()


def _of_repeated_size(sizes: np.ndarray) -> np.ndarray:
    """Places of the sizes that come several times, at least once as a file's: contents alone have told already."""
    values, inverse, counts = np.unique(np.abs(sizes), return_inverse=True, return_counts=True)
    has_file = np.zeros(len(values), bool)
    has_file[inverse[sizes > 0]] = True
    return np.flatnonzero((counts > 1)[inverse] & has_file[inverse])


def linked(store: Store, rows: np.ndarray, equal: Mapping[int, int]) -> np.ndarray:
    """[N] uint64: for each row the name of its group. Rows that share a picture or a link, directly or through others, are of
    one group; the smallest hash names it, whatever the order of rows."""
    parent: dict[int, int] = {}

    def root(key: int) -> int:
        while (above := parent.get(key, key)) != key:
            key = above
        return key

    places, found = store.pictures_of(rows)
    keys, links = np.array(store.picture_keys)[found], np.array(store.links)[rows]
    names = links.copy()
    names[places] = keys  # of several pictures the last; the others are joined to it below
    several = np.bincount(places, minlength=len(rows))[places] > 1
    pairs = [*zip(names[places[several]].tolist(), keys[several].tolist(), strict=True), *equal.items()]
    pairs += [(name, link) for name, link in zip(names.tolist(), links.tolist(), strict=True) if link and link != name]
    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return np.array([root(name) for name in names.tolist()], np.uint64)


def shared_pictures(one: Examples, other: Examples, equal: Mapping[int, int]) -> Shared | None:
    """The pictures that both show; None where there are none. Both must lie in one store."""
    ours, our_first = _shown(one, equal)
    theirs, their_first = _shown(other, equal)
    both, at, there = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
    if not len(both):
        return None
    pick = int(np.argmin(our_first[at]))
    key = int(both[pick])
    first, second = _name(one, our_first[at][pick], key, equal), _name(other, their_first[there][pick], key, equal)
    return Shared(len(both), first, second)


def _shown(examples: Examples, equal: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of the pictures, equal ones as one; place of the first row with each)."""
    places, found = examples.store.pictures_of(examples.rows)
    keys = np.array(examples.store.picture_keys)[found]
    if equal:
        keys = np.array([equal.get(key, key) for key in keys.tolist()], np.uint64)
    unique, first = np.unique(keys, return_index=True)
    return unique, places[first]


def _name(examples: Examples, place: int, key: int, equal: Mapping[int, int]) -> str:
    hashes = {image.key: examples.store.picture_hash(image) for image in examples[int(place)].images}
    return next(name for name, hashed in hashes.items() if equal.get(hashed, hashed) == key)


def _alike(items: Iterable[Any], mark: Callable[[Any], Any]) -> list[list[Any]]:
    """Items of equal mark, where there are several."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(mark(item), []).append(item)
    return [group for group in groups.values() if len(group) > 1]
