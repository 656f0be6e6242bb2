"""A loaded model with all that reads for it: processor, backend and the source of its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from mlxtune.backends import load_backend
from mlxtune.backends.base import Backend, Loading
from mlxtune.batching import PictureSource
from mlxtune.errors import DataError
from mlxtune.events import LookProgress, Observer, Phase
from mlxtune.families import Family, Processor, load_processor
from mlxtune.feature_files import FeatureFiles, default_folder
from mlxtune.features import FeatureStore, FreshPixels, InMemory, Kept
from mlxtune.images import ImageRef
from mlxtune.process import spared_imports
from mlxtune.recipe import ModelSpec
from mlxtune.types import Encoded, Example
from mlxtune.vision_weights import features_name

_KEPT = 1024  # encoded rows, for later epochs: 8 kB for 300 tokens, and a millisecond to make again
_TRIED = 4


@dataclass
class Engine:
    family: Family
    processor: Processor
    backend: Backend
    folder: Path | None = None  # of the weights; None where features are kept in memory alone
    shares_prefixes: bool = True  # whether questions about one picture share its tokens
    pictures: PictureSource = field(init=False)

    def __post_init__(self) -> None:
        self.pictures = FreshPixels(self.processor)

    def keep_features(self, *, disk_bytes: int | None = None) -> None:
        """From now on each picture goes through the vision tower once; right only while the tower is frozen.

        disk_bytes: most that the store on disk may hold, shared with other runs; None: memory, for this run alone.
        """
        kept: Kept = InMemory()
        if disk_bytes is not None and self.folder is not None:
            about = {"backend": self.backend.name, "precision": self.backend.precision}
            name = features_name(self.folder, self.processor, **about)
            kept = FeatureFiles(default_folder(), model=name, precision=self.backend.precision, max_bytes=disk_bytes)
        self.pictures = FeatureStore(self.processor, self.backend, kept=kept)

    def look_at(self, images: Iterable[ImageRef], *, phase: Phase, observe: Observer) -> None:
        """Where features are kept: sends all these pictures through the tower that have not been there, in one pass.

        Behind it the tower leaves the device's memory.
        """
        if isinstance(self.pictures, FeatureStore):
            self.pictures.look_at(images, progress=lambda done, total: observe(LookProgress(phase, done, total)))
            self.backend.rest_vision()


def open_engine(folder: Path, spec: ModelSpec, *, backend: str) -> Engine:
    with spared_imports(backend):
        processor = load_processor(folder, min_pixels=spec.min_pixels, max_pixels=spec.max_pixels)
        loaded = load_backend(backend, folder, Loading(precision=spec.precision, quantize=spec.quantize))
    return Engine(family=processor.family, processor=processor, backend=loaded, folder=folder)


class EncodedRows:
    """Examples as training rows, encoded when they are asked for. Rows that may be refused are tried at the start, so that no
    run dies late; for most of them a look at their length is enough.

    Errors: DataError that names the first row that cannot be encoded and counts the others.
    """

    def __init__(self, processor: Processor, examples: Sequence[Example], *, max_tokens: int) -> None:
        self.examples = examples
        self._processor, self._max_tokens = processor, max_tokens
        self._encode = lru_cache(maxsize=_KEPT)(lambda i: processor.encode(examples[i], max_tokens=max_tokens, answer=True))
        numbers: dict[tuple[str, ...], int] = {}
        self.pictures = np.empty(len(examples), np.int64)  # the same number for rows about the same pictures
        refusals = []
        for index, example in enumerate(examples):
            shown = tuple(image.identity for image in example.images)
            self.pictures[index] = numbers.setdefault(shown, len(numbers)) if shown else -1 - index
            refusals += [error] if (error := self._refusal(index, example)) else []
        if refusals:
            others = f" ({len(refusals) - 1} more of {len(examples)} rows are refused like this one)" if len(refusals) > 1 else ""
            raise DataError(f"{refusals[0]}{others}") from refusals[0]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Encoded:
        return self._encode(int(index))

    def _refusal(self, index: int, example: Example) -> DataError | None:
        try:
            # The first rows in any case: a template that refuses all of them is found here.
            if index < _TRIED or not self._processor.surely_fits(example, max_tokens=self._max_tokens):
                self[index]
        except DataError as error:
            return error
        return None
