"""From encoded examples to batches: padding, the rows that are scored, and weights that make accumulation exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np

from mlxtune.images import ImageRef
from mlxtune.packing import shared_rows
from mlxtune.types import Batch, Encoded, Pixels

# Row lengths are rounded up to this, so that a compiled step sees few shapes.
BUCKET = 16


class PictureSource(Protocol):
    """Where a batch gets its pictures from: as pixels for the vision tower, or as features that it gave before.

    ahead: whether `fill` may run in another thread while the backend works.
    """

    ahead: bool

    def tokens(self, image: ImageRef) -> int: ...

    def fill(self, images: Sequence[ImageRef]) -> tuple[tuple[Pixels, ...], np.ndarray | None]: ...


def micro_batches(
    rows: Sequence[Encoded], *, size: int, pad_id: int, pictures: PictureSource, share: int | None = None
) -> Iterator[Batch]:
    """The batches of one optimizer step, at most `size` rows each; the weights sum to 1 over all of them together.

    So every supervised token of the step counts the same, however the rows are cut: 1 x 8, 4 x 2 and 8 x 1 are one step.
    share: rows about the same pictures become one row of up to so many tokens (see `packing`); None: all stay apart.
    """
    total = float(sum(row.weights.sum() for row in rows))
    assert total > 0, "a training row has at least its end token to learn"
    if share is not None:
        rows = shared_rows(rows, max_tokens=share)
    # Rows of like length together need the least padding.
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    for start in range(0, len(ordered), size):
        yield collate(ordered[start : start + size], pad_id=pad_id, pictures=pictures, weight_total=total)


def collate(
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    pictures: PictureSource,
    weight_total: float | None = None,
    pad: Literal["left", "right"] = "right",
) -> Batch:
    """Rows padded to one length.

    weight_total: what the weights are divided by (default: their own sum). pad: right for training; left for generation,
    where every row's last token must stand in the last column; then `score_rows` are those last tokens.
    """
    generating = pad == "left"
    lengths = [len(row.input_ids) for row in rows]
    width = max(lengths) if generating else -(-max(lengths) // BUCKET) * BUCKET
    starts = [width - length if generating else 0 for length in lengths]
    input_ids = np.full((len(rows), width), pad_id, np.int32)
    valid = np.zeros((len(rows), width), bool)
    positions = np.zeros((len(rows[0].positions), len(rows), width), np.int32)
    for b, (row, start, length) in enumerate(zip(rows, starts, lengths, strict=True)):
        input_ids[b, start : start + length] = row.input_ids
        valid[b, start : start + length] = True
        positions[:, b, start : start + length] = row.positions
    score_rows, labels, weights = _last_tokens(rows, width) if generating else _scored(rows, width, weight_total)
    images, image_rows, feature_rows, crossed_rows = _place_pictures(rows, starts, width, pictures)
    pixels, features = pictures.fill(images)
    return Batch(
        input_ids=input_ids,
        positions=positions,
        valid=valid,
        score_rows=score_rows,
        labels=labels,
        weights=weights,
        image_rows=image_rows,
        feature_rows=feature_rows,
        visible=_visible(rows, starts, valid),
        crossed_rows=crossed_rows,
        pixels=pixels,
        features=features,
    )


def _visible(rows: Sequence[Encoded], starts: Sequence[int], valid: np.ndarray) -> np.ndarray | None:
    """Padding on the right needs no mask: what stands before it is causal, and nothing reads what stands on it."""
    if not any(starts) and not any(row.prefix or row.branches is not None for row in rows):
        return None
    width = valid.shape[1]
    # Padding sees itself: a row that sees nothing would be divided by zero.
    visible = np.tril(np.ones((width, width), bool)) & (valid[:, None] | np.eye(width, dtype=bool))
    for b, (row, start) in enumerate(zip(rows, starts, strict=True)):
        visible[b, start : start + row.prefix, start : start + row.prefix] = True
        if row.branches is not None:
            own = slice(start, start + len(row.input_ids))
            visible[b, own, own] &= (row.branches == 0) | (row.branches == row.branches[:, None])
    return visible


def rounded(batch: Batch) -> Batch:
    """The same loss from arrays of few different sizes, for steps that are compiled anew for each: eight for every doubling."""
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


def own_mask(batch: Batch) -> np.ndarray:
    """[B or 1, S, S] bool: who sees whom among the batch's own tokens, written out."""
    width = batch.input_ids.shape[1]
    return np.tril(np.ones((1, width, width), bool)) if batch.visible is None else batch.visible


def _scored(rows: Sequence[Encoded], width: int, weight_total: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    places = [np.flatnonzero(row.weights) for row in rows]  # of the learned tokens; the hidden state before each predicts it
    score_rows = np.concatenate([b * width + place - 1 for b, place in enumerate(places)])
    labels = np.concatenate([row.input_ids[place] for row, place in zip(rows, places, strict=True)])
    weights = np.concatenate([row.weights[place] for row, place in zip(rows, places, strict=True)])
    # Rounded up with rows of no weight, for the same reason as the row length.
    spare = -len(score_rows) % BUCKET
    return (
        np.pad(score_rows, (0, spare)).astype(np.int32),
        np.pad(labels, (0, spare)).astype(np.int32),
        np.pad(weights / (weight_total or weights.sum()), (0, spare)).astype(np.float32),
    )


def _last_tokens(rows: Sequence[Encoded], width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    score_rows = (np.arange(1, len(rows) + 1) * width - 1).astype(np.int32)
    return score_rows, np.zeros(len(rows), np.int32), np.zeros(len(rows), np.float32)


def _place_pictures(
    rows: Sequence[Encoded], starts: Sequence[int], width: int, pictures: PictureSource
) -> tuple[list[ImageRef], np.ndarray, np.ndarray, np.ndarray | None]:
    """Distinct pictures; [M] places of the flattened embeddings; [M] the feature row that belongs there; or, for
    cross-attention, [B, T] the feature rows that each row looks at."""
    offsets: dict[str, int] = {}
    distinct: list[ImageRef] = []
    total = 0
    for image in (image for row in rows for image in row.images):
        if image.identity not in offsets:
            offsets[image.identity] = total
            distinct.append(image)
            total += pictures.tokens(image)
    image_rows = [b * width + starts[b] + row.image_rows for b, row in enumerate(rows)]
    feature_rows = [np.arange(pictures.tokens(i)) + offsets[i.identity] for row in rows for i in row.images]
    none = np.zeros(0, np.int32)
    if any(row.crossed for row in rows):
        assert len(feature_rows) == len(rows), "cross-attention looks at one picture a row"
        return distinct, none, none, np.stack(feature_rows).astype(np.int32)
    places, features = (np.concatenate([*found, none]).astype(np.int32) for found in (image_rows, feature_rows))
    return distinct, places, features, None
