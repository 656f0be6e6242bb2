"""Counts that stay small however many rows go by: how long things are, and what comes most often."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

_ROOM = 20_000  # distinct values that a Tally holds at once
_KEPT = 300  # characters of a value that are kept to show it


class Spread(NamedTuple):
    """How large something is over many rows; each number is one that occurs (nearest rank)."""

    least: int
    median: int
    p95: int
    most: int


class Share(NamedTuple):
    value: str
    count: int
    share: float  # of all values counted, 0 to 1


class Frequent(NamedTuple):
    """The most frequent values first. distinct: how many there are, None where they were too many to hold.

    Where `distinct` is None the counts are lower bounds; a value of a few per cent is still found.
    """

    values: tuple[Share, ...]
    distinct: int | None
    total: int

    @property
    def has_groups(self) -> bool:
        """Whether some value comes again, as far as they could be held."""
        return self.distinct is not None and self.distinct < self.total


def spread(histogram: Mapping[int, int]) -> Spread | None:
    """histogram: size -> how often. None where nothing was counted."""
    if not histogram:
        return None
    sizes = sorted(histogram)
    upto = np.cumsum([histogram[size] for size in sizes])
    ranks = [max(1, -(-int(upto[-1]) * percent // 100)) for percent in (50, 95)]
    median, p95 = (sizes[int(np.searchsorted(upto, rank))] for rank in ranks)
    return Spread(sizes[0], median, p95, sizes[-1])


class Tally:
    """Counts texts in bounded memory: at most `room` distinct ones; when they are more, the rarest are forgotten."""

    def __init__(self, *, room: int = _ROOM) -> None:
        self._room = room
        self._counts: dict[bytes, int] = {}
        self._texts: dict[bytes, str] = {}
        self._forgot = False
        self.total = 0

    def add(self, text: str, *, times: int = 1) -> None:
        key = digest(text)
        if key not in self._counts and len(self._counts) >= self._room:
            self._forget()
        self._counts[key] = self._counts.get(key, 0) + times
        self._texts.setdefault(key, text[:_KEPT])
        self.total += times

    def frequent(self, number: int) -> Frequent:
        best = sorted(self._counts.items(), key=lambda item: (-item[1], self._texts[item[0]]))[:number]
        values = tuple(Share(self._texts[key], count, count / self.total) for key, count in best)
        return Frequent(values, None if self._forgot else len(self._counts), self.total)

    def _forget(self) -> None:
        # Half of the places at once: one by one, a column of all different texts would be sorted at every row.
        rarest = sorted(self._counts, key=self._counts.__getitem__)[: max(1, self._room // 2)]
        for key in rarest:
            del self._counts[key], self._texts[key]
        self._forgot = True


class Seen:
    """A set of keys at eight bytes each, counted at the end."""

    def __init__(self) -> None:
        self._keys = array("Q")

    def add(self, *parts: str) -> None:
        self._keys.append(int.from_bytes(digest(*parts), "little"))

    @property
    def distinct(self) -> np.ndarray:  # [N] uint64, sorted
        return np.unique(np.frombuffer(self._keys, np.uint64)) if self._keys else np.empty(0, np.uint64)

    @property
    def repeated(self) -> int:
        """How many of the keys had come before."""
        return len(self._keys) - len(self.distinct)


def digest(*parts: str) -> bytes:
    """Eight bytes that stand for texts; equal for 100,000 different ones with a chance below one in a billion."""
    known = hashlib.blake2b(digest_size=8)
    for part in parts:
        known.update(part.encode("utf-8", "surrogatepass") + b"\x00")
    return known.digest()


def frequent(counts: Counter[str], number: int) -> Frequent:
    """The same for few values that were counted exactly."""
    total = sum(counts.values())
    best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]
    return Frequent(tuple(Share(value, count, count / total) for value, count in best), len(counts), total)
