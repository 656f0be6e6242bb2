"""Pictures for batches: fresh pixels, or features that a frozen vision tower computed once.

The store keeps features in memory up to a limit and forgets the least recently used ones; a forgotten picture is
computed again. Features are kept as float32, which holds every value of the towers' own precisions exactly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from mlxtune.backends.base import Backend
from mlxtune.families import Processor
from mlxtune.images import ImageRef
from mlxtune.types import Pixels

DEFAULT_BYTES = 2 << 30
# Pictures that go through the vision tower at once: bounds the memory of the pass.
CHUNK = 16


class FreshPixels:
    """Every batch carries its pixels, and the step runs the vision tower."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def tokens(self, image: ImageRef) -> int:
        return self._processor.image_tokens(self._processor.grid(image.size))

    def fill(self, images: Sequence[ImageRef]) -> tuple[tuple[Pixels, ...], np.ndarray | None]:
        return tuple(self._processor.pixels(image) for image in images), None


class FeatureStore(FreshPixels):
    """Batches carry features instead of pixels; right only while vision tower and projector are frozen."""

    def __init__(self, processor: Processor, backend: Backend, *, max_bytes: int = DEFAULT_BYTES) -> None:
        super().__init__(processor)
        self._backend = backend
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0

    def fill(self, images: Sequence[ImageRef]) -> tuple[tuple[Pixels, ...], np.ndarray | None]:
        if not images:
            return (), None
        keys = [self._processor.pixel_key(image) for image in images]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        missing = [image for image, key in zip(images, keys, strict=True) if key not in found]
        for start in range(0, len(missing), CHUNK):
            pixels = [self._processor.pixels(image) for image in missing[start : start + CHUNK]]
            for picture, features in zip(pixels, self._backend.vision_features(pixels), strict=True):
                found[picture.key] = features
        for key in keys:
            self._keep(key, found[key])
        return (), np.concatenate([found[key] for key in keys])

    def _keep(self, key: str, features: np.ndarray) -> None:
        if key not in self._kept:
            self._bytes += features.nbytes
        self._kept[key] = features
        self._kept.move_to_end(key)
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
