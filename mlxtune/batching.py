"""From encoded examples to batches: padding, the rows that are scored, and weights that make accumulation exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from mlxtune.images import ImageRef
from mlxtune.packing import end_to_end, length_of, shared_rows
from mlxtune.types import Batch, Encoded, Pixels

# Row lengths are rounded up to this, so that a compiled step sees few shapes.
BUCKET = 16
_WORTH_A_MASK = 0.95  # of the tokens


Lanes = Sequence[Sequence[Encoded]]  # the rows of a batch: in each, one encoded row or several, one behind the other


class PictureSource(Protocol):
    """Where a batch gets its pictures from: as pixels for the vision tower, or as features that it gave before.

    ahead: whether `fill` may run in another thread while the backend works.
    """

    ahead: bool

    def tokens(self, image: ImageRef) -> int: ...

    def fill(self, images: Sequence[ImageRef]) -> tuple[tuple[Pixels, ...], np.ndarray | None]: ...


class _Place(NamedTuple):
    """Where a row stands in a batch."""

    row: Encoded
    lane: int  # of the first axis of `Batch.input_ids`
    start: int  # of its tokens in that lane

    @property
    def own(self) -> slice:
        return slice(self.start, self.start + len(self.row.input_ids))


def micro_batches(
    rows: Sequence[Encoded],
    *,
    size: int,
    pad_id: int,
    pictures: PictureSource,
    share: int | None = None,
    fill: bool = False,
) -> Iterator[Batch]:
    """The batches of one optimizer step, at most `size` rows each; the weights sum to 1 over all of them together.

    So every supervised token of the step counts the same, however the rows are cut: 1 x 8, 4 x 2 and 8 x 1 are one step.
    share: rows about the same pictures become one row of up to so many tokens (see `packing`); None: all stay apart.
    fill: short rows stand end to end, none seeing another, where that leaves less padding; no batch becomes larger for it than
    `size` times the longest row.
    """
    total = float(sum(row.weights.sum() for row in rows))
    assert total > 0, "a training row has at least its end token to learn"
    if share is not None:
        rows = shared_rows(rows, max_tokens=share)
    batches = _cut([[row] for row in rows], size)
    if fill:
        filled = _cut(end_to_end(rows), size)
        # Rows that stand alone need no mask, so a few tokens less would not pay.
        if _tokens(filled) < _WORTH_A_MASK * _tokens(batches):
            batches = filled
    for lanes in batches:
        yield _laid(lanes, pad_id=pad_id, pictures=pictures, weight_total=total)


def _cut(lanes: Lanes, size: int) -> list[Lanes]:
    # Lanes of like length together need the least padding.
    ordered = sorted(lanes, key=length_of)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _tokens(batches: Sequence[Lanes]) -> int:
    """Padding counted."""
    return sum(len(lanes) * _width(lanes) for lanes in batches)


def _width(lanes: Lanes) -> int:
    return -(-max(map(length_of, lanes)) // BUCKET) * BUCKET


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
    return _laid([[row] for row in rows], pad_id=pad_id, pictures=pictures, weight_total=weight_total, generating=pad == "left")


def _laid(lanes: Lanes, *, pad_id: int, pictures: PictureSource, weight_total: float | None, generating: bool = False) -> Batch:
    width = max(map(length_of, lanes)) if generating else _width(lanes)
    places = list(_places(lanes, width=width if generating else None))
    input_ids = np.full((len(lanes), width), pad_id, np.int32)
    valid = np.zeros((len(lanes), width), bool)
    positions = np.zeros((len(lanes[0][0].positions), len(lanes), width), np.int32)
    for place in places:
        input_ids[place.lane, place.own] = place.row.input_ids
        valid[place.lane, place.own] = True
        positions[:, place.lane, place.own] = place.row.positions
    score_rows, labels, weights = _last_tokens(lanes, width) if generating else _scored(places, width, weight_total)
    images, image_rows, feature_rows, crossed_rows = _place_pictures(places, width, pictures)
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
        visible=_visible(places, valid),
        crossed_rows=crossed_rows,
        pixels=pixels,
        features=features,
    )


def _places(lanes: Lanes, *, width: int | None) -> Iterator[_Place]:
    """width: where every lane ends; None: lanes begin at 0."""
    for number, lane in enumerate(lanes):
        start = 0 if width is None else width - length_of(lane)
        for row in lane:
            yield _Place(row, number, start)
            start += len(row.input_ids)


def _visible(places: Sequence[_Place], valid: np.ndarray) -> np.ndarray | None:
    """Padding on the right needs no mask: what stands before it is causal, and nothing reads what stands on it."""
    if not any(place.start or place.row.prefix or place.row.branches is not None for place in places):
        return None
    width = valid.shape[1]
    # Padding sees itself: a row that sees nothing would be divided by zero.
    visible = np.repeat(np.eye(width, dtype=bool)[None], len(valid), axis=0)
    for place in places:
        row, own = place.row, place.own
        length, branches = len(row.input_ids), row.branches
        seen = np.tril(np.ones((length, length), bool))
        seen[: row.prefix, : row.prefix] = True
        if branches is not None:
            seen &= (branches == 0) | (branches == branches[:, None])
        visible[place.lane, own, own] = seen
    return visible


def own_mask(batch: Batch) -> np.ndarray:
    """[B or 1, S, S] bool: who sees whom among the batch's own tokens, written out."""
    width = batch.input_ids.shape[1]
    return np.tril(np.ones((1, width, width), bool)) if batch.visible is None else batch.visible


def _scored(places: Sequence[_Place], width: int, weight_total: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    learned = [np.flatnonzero(place.row.weights) for place in places]  # the hidden state before each predicts it
    pairs = list(zip(places, learned, strict=True))
    score_rows = np.concatenate([place.lane * width + place.start + tokens - 1 for place, tokens in pairs])
    labels = np.concatenate([place.row.input_ids[tokens] for place, tokens in pairs])
    weights = np.concatenate([place.row.weights[tokens] for place, tokens in pairs])
    # Rounded up with rows of no weight, for the same reason as the row length.
    spare = -len(score_rows) % BUCKET
    return (
        np.pad(score_rows, (0, spare)).astype(np.int32),
        np.pad(labels, (0, spare)).astype(np.int32),
        np.pad(weights / (weight_total or weights.sum()), (0, spare)).astype(np.float32),
    )


def _last_tokens(lanes: Lanes, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    score_rows = (np.arange(1, len(lanes) + 1) * width - 1).astype(np.int32)
    return score_rows, np.zeros(len(lanes), np.int32), np.zeros(len(lanes), np.float32)


def _place_pictures(
    places: Sequence[_Place], width: int, pictures: PictureSource
) -> tuple[list[ImageRef], np.ndarray, np.ndarray, np.ndarray | None]:
    """Distinct pictures; [M] places of the flattened embeddings; [M] the feature row that belongs there; or, for
    cross-attention, [B, T] the feature rows that each row looks at."""
    offsets: dict[str, int] = {}
    distinct: list[ImageRef] = []
    total = 0
    for image in (image for place in places for image in place.row.images):
        if image.identity not in offsets:
            offsets[image.identity] = total
            distinct.append(image)
            total += pictures.tokens(image)
    image_rows = [place.lane * width + place.start + place.row.image_rows for place in places]
    feature_rows = [np.arange(pictures.tokens(i)) + offsets[i.identity] for place in places for i in place.row.images]
    none = np.zeros(0, np.int32)
    if any(place.row.crossed for place in places):
        assert len(feature_rows) == len(places), "cross-attention looks at one picture a row"
        return distinct, none, none, np.stack(feature_rows).astype(np.int32)
    found = (np.concatenate([*parts, none]).astype(np.int32) for parts in (image_rows, feature_rows))
    return distinct, *found, None
