"""Batches: what is padded, what is scored, which picture lands where, and that cutting a step into batches changes no weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mlxtune.batching import BUCKET, collate, micro_batches
from mlxtune.images import ImageRef
from mlxtune.types import Batch, Encoded, Pixels

PAD, IMAGE = 0, 9
SIZES = {"small": 2, "wide": 5, "tiny": 1}  # tokens of each picture


class Pictures:
    """Feature row k of a picture is [number of the picture, k], so that one sees where it ends up."""

    def tokens(self, image: ImageRef) -> int:
        return SIZES[image.key]

    def fill(self, images: Sequence[ImageRef]) -> tuple[tuple[Pixels, ...], np.ndarray | None]:
        if not images:
            return (), None
        rows = [(list(SIZES).index(image.key), k) for image in images for k in range(SIZES[image.key])]
        return (), np.array(rows, np.float32)


class FreshPictures(Pictures):
    def fill(self, images: Sequence[ImageRef]) -> tuple[tuple[Pixels, ...], np.ndarray | None]:
        return tuple(Pixels(i.key, np.zeros((1, 1), np.float32), grid=(1, 1, 1), tokens=SIZES[i.key]) for i in images), None


def row(name: str, *, prompt: int, answer: int, pictures: Sequence[str] = (), axes: int = 1) -> Encoded:
    """`prompt` text tokens, the pictures one after the other behind the first of them, `answer` tokens to learn."""
    first = int(name) * 1000
    ids = [first + 1] + [IMAGE] * sum(SIZES[key] for key in pictures) + [first + 2 + i for i in range(prompt - 1 + answer)]
    input_ids = np.array(ids, np.int32)
    weights = np.zeros(len(ids), np.float32)
    weights[len(ids) - answer :] = 1
    return Encoded(
        id=name,
        input_ids=input_ids,
        weights=weights,
        positions=np.stack([np.arange(len(ids), dtype=np.int32) * (axis + 1) for axis in range(axes)]),
        image_rows=np.flatnonzero(input_ids == IMAGE).astype(np.int32),
        images=tuple(ImageRef(b"", key=key) for key in pictures),
    )


ROWS = [
    row("1", prompt=4, answer=3, pictures=["wide"]),
    row("2", prompt=9, answer=1),
    row("3", prompt=2, answer=6, pictures=["small", "wide"]),
    row("4", prompt=20, answer=2, pictures=["tiny"]),
    row("5", prompt=3, answer=1, pictures=["wide"]),
    row("6", prompt=1, answer=9),
    row("7", prompt=17, answer=2, pictures=["small", "small"]),
    row("8", prompt=2, answer=4),
]


def step(size: int) -> list[Batch]:
    return list(micro_batches(ROWS, size=size, pad_id=PAD, pictures=Pictures()))


def scored(batches: Sequence[Batch]) -> dict[int, float]:
    """Weight of each learned token."""
    found: dict[int, float] = {}
    for batch in batches:
        for label, weight in zip(batch.labels, batch.weights, strict=True):
            if weight:
                assert label not in found, "a token is scored twice"
                found[int(label)] = float(weight)
    return found


@pytest.mark.parametrize("size", range(1, 9))
def test_weights_sum_to_one_over_the_step_however_it_is_cut(size: int) -> None:
    batches = step(size)
    assert len(batches) == -(-8 // size) and sum(len(batch.input_ids) for batch in batches) == 8
    assert all(len(batch.input_ids) <= size for batch in batches)
    assert sum(float(batch.weights.sum()) for batch in batches) == pytest.approx(1, abs=1e-6)
    learned = {int(label) for r in ROWS for label in r.input_ids[r.weights > 0]}
    assert scored(batches) == {label: pytest.approx(1 / 28) for label in learned}


def test_a_batch_alone_is_normalised_by_its_own_sum() -> None:
    batch = collate(ROWS[:3], pad_id=PAD, pictures=Pictures())
    assert batch.weights.sum() == pytest.approx(1) and np.count_nonzero(batch.weights) == 10


@pytest.mark.parametrize("size", [1, 3, 8])
def test_score_rows_stand_before_the_token_that_they_predict(size: int) -> None:
    for batch in step(size):
        real = batch.weights > 0
        flat = batch.input_ids.reshape(-1)
        assert (flat[batch.score_rows[real] + 1] == batch.labels[real]).all()
        assert (batch.score_rows[real] % batch.input_ids.shape[1] < batch.input_ids.shape[1] - 1).all(), "of the same row"
        assert batch.valid.reshape(-1)[batch.score_rows[real]].all()
        assert batch.labels.max() < 10_000 and IMAGE not in batch.labels[real]


def test_training_rows_are_padded_on_the_right_to_whole_buckets() -> None:
    batch = collate(ROWS, pad_id=PAD, pictures=Pictures())
    assert batch.input_ids.shape[1] % BUCKET == 0 and len(batch.score_rows) % BUCKET == 0
    for b, r in enumerate(ROWS):
        length = len(r.input_ids)
        assert (batch.input_ids[b, :length] == r.input_ids).all() and (batch.input_ids[b, length:] == PAD).all()
        assert batch.valid[b, :length].all() and not batch.valid[b, length:].any()
        assert (batch.positions[:, b, :length] == r.positions).all()


@pytest.mark.parametrize("axes", [1, 3])
def test_prompts_are_padded_on_the_left_and_end_in_the_last_column(axes: int) -> None:
    rows = [row("1", prompt=3, answer=0, pictures=["wide"], axes=axes), row("2", prompt=4, answer=0, axes=axes)]
    batch = collate(rows, pad_id=PAD, pictures=Pictures(), pad="left")
    assert batch.input_ids.shape == (2, 8) and batch.positions.shape == (axes, 2, 8)
    assert batch.score_rows.tolist() == [7, 15] and batch.input_ids.reshape(-1)[batch.score_rows].tolist() == [1003, 2004]
    assert batch.valid.tolist() == [[True] * 8, [False] * 4 + [True] * 4]
    assert (batch.positions[:, 1, 4:] == rows[1].positions).all() and (batch.positions[:, 1, :4] == 0).all()


@pytest.mark.parametrize("pad", ["left", "right"])
def test_each_picture_row_gets_its_own_feature(pad: str) -> None:
    batch = collate(ROWS, pad_id=PAD, pictures=Pictures(), pad=pad)  # type: ignore[arg-type]
    assert batch.features is not None
    assert (batch.input_ids.reshape(-1)[batch.image_rows] == IMAGE).all()
    assert sorted(batch.image_rows) == np.flatnonzero(batch.input_ids.reshape(-1) == IMAGE).tolist()
    placed = {
        int(place): tuple(batch.features[feature]) for place, feature in zip(batch.image_rows, batch.feature_rows, strict=True)
    }
    for b, r in enumerate(ROWS):
        start = int(batch.valid[b].argmax())
        wanted = [(list(SIZES).index(i.key), k) for i in r.images for k in range(SIZES[i.key])]
        got = [placed[b * batch.input_ids.shape[1] + start + int(place)] for place in r.image_rows]
        assert got == wanted


def test_a_picture_that_rows_share_is_there_once() -> None:
    batch = collate(ROWS, pad_id=PAD, pictures=Pictures())
    assert batch.features is not None and len(batch.features) == sum(SIZES.values())
    fresh = collate(ROWS, pad_id=PAD, pictures=FreshPictures())
    assert [pixels.key for pixels in fresh.pixels] == ["wide", "small", "tiny"] and fresh.features is None
    assert len(fresh.image_rows) == sum(len(r.image_rows) for r in ROWS)


def test_rows_of_text_alone() -> None:
    batch = collate([ROWS[1], ROWS[5]], pad_id=PAD, pictures=Pictures())
    assert len(batch.image_rows) == len(batch.feature_rows) == 0
    assert batch.pixels == () and batch.features is None


def test_types_are_those_that_backends_take() -> None:
    for pad in ("left", "right"):
        batch = collate(ROWS, pad_id=PAD, pictures=Pictures(), pad=pad)  # type: ignore[arg-type]
        names = ("input_ids", "positions", "score_rows", "labels", "image_rows", "feature_rows")
        assert {getattr(batch, name).dtype for name in names} == {np.dtype(np.int32)}
        assert batch.valid.dtype == bool and batch.weights.dtype == np.float32


def test_rows_of_like_length_share_a_batch() -> None:
    padded = sum(batch.input_ids.size for batch in step(2))
    unsorted = sum(collate(ROWS[i : i + 2], pad_id=PAD, pictures=Pictures()).input_ids.size for i in range(0, 8, 2))
    assert padded < unsorted


def test_pictures_of_two_data_sets_may_have_one_name() -> None:
    here, there = (ImageRef(b"", "small", folder=folder) for folder in ("/data/a", "/data/b"))
    rows = [replace(row("1", prompt=2, answer=1, pictures=["small"]), images=(image,)) for image in (here, there, here)]
    batch = collate(rows, pad_id=PAD, pictures=Pictures())
    assert batch.feature_rows.tolist() == [0, 1, 2, 3, 0, 1]


def filled(rows: Sequence[Encoded], size: int, *, fill: bool = True) -> list[Batch]:
    return list(micro_batches(rows, size=size, pad_id=PAD, pictures=Pictures(), fill=fill))


LONG_AND_SHORT = [
    row("1", prompt=60, answer=3, pictures=["wide"], axes=3),
    row("2", prompt=20, answer=2, pictures=["small"], axes=3),
    row("3", prompt=12, answer=4, pictures=["wide", "tiny"], axes=3),
    row("4", prompt=9, answer=1, axes=3),
]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_short_rows_stand_end_to_end_beside_a_long_one(size: int) -> None:
    packed, apart = filled(LONG_AND_SHORT, size), filled(LONG_AND_SHORT, size, fill=False)
    shapes = sorted(shape for batch in packed for shape in [batch.input_ids.shape[1]] * len(batch.input_ids))
    assert shapes == ([64, 80] if size == 1 else [80, 80])
    assert sum(b.input_ids.size for b in packed) < sum(b.input_ids.size for b in apart)
    assert scored(packed) == pytest.approx(scored(apart)) and sum(scored(packed).values()) == pytest.approx(1)
    for batch in packed:
        flat, real = batch.input_ids.reshape(-1), batch.weights > 0
        assert (flat[batch.score_rows[real] + 1] == batch.labels[real]).all()
        assert batch.features is not None and (flat[batch.image_rows] == IMAGE).all()
        assert (flat == IMAGE).sum() == len(batch.image_rows) == len(batch.feature_rows)


def test_rows_end_to_end_see_themselves_alone_and_keep_their_positions() -> None:
    (batch,) = filled(LONG_AND_SHORT, 4)
    for encoded in LONG_AND_SHORT:
        first = encoded.input_ids[0]
        lane, start = (int(i[0]) for i in np.nonzero(batch.input_ids == first))
        own = slice(start, start + len(encoded.input_ids))
        assert (batch.input_ids[lane, own] == encoded.input_ids).all()
        assert (batch.positions[:, lane, own] == encoded.positions).all()
        assert (batch.visible[lane, own, own] == np.tril(np.ones((len(encoded.input_ids),) * 2, bool))).all()
        assert batch.visible[lane, own].sum() == batch.visible[lane, own, own].sum(), "sees a row beside it"
    assert batch.visible.any(-1).all(), "a row that sees nothing would be divided by zero"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_stay_apart_where_that_pads_no_more(size: int) -> None:
    alike = [row(str(n), prompt=40, answer=2) for n in range(1, 4)]
    packed = filled(alike, size)
    assert all(batch.visible is None for batch in packed) and sum(len(batch.input_ids) for batch in packed) == 3


def test_a_two_way_prefix_stays_two_way_end_to_end() -> None:
    (batch,) = filled([replace(r, prefix=4) for r in LONG_AND_SHORT], 4)
    for first in (3001, 4001):
        lane, start = (int(i[0]) for i in np.nonzero(batch.input_ids == first))
        assert batch.visible[lane, start : start + 4, start : start + 4].all()
        assert not batch.visible[lane, start : start + 4, start + 4 :].any()
        assert not batch.visible[lane, start : start + 4, :start].any()


def test_rows_that_look_through_cross_attention_are_never_put_end_to_end() -> None:
    crossed = [
        replace(row(str(n), prompt=4 * n, answer=2, pictures=["wide"]), crossed=True, image_rows=np.zeros(0, np.int32))
        for n in (1, 2, 9)
    ]
    (batch,) = filled(crossed, 3)
    assert batch.crossed_rows is not None and batch.crossed_rows.shape == (3, 5)
