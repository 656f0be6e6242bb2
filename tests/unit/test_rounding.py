"""Batches of few sizes, for compiled steps, say the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlxtune.batching import BUCKET, collate
from mlxtune.rounding import rounded
from tests.unit.test_batching import PAD, Pictures, row


@pytest.mark.parametrize("axes", [1, 3])
def test_rounded_batches_say_the_same_in_few_sizes(axes: int) -> None:
    batch = collate(
        [row("1", prompt=70, answer=40, pictures=["wide"], axes=axes), row("2", prompt=530, answer=3, axes=axes)],
        pad_id=PAD,
        pictures=Pictures(),
    )
    batch = replace(batch, visible=np.tril(np.ones((2, *[batch.input_ids.shape[1]] * 2), bool)))
    wide = rounded(batch)
    size = batch.input_ids.shape[1]
    assert wide.input_ids.shape[1] > size and wide.input_ids.shape[1] % 16 == 0
    np.testing.assert_array_equal(wide.input_ids[:, :size], batch.input_ids)
    np.testing.assert_array_equal(wide.positions[..., :size], batch.positions)
    count = len(batch.labels)
    np.testing.assert_array_equal(wide.input_ids.ravel()[wide.score_rows[:count]], batch.input_ids.ravel()[batch.score_rows])
    np.testing.assert_array_equal(wide.input_ids.ravel()[wide.image_rows], batch.input_ids.ravel()[batch.image_rows])
    np.testing.assert_array_equal(wide.features[: len(batch.features)], batch.features)
    np.testing.assert_array_equal(wide.visible[:, :size, :size], batch.visible)
    assert wide.visible.any(-1).all(), "a row that sees nothing would be divided by zero"
    assert not wide.visible[:, :size, size:].any()
    assert wide.weights.sum() == pytest.approx(batch.weights.sum()) and not wide.weights[count:].any()


def test_rounded_batches_have_eight_sizes_for_every_doubling() -> None:
    widths = {
        rounded(collate([row("1", prompt=length, answer=2)], pad_id=PAD, pictures=Pictures())).input_ids.shape[1]
        for length in range(520, 1022)
    }
    assert len(widths) <= 8
    assert all(width <= length * 1.13 + BUCKET for length in (520, 777) for width in [min(w for w in widths if w >= length)])
