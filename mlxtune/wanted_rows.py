"""The tokens of a batch whose hidden states are wanted: those with a label, or the last of each prompt."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np

from mlxtune.batching import BUCKET


class WantedRows(NamedTuple):
    """The last layer asks for no others, and ends for them alone. int32 arrays of numpy, or of a backend."""

    places: Any  # [N], of the flattened [B * S]
    queries: Any  # [B, M], the same one row of the batch after another, filled up with the row's first
    back: Any  # [N]; where each of `places` stands in the flattened [B * M]

    @classmethod
    def of(cls, places: np.ndarray, *, batch: int, width: int) -> Self:
        """places: [N] of the flattened [batch * width], in any order, more than once where a batch is filled up."""
        row = places // width
        counts = np.bincount(row, minlength=batch)
        most = max(-(-counts.max() // BUCKET), 1) * BUCKET  # a step that is compiled is so anew for each
        order = np.argsort(row, kind="stable")
        nth = np.empty_like(order)
        nth[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        queries = np.repeat(np.arange(batch)[:, None] * width, most, axis=1)
        queries[row, nth] = places
        return cls(*(array.astype(np.int32) for array in (places, queries, row * most + nth)))

    @classmethod
    def last_of_each(cls, batch: int, width: int) -> Self:
        """Each row's last token."""
        return cls.of(np.arange(width - 1, batch * width, width), batch=batch, width=width)
