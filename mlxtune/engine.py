"""A loaded model with all that reads for it: processor, backend and the source of its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from mlxtune.backends import load_backend
from mlxtune.backends.base import Backend, Loading
from mlxtune.batching import PictureSource
from mlxtune.errors import DataError
from mlxtune.families import Family, Processor, family_of, load_processor
from mlxtune.features import FeatureStore, FreshPixels
from mlxtune.recipe import ModelSpec
from mlxtune.types import Encoded, Example


@dataclass
class Engine:
    family: Family
    processor: Processor
    backend: Backend
    pictures: PictureSource = field(init=False)

    def __post_init__(self) -> None:
        self.pictures = FreshPixels(self.processor)

    def keep_features(self) -> None:
        """From now on each picture goes through the vision tower once; right only while the tower is frozen."""
        self.pictures = FeatureStore(self.processor, self.backend)


def open_engine(folder: Path, spec: ModelSpec, *, backend: str) -> Engine:
    processor = load_processor(folder, min_pixels=spec.min_pixels, max_pixels=spec.max_pixels)
    loaded = load_backend(backend, folder, Loading(precision=spec.precision, quantize=spec.quantize))
    return Engine(family=family_of(processor.config), processor=processor, backend=loaded)


class EncodedRows:
    """Examples as training rows, encoded when they are asked for; all are tried once at the start, so that no run dies late.

    Errors: DataError that names the first row that cannot be encoded and counts the others.
    """

    def __init__(self, processor: Processor, examples: Sequence[Example], *, max_tokens: int) -> None:
        self._examples = examples
        self._encode = lru_cache(maxsize=4096)(lambda i: processor.encode(examples[i], max_tokens=max_tokens, answer=True))
        refusals = [error for error in map(self._refusal, range(len(examples))) if error is not None]
        if refusals:
            others = f" ({len(refusals) - 1} more of {len(examples)} rows are refused like this one)" if len(refusals) > 1 else ""
            raise DataError(f"{refusals[0]}{others}") from refusals[0]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Encoded:
        return self._encode(int(index))

    def _refusal(self, index: int) -> DataError | None:
        try:
            self[index]
        except DataError as error:
            return error
        return None
