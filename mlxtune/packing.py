"""Several rows in one. Questions about the same pictures share what they have in common: it is read once, each question sees it
and itself. Rows that have nothing in common may stand end to end, instead of padding.

        [ prefix: system + picture ][ question 1 · answer 1 ][ question 2 · answer 2 ] …
    sees:     prefix                    prefix + q1              prefix + q2

Positions restart behind the prefix for each question, so every token stands where it would stand in a row of its own, and a
causal model gives it the same hidden state: the loss is that of the separate rows.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mlxtune.types import Encoded


def shared_rows(rows: Sequence[Encoded], *, max_tokens: int) -> list[Encoded]:
    """The rows, those with the same pictures and a common beginning packed together, at most `max_tokens` tokens a row.

    Rows that share nothing stay as they are. Every learned token is learned exactly once, with its own weight.
    """
    return [packed for group in _groups(rows) for packed in _packed([rows[i] for i in group], max_tokens)]


def end_to_end(rows: Sequence[Encoded]) -> list[list[Encoded]]:
    """Lanes as long as the longest row, and in each the rows that stand there one behind the other; none may see another.

    The longest first, each goes where it leaves the least room (best fit decreasing). Rows that look at a picture through
    cross-attention stay alone, since a lane has one picture to look at.
    """
    longest = max(len(row.input_ids) for row in rows)
    lanes: list[list[Encoded]] = []
    rooms: list[tuple[int, int]] = []  # (tokens that are free, number of the lane), rising
    for row in sorted(rows, key=lambda row: len(row.input_ids), reverse=True):
        length = len(row.input_ids)
        fitting = len(rooms) if row.crossed else bisect_left(rooms, (length, 0))
        room, number = rooms.pop(fitting) if fitting < len(rooms) else (longest, len(lanes))
        if number == len(lanes):
            lanes.append([])
        lanes[number].append(row)
        if not row.crossed:
            insort(rooms, (room - length, number))
    return lanes


def length_of(lane: Sequence[Encoded]) -> int:
    """Tokens of rows that stand one behind the other."""
    return sum(len(row.input_ids) for row in lane)


class Split(NamedTuple):
    """Prompts cut in two: what questions about the same pictures have in common, and the rest of each."""

    prefixes: list[Encoded]
    rests: list[Encoded]
    prefix_of: np.ndarray  # [prompts] int32; which of the prefixes a rest goes on from


def split_prompts(prompts: Sequence[Encoded]) -> Split | None:
    """None where no two of the prompts (rows without an answer) share a picture."""
    groups = _groups(prompts)
    lengths = [common_prefix([prompts[i] for i in group]) if len(group) > 1 else 0 for group in groups]
    if not any(lengths):
        return None
    prefixes, prefix_of = [], np.zeros(len(prompts), np.int32)
    rests: list[Encoded] = list(prompts)
    for group, length in zip(groups, lengths, strict=True):
        for number in group:
            if not length or number == group[0]:
                prefixes.append(_cut(prompts[number], 0, length or len(prompts[number].input_ids) - 1))
            # A prompt that shares nothing leaves but its last token to the second part, which is padded to the longest rest.
            rests[number] = _cut(prompts[number], length or len(prompts[number].input_ids) - 1, None)
            prefix_of[number] = len(prefixes) - 1
    return Split(prefixes, rests, prefix_of)


def common_prefix(rows: Sequence[Encoded]) -> int:
    """How many tokens at the start of all rows are the same and can be read once for all of them; 0 for none.

    The pictures are part of it, and every row keeps a token of its own that is not learned: the first learned token of a row is
    predicted from the place before it, which must be the row's.
    """
    shortest = min(_own_tokens(row) for row in rows)
    first, *others = (row.input_ids[:shortest] for row in rows)
    differing = [np.flatnonzero(ids != first) for ids in others]
    length = min([shortest, *(int(places[0]) for places in differing if len(places))])
    reach = max(_reach(row) for row in rows)
    return length if reach and length >= reach else 0


def _groups(rows: Sequence[Encoded]) -> list[list[int]]:
    """Numbers of the rows about the same pictures, in the order of their first row; a row without pictures stands alone."""
    groups: dict[Hashable, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(_pictures(row) or number, []).append(number)
    return list(groups.values())


def _pictures(row: Encoded) -> Hashable:
    """Rows that may share a prefix have this in common; falsy where there is nothing to share."""
    return () if row.crossed else tuple(image.identity for image in row.images)


def _own_tokens(row: Encoded) -> int:
    learned = np.flatnonzero(row.weights)
    return (int(learned[0]) if len(learned) else len(row.input_ids)) - 1


def _reach(row: Encoded) -> int:
    """Tokens up to the end of the last picture."""
    return max(int(row.image_rows[-1]) + 1 if len(row.image_rows) else 0, row.prefix)


def _packed(group: Sequence[Encoded], max_tokens: int) -> Iterator[Encoded]:
    prefix = common_prefix(group) if len(group) > 1 else 0
    if not prefix:
        yield from group
        return
    for chosen in _bins(group, room=max_tokens - prefix, taken=lambda row: len(row.input_ids) - prefix):
        yield _pack(chosen, prefix) if len(chosen) > 1 else chosen[0]


def _bins(rows: Iterable[Encoded], *, room: int, taken: Callable[[Encoded], int]) -> Iterator[list[Encoded]]:
    """The rows in their order, cut where the next one would not fit; a row that is too long for any cut stands alone."""
    chosen: list[Encoded] = []
    left = room
    for row in rows:
        if chosen and taken(row) > left:
            yield chosen
            chosen, left = [], room
        chosen.append(row)
        left -= taken(row)
    yield chosen


def _pack(rows: Sequence[Encoded], prefix: int) -> Encoded:
    first, lengths = rows[0], [len(row.input_ids) - prefix for row in rows]

    def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([arrays[0][..., :prefix], *(array[..., prefix:] for array in arrays)], axis=-1)

    return replace(
        first,
        id=" + ".join(row.id for row in rows),
        input_ids=joined([row.input_ids for row in rows]),
        weights=joined([row.weights for row in rows]),
        positions=joined([row.positions for row in rows]),
        branches=np.repeat(np.arange(len(rows) + 1, dtype=np.int32), [prefix, *lengths]),
    )


def _cut(row: Encoded, start: int, end: int | None) -> Encoded:
    """Some of a row's tokens. Pictures lie before `end`, or before `start`."""
    part = slice(start, end)
    kept = row.image_rows if start == 0 else row.image_rows[:0]
    return replace(
        row,
        input_ids=row.input_ids[part],
        weights=row.weights[part],
        positions=row.positions[:, part],
        image_rows=kept,
        images=row.images if start == 0 else (),
        prefix=row.prefix if start == 0 else 0,
    )
