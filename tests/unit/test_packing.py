"""Rows that share a picture: what is packed, who sees whom, and that no learned token is lost or moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mlxtune.batching import collate, micro_batches
from mlxtune.packing import common_prefix, end_to_end, shared_rows
from mlxtune.types import Batch, Encoded
from tests.unit.test_batching import PAD, Pictures, row, scored


def asked(*questions: Sequence[int], pictures: Sequence[str] = ("wide",), answer: int = 2) -> list[Encoded]:
    """Rows that begin alike, with the pictures, and go on with their own tokens; the last `answer` of them are learned."""
    start = row("1", prompt=1, answer=1, pictures=pictures)
    made = []
    for number, tokens in enumerate(questions):
        ids = np.r_[start.input_ids[:-1], tokens].astype(np.int32)
        weights = np.zeros(len(ids), np.float32)
        weights[-answer:] = 1 + number
        positions = np.arange(len(ids), dtype=np.int32)[None] * 2
        made.append(replace(start, id=str(number), input_ids=ids, weights=weights, positions=positions))
    return made


FOUR = asked([50, 51, 52, 53], [50, 61, 62, 63, 64], [71, 72, 73], [50, 51, 82, 83, 84])


def learned(rows: Sequence[Encoded]) -> list[tuple[int, float, int]]:
    """(token, weight, position) of all learned tokens."""
    return sorted(
        (int(token), float(weight), int(place))
        for r in rows
        for token, weight, place in zip(r.input_ids, r.weights, r.positions[0], strict=True)
        if weight
    )


def test_questions_about_one_picture_become_one_row() -> None:
    (packed,) = shared_rows(FOUR, max_tokens=100)
    prefix = 6  # one token and five of the picture
    assert packed.branches.tolist() == [0] * prefix + [1] * 4 + [2] * 5 + [3] * 3 + [4] * 5
    assert packed.input_ids.tolist() == [*FOUR[0].input_ids[:prefix], *(t for r in FOUR for t in r.input_ids[prefix:])]
    assert packed.positions[0, prefix:].tolist() == [p for r in FOUR for p in r.positions[0, prefix:]]
    assert learned([packed]) == learned(FOUR)
    assert packed.images == FOUR[0].images and packed.image_rows.tolist() == FOUR[0].image_rows.tolist()


def test_a_packed_row_sees_what_its_rows_would_see() -> None:
    batch = next(micro_batches(FOUR, size=4, pad_id=PAD, pictures=Pictures(), share=100))
    (packed,) = shared_rows(FOUR, max_tokens=100)
    for number, own in enumerate(FOUR, start=1):
        places = np.flatnonzero((packed.branches == 0) | (packed.branches == number))
        seen = batch.visible[0][np.ix_(places, places)]
        assert (seen == np.tril(np.ones((len(own.input_ids), len(own.input_ids)), bool))).all()
        others = np.flatnonzero((packed.branches != 0) & (packed.branches != number))
        assert not batch.visible[0][np.ix_(places, others)].any()


def test_a_two_way_prefix_stays_two_way() -> None:
    rows = [replace(r, prefix=6) for r in FOUR]
    (visible,) = next(micro_batches(rows, size=4, pad_id=PAD, pictures=Pictures(), share=100)).visible
    assert visible[:6, :6].all() and not visible[:6, 6:].any()


def test_each_learned_token_is_scored_once_from_the_place_before_it() -> None:
    apart = list(micro_batches(FOUR, size=4, pad_id=PAD, pictures=Pictures()))
    (together,) = micro_batches(FOUR, size=1, pad_id=PAD, pictures=Pictures(), share=100)
    assert scored([together]) == pytest.approx(scored(apart)) and sum(scored([together]).values()) == pytest.approx(1)
    flat = together.input_ids.reshape(-1)
    for place, label, weight in zip(together.score_rows, together.labels, together.weights, strict=True):
        assert not weight or flat[place + 1] == label


def test_the_common_beginning_ends_before_a_token_that_is_learned() -> None:
    twice = asked([50, 51, 52, 53], [50, 51, 52, 53])
    assert common_prefix(twice) == 6 + 1  # the last question token before the answer stays each row's own
    assert common_prefix(asked([50, 52, 53], [50, 62, 63])) == 6
    early = [replace(r, weights=np.ones_like(r.weights)) for r in twice]
    assert common_prefix(early) == 0, "an answer before the picture's end leaves nothing to share"


@pytest.mark.parametrize(
    "rows",
    [
        asked([1, 2, 3], pictures=["small"]) + asked([1, 2, 4], pictures=["wide"]),
        asked([1, 2, 3], pictures=["small", "wide"]) + asked([1, 2, 4], pictures=["wide", "small"]),
        [row("2", prompt=5, answer=1), row("2", prompt=5, answer=1)],
        [replace(r, crossed=True, image_rows=r.image_rows[:0]) for r in FOUR],
    ],
    ids=["other pictures", "another order", "no picture", "cross-attention"],
)
def test_rows_that_share_nothing_stay_as_they_are(rows: list[Encoded]) -> None:
    assert shared_rows(rows, max_tokens=100) == rows


@pytest.mark.parametrize(("limit", "lengths"), [(100, [23]), (16, [15, 14]), (11, [10, 11, 9, 11]), (1, [10, 11, 9, 11])])
def test_a_packed_row_keeps_to_its_limit(limit: int, lengths: list[int]) -> None:
    packed = shared_rows(FOUR, max_tokens=limit)
    assert [len(r.input_ids) for r in packed] == lengths
    assert learned(packed) == learned(FOUR)


def test_order_and_strangers_are_kept() -> None:
    other = row("9", prompt=3, answer=1, pictures=["tiny"])
    packed = shared_rows([FOUR[0], other, FOUR[1]], max_tokens=100)
    assert [r.id for r in packed] == ["0 + 1", "9"] and packed[1] is other


def test_plain_rows_need_no_mask() -> None:
    batch: Batch = collate(FOUR[:1], pad_id=PAD, pictures=Pictures())
    assert batch.visible is None


def test_rows_go_where_they_leave_the_least_room() -> None:
    rows = [row(str(n), prompt=length - 1, answer=1) for n, length in enumerate([10, 3, 7, 2, 5, 5, 8], start=1)]
    lanes = end_to_end(rows)
    assert [[len(r.input_ids) for r in lane] for lane in lanes] == [[10], [8, 2], [7, 3], [5, 5]]
    assert sorted(r.id for lane in lanes for r in lane) == [r.id for r in rows]


def test_many_rows_are_laid_out_at_once() -> None:
    lengths = np.random.default_rng(0).integers(4, 900, 4000)
    lanes = end_to_end([row("1", prompt=int(length), answer=1) for length in lengths])
    assert sum(map(len, lanes)) == 4000 and len(lanes) <= 1.02 * (lengths + 1).sum() / (lengths.max() + 1)
