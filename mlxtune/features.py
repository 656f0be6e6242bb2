"""Pictures for batches: fresh pixels, or features that a frozen vision tower computed once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import numpy as np

from mlxtune.backends.base import Backend
from mlxtune.families import Processor
from mlxtune.images import ImageRef
from mlxtune.types import Pixels

DEFAULT_BYTES = 2 << 30
# Pixels that go through the vision tower at once, as its processor gives them: bounds the memory of the pass. On MLX's CPU,
# four times as many took a tenth longer, since less of them stays in its caches; torch's takes either.
CHUNK_BYTES = 4 << 20
_READERS = 2  # threads that decode and resize the next pictures meanwhile
_AHEAD = 8  # pictures that wait for the tower


class FreshPixels:
    """Every batch carries its pixels, and the step runs the vision tower.

    ahead: whether batches may be filled in another thread while the backend works: pixels need no backend.
    """

    ahead = True

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def tokens(self, image: ImageRef) -> int:
        return self._processor.image_tokens(self._processor.grid(image.size))

    def fill(self, images: Sequence[ImageRef]) -> tuple[tuple[Pixels, ...], np.ndarray | None]:
        return tuple(self._processor.pixels(image) for image in images), None


class Kept(Protocol):
    """Where features are kept: `FeatureFiles`, or memory."""

    def get(self, key: str) -> np.ndarray | None: ...

    def holds(self, key: str) -> bool:
        """Whether `get` would find something; counts as a use."""

    def put(self, key: str, features: np.ndarray) -> None: ...


class InMemory:
    """Up to a limit, least recently used first out; the newest always stays. float32 holds the towers' own precisions exactly."""

    def __init__(self, *, max_bytes: int = DEFAULT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> np.ndarray | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def holds(self, key: str) -> bool:
        return self.get(key) is not None

    def put(self, key: str, features: np.ndarray) -> None:
        if key not in self._kept:
            self._bytes += features.nbytes
        self._kept[key] = features
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


class FeatureStore(FreshPixels):
    """Batches carry features instead of pixels; right only while vision tower and projector are frozen.

    A picture that is not kept goes through the tower: all at once in `look_at`, or when a batch asks for it.
    """

    ahead = False

    def __init__(self, processor: Processor, backend: Backend, *, kept: Kept) -> None:
        super().__init__(processor)
        self._backend = backend
        self._kept = kept

    def look_at(self, images: Iterable[ImageRef], *, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Computes and keeps the features of all pictures that are not kept yet, each once, those of one shape together.

        progress: told (done, in all) at the start and after each chunk, if there is anything to do.
        """
        # Many questions are about one picture, and its key is a hash of the whole file.
        distinct = {image.identity: image for image in images}
        missing = {key: image for image in distinct.values() if not self._kept.holds(key := self._key(image))}
        # Like shapes together need no padding, and compiled towers see few shapes.
        ordered = sorted(missing.values(), key=lambda image: self._processor.grid(image.size))
        done = 0
        if ordered:
            progress(0, len(ordered))
        for chunk in self._read_ahead(ordered):
            for image, features in chunk:
                self._kept.put(self._key(image), features)
            done += len(chunk)
            progress(done, len(ordered))

    def fill(self, images: Sequence[ImageRef]) -> tuple[tuple[Pixels, ...], np.ndarray | None]:
        if not images:
            return (), None
        keys = [self._key(image) for image in images]
        found = {key: features for key in keys if (features := self._kept.get(key)) is not None}
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        for chunk in self._read_ahead(list(missing.values())):
            for image, features in chunk:
                found[self._key(image)] = features
                self._kept.put(self._key(image), features)
        return (), np.concatenate([found[key] for key in keys])

    def _key(self, image: ImageRef) -> str:
        """Content and size in tokens; what else decides the features is the same for all of one store."""
        grid = "x".join(map(str, self._processor.grid(image.size)))
        return hashlib.sha256(f"{image.digest()}@{grid}".encode()).hexdigest()[:40]

    def _read_ahead(self, images: Sequence[ImageRef]) -> Iterator[list[tuple[ImageRef, np.ndarray]]]:
        """(picture, features) in chunks; while the tower works on one, the next is decoded and resized."""
        if len(images) == 1:
            yield self._computed(images, [self._processor.pixels(images[0])])
            return
        rest, lanes = iter(images), self._backend.vision_lanes
        with ThreadPoolExecutor(_READERS) as pool:
            reading = deque((image, pool.submit(self._processor.pixels, image)) for image in islice(rest, _AHEAD))
            chunk: list[tuple[ImageRef, Pixels]] = []
            while reading:
                image, pixels = reading.popleft()
                reading.extend((image, pool.submit(self._processor.pixels, image)) for image in islice(rest, 1))
                chunk.append((image, pixels.result()))
                full = len(chunk) >= lanes and sum(pixels.values.nbytes for _, pixels in chunk) >= CHUNK_BYTES
                if full or not reading:
                    yield self._computed(*zip(*chunk, strict=True))
                    chunk = []

    def _computed(self, images: Sequence[ImageRef], pixels: Sequence[Pixels]) -> list[tuple[ImageRef, np.ndarray]]:
        return list(zip(images, self._backend.vision_features(pixels), strict=True))
