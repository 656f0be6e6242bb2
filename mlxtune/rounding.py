"""Batches of few different sizes, for steps that are compiled anew for each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mlxtune.batching import BUCKET
from mlxtune.types import Batch


def rounded(batch: Batch) -> Batch:
    """The same loss from arrays of few different sizes: eight for every doubling."""
    rows, width = batch.input_ids.shape
    more, scored = _few(width) - width, _few(len(batch.labels)) - len(batch.labels)

    def moved(places: np.ndarray) -> np.ndarray:
        """Places of the flattened rows, in the wider ones."""
        return (places + places // width * more).astype(np.int32)

    visible = batch.visible
    if visible is not None:
        visible = np.pad(visible, [(0, 0), (0, more), (0, more)]) | np.eye(width + more, dtype=bool)
    features = batch.features
    if features is not None:
        features = np.pad(features, [(0, _few(len(features)) - len(features)), (0, 0)])
    return replace(
        batch,
        input_ids=np.pad(batch.input_ids, [(0, 0), (0, more)]),
        positions=np.pad(batch.positions, [(0, 0), (0, 0), (0, more)]),
        valid=np.pad(batch.valid, [(0, 0), (0, more)]),
        score_rows=np.pad(moved(batch.score_rows), (0, scored)),
        labels=np.pad(batch.labels, (0, scored)),
        weights=np.pad(batch.weights, (0, scored)),
        image_rows=moved(batch.image_rows),
        visible=visible,
        features=features,
    )


def _few(size: int) -> int:
    step = max(BUCKET, 1 << max(size.bit_length() - 4, 0))
    return -(-size // step) * step
