"""One pass over the rows of a data set: filter, task, pictures, store. What cannot be used is counted on the way."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.data.base import LookUp, Source, SourceRow
from mlxtune.data.examples import Store, file_bytes
from mlxtune.data.filter import RowFilter
from mlxtune.data.policy import Skipped, SkippedRows, Tally
from mlxtune.errors import RowError
from mlxtune.images import ImageRef, StoredImage
from mlxtune.recipe.spec import RowsSpec
from mlxtune.tasks import get_task
from mlxtune.types import Example

Progress = Callable[[int, int | None], None]  # rows read, rows in all (None = not known)
_REMEMBERED = 1 << 13  # pictures whose check is not made again
_SHORT = 300  # characters of a cell that is a name, not a picture
_EVERY_S = 0.25


@dataclass
class Sink:
    """Where rows go, whichever data set they come from."""

    store: Store = field(default_factory=Store)
    skipped: SkippedRows = field(default_factory=SkippedRows)
    without_picture: dict[str, Counter[str]] = field(default_factory=dict)  # split -> why -> pictures that rows do without
    progress: Progress | None = None
    read: int = 0
    _told: float = 0.0

    def count(self) -> None:
        self.read += 1
        if self.progress and (now := time.monotonic()) - self._told > _EVERY_S:
            self._told = now
            self.progress(self.read, None)

    def finish(self) -> None:
        if self.progress:
            self.progress(self.read, self.read)


class RowReader:
    """Reads splits of one data set into the sink. key: the recipe's name of the data set, such as "data" or "data.mix[0]"."""

    def __init__(self, spec: RowsSpec, *, key: str, source: Source, find: LookUp, sink: Sink, balance: str | None = None) -> None:
        self._spec, self._key, self._source, self._sink, self._balance = spec, key, source, sink, balance
        self._task = get_task(spec.task)
        self._pictures = _Pictures(find, store=sink.store)
        self.values: dict[Any, int] = {}  # of the balanced column, to their codes
        self.columns: tuple[str, ...] = ()

    def read(self, tables: Iterable[str], *, split: str, limit: int | None = None) -> np.ndarray:
        """Numbers of the rows in the store. split: for the list of skipped rows. Reads no further than `limit` rows need.

        Raises DataError where too many rows cannot be used.
        """
        spec = self._spec
        filter_ = RowFilter(spec.filter, key=self._key, name=self._source.name)
        tally = Tally(name=self._source.name, key=self._key, most=spec.max_skipped, text_only=spec.text_only)
        rows: list[int] = []
        stream = chain.from_iterable(self._source.tables[name]() for name in tables)
        while limit is None or len(rows) < limit:
            if (row := next(stream, None)) is None:
                filter_.check()
                break
            self._sink.count()
            if not spec.filter or filter_.accepts(row.values):
                self._take(row, split=split, rows=rows, tally=tally)
        tally.check()
        return np.array(rows, np.int64)

    def _take(self, row: SourceRow, *, split: str, rows: list[int], tally: Tally) -> None:
        self.columns = self.columns or tuple(map(str, row.values))
        self._pictures.turn_to(row)
        try:
            example = self._task.example(row.values, where=row.where, spec=self._spec, find=self._pictures)
        except RowError as error:
            self._sink.skipped.add(Skipped(split, row.where, error.reason, str(error)))
            tally.refuse(error)
            return
        tally.keep()
        if self._pictures.lost:
            self._sink.without_picture.setdefault(split, Counter()).update(self._pictures.lost)
        sizes = [self._pictures.encoded_bytes(image) for image in example.images]
        rows.append(self._sink.store.add(example, where=row.where, picture_bytes=sizes, code=self._code(example, row)))

    def _code(self, example: Example, row: SourceRow) -> int:
        if self._balance is None:
            return -1
        value = example.meta.get(self._balance, row.values.get(self._balance))
        return -1 if value is None else self.values.setdefault(str(value), len(self.values))


class _Pictures:
    """`FindPicture` for one row after the other: checks what is found, and puts pictures aside that cannot be read again from
    where they came.

    lost: why pictures could not be had; a task goes on without them where the recipe says so.
    """

    def __init__(self, find: LookUp, *, store: Store) -> None:
        self._find, self._store = find, store
        self._folder = ""
        self._known: dict[str, tuple[ImageRef, int]] = {}  # identity -> the checked reference, encoded bytes
        self._by_value: dict[tuple[str, str], ImageRef] = {}  # the row's folder, a picture's cell -> the checked reference
        self._last: tuple[bytes, ImageRef | None] = (b"", None)  # tables repeat a picture for each of its questions
        self.lost: list[str] = []

    def turn_to(self, row: SourceRow) -> None:
        self._folder = row.folder
        self.lost.clear()

    def __call__(self, value: Any, *, where: str) -> ImageRef:
        if known := self._seen(value):
            return known.at(where)
        try:
            image = self._checked(value, where=where)
        except RowError as error:
            self.lost.append(error.reason)
            raise
        if isinstance(value, StoredImage):
            self._last = value.content, image
        elif _is_name(value):
            self._by_value[self._folder, value] = image
        return image

    def _seen(self, value: Any) -> ImageRef | None:
        if isinstance(value, StoredImage):
            content, image = self._last
            return image if value.content == content else None
        return self._by_value.get((self._folder, value)) if _is_name(value) else None

    def _checked(self, value: Any, *, where: str) -> ImageRef:
        image = self._find(value, where=where, near=self._folder)
        if known := self._known.get(image.identity):
            return known[0].at(where)
        image.check()
        size = _encoded_bytes(value, image)
        if isinstance(image.source, bytes):
            image = image.kept(self._store.keep(image.source))
        elif not isinstance(image.source, Path) and not callable(image.source):
            image = image.kept(self._store.keep(_png(image)))
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
            self._by_value.clear()
        self._known[image.identity] = image, size
        return image

    def encoded_bytes(self, image: ImageRef) -> int:
        """As `Store.picture_bytes` has it."""
        known = self._known.get(image.identity)
        return known[1] if known else _encoded_bytes(None, image)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) < _SHORT


def _encoded_bytes(value: Any, image: ImageRef) -> int:
    if (size := file_bytes(image)) is not None:
        return size
    if image.folder:
        return 0
    content = value.content if isinstance(value, StoredImage) else image.source
    return -len(content) if isinstance(content, bytes) else 0


def _png(image: ImageRef) -> bytes:
    stream = io.BytesIO()
    image.load().save(stream, "PNG", compress_level=1)
    return stream.getvalue()
