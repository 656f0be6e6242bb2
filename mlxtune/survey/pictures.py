"""What the pictures of a split are: sizes from their headers alone; only a few are decoded, to see whether they show anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from mlxtune.errors import DataError
from mlxtune.images import ImageRef
from mlxtune.survey.counting import Frequent, Spread, digest, frequent, spread

TINY = 32  # pixels of the shorter side; below it a picture is about one patch of the usual vision towers
_FLAT = 4  # levels of 255 that a channel may vary in a picture of one colour
_TOLD = 3  # messages that are kept


@dataclass(frozen=True)
class PictureFacts:
    """sizes: (width, height) -> pictures. tiny, blank: pictures; the first of their keys stand in `*_keys`.

    decoded: how many pictures were looked at for `blank` and `kinds`. problems: the first messages of `unreadable` pictures.
    """

    count: int
    sizes: Mapping[tuple[int, int], int]
    width: Spread | None
    height: Spread | None
    frequent_sizes: Frequent
    shapes: Frequent
    kinds: Frequent
    tiny: int
    tiny_keys: tuple[str, ...]
    decoded: int
    blank: int
    blank_keys: tuple[str, ...]
    unreadable: int
    problems: tuple[str, ...]


class Pictures:
    """Looks at each distinct picture (by key) once. The keys that were seen are all that it holds."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._kinds: Counter[str] = Counter()
        self._tiny: list[str] = []
        self._blank: list[str] = []
        self._problems: list[str] = []
        self._tiny_count = self._blank_count = self._decoded = self._unreadable = 0

    def add(self, image: ImageRef, *, decode: bool) -> None:
        """decode: also look whether it is of one colour."""
        key = digest(image.identity)
        if key in self._seen:
            return
        self._seen.add(key)
        try:
            self._measure(image)
            if decode:
                self._look(image)
        except DataError as error:
            self._unreadable += 1
            if len(self._problems) < _TOLD:
                self._problems.append(str(error))

    def facts(self) -> PictureFacts:
        widths: Counter[int] = Counter()
        heights: Counter[int] = Counter()
        shapes: Counter[str] = Counter()
        names: Counter[str] = Counter()
        for (width, height), number in self._sizes.items():
            widths[width] += number
            heights[height] += number
            shapes[shape(width, height)] += number
            names[f"{width} × {height}"] += number
        return PictureFacts(
            count=len(self._seen),
            sizes=dict(self._sizes),
            width=spread(widths),
            height=spread(heights),
            frequent_sizes=frequent(names, 5),
            shapes=frequent(shapes, 5),
            kinds=frequent(self._kinds, 5),
            tiny=self._tiny_count,
            tiny_keys=tuple(self._tiny),
            decoded=self._decoded,
            blank=self._blank_count,
            blank_keys=tuple(self._blank),
            unreadable=self._unreadable,
            problems=tuple(self._problems),
        )

    def _measure(self, image: ImageRef) -> None:
        size = image.size
        self._sizes[size] += 1
        if min(size) < TINY:
            self._tiny_count += 1
            if len(self._tiny) < _TOLD:
                self._tiny.append(f"{image.key} ({size[0]} × {size[1]})")

    def _look(self, image: ImageRef) -> None:
        lows_highs = image.load().getextrema()
        self._kinds[_kind(image)] += 1
        self._decoded += 1
        if all(high - low <= _FLAT for low, high in lows_highs):
            self._blank_count += 1
            if len(self._blank) < _TOLD:
                self._blank.append(image.key)


def shape(width: int, height: int) -> str:
    """A picture's form in a word: square within 10 %, wide and tall beyond 2 : 1."""
    ratio = width / height
    if ratio > 2 or ratio < 0.5:
        return "wide, over 2:1" if ratio > 2 else "tall, over 1:2"
    if 1 / 1.1 <= ratio <= 1.1:
        return "square"
    return "landscape" if ratio > 1 else "portrait"


def _kind(image: ImageRef) -> str:
    """Format and colour mode as stored, "PNG, RGBA"."""
    with image._open() as opened:
        return f"{opened.format or 'opened'}, {opened.mode}"
