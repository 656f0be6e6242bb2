"""The content of error_analysis.json: causes, what moved between right and wrong, and where."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.errors import RunError
from mlxtune.evaluate.buckets import (
    BUCKETS,
    RIGHT_FROM,
    Line,
    Pair,
    breakdown_columns,
    columns_of,
    deciding_metric,
    is_right,
    pair_up,
)
from mlxtune.evaluate.errors import CAUSES, FAMILIES, causes_of, context_of
from mlxtune.metrics import count_statuses

_FAMILY = {cause.name: cause.family for cause in CAUSES}
_EXAMPLES = 12  # ids for each cause and bucket


@dataclass(frozen=True)
class _Side:
    """One set of answers. causes: of each wrong one, by id."""

    lines: Sequence[Line]
    right: Mapping[str, bool | None]
    causes: Mapping[str, tuple[str, ...]]


def error_analysis(
    before: Sequence[Line] | None,
    after: Sequence[Line] | None,
    *,
    metric: str | None = None,
    right_from: float = RIGHT_FROM,
    needs_picture: bool | None = None,
    intersect: bool = False,
    advice: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Causes and buckets of one or two sets of predictions.jsonl lines, as `schemas.ErrorAnalysis` describes them.

    metric: None = the first of the lines, see `buckets.is_right` for what is right. needs_picture: see `errors.context_of`.
    intersect: compare the rows that both have, and count the others in `left_out`. advice: stored as it is.
    Raises RunError where the two are not over the same rows, or where there are no rows.
    """
    if not before and not after:
        raise RunError("there are no predictions to look at. Raise evaluate.limit, or name a split for data.splits.test")
    metric = metric or deciding_metric(after or before or ())
    pairs: list[Pair] = []
    left_out = {}
    if before and after:
        pairs = pair_up(before, after, metric=metric, right_from=right_from, intersect=intersect)
        left_out = {"before": len(before) - len(pairs), "after": len(after) - len(pairs)}
        before, after = [pair.earlier for pair in pairs], [pair.line for pair in pairs]
    context = context_of(after or before or (), needs_picture=needs_picture)
    sides = [_side(lines, metric, right_from, context) if lines else None for lines in (before, after)]
    tables, not_broken_down = _tables(*sides)
    return {
        "metric": metric,
        "right_from": right_from,
        "before": _told(sides[0], seed) if sides[0] else None,
        "after": _told(sides[1], seed) if sides[1] else None,
        "buckets": _buckets(pairs, seed) if pairs else None,
        "left_out": {key: number for key, number in left_out.items() if number},
        "moves": _moves(*sides) if sides[0] and sides[1] else {},
        "by": tables,
        "not_broken_down": not_broken_down,
        "definitions": {cause.name: {"family": cause.family, "description": cause.description} for cause in CAUSES},
        "advice": [dict(one) for one in advice],
    }


def sample_evenly(ids: Sequence[str], count: int, *, seed: int) -> list[str]:
    """At most `count` of the ids at equal distances, from a drawn first one: what there is, not what looks best."""
    if len(ids) <= count:
        return list(ids)
    first = random.Random(seed).random()
    return [ids[int((number + first) * len(ids) / count)] for number in range(count)]


def _side(lines: Sequence[Line], metric: str, right_from: float, context: Any) -> _Side:
    right = {line["id"]: is_right(line, metric, right_from=right_from) for line in lines}
    return _Side(lines, right, {line["id"]: causes_of(line, context) for line in lines if right[line["id"]] is False})


def _told(side: _Side, seed: int) -> dict[str, Any]:
    wrong = len(side.causes)
    first: dict[str, list[str]] = {}
    also: Counter[str] = Counter()
    for id, causes in side.causes.items():
        first.setdefault(causes[0], []).append(id)
        also.update(causes[1:])
    families = Counter({family: 0 for family in FAMILIES})
    families.update(_FAMILY[causes[0]] for causes in side.causes.values())
    for name in also:
        first.setdefault(name, [])
    return {
        "n": len(side.lines),
        "right": sum(value is True for value in side.right.values()),
        "wrong": wrong,
        "ungraded": sum(value is None for value in side.right.values()),
        "statuses": count_statuses(side.lines),
        "families": {name: {"n": n, "share": n / wrong} for name, n in families.most_common() if n},
        "causes": {
            name: {
                "n": len(ids),
                "share": len(ids) / wrong,
                "also": also[name],
                "examples": sample_evenly(ids, _EXAMPLES, seed=seed),
            }
            for name, ids in sorted(first.items(), key=lambda item: -len(item[1]))
        },
    }


def _buckets(pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
    ids = {bucket: [pair.line["id"] for pair in pairs if pair.bucket == bucket] for bucket in BUCKETS}
    return {
        bucket: {"n": len(own), "share": len(own) / len(pairs), "examples": sample_evenly(own, _EXAMPLES, seed=seed)}
        for bucket, own in ids.items()
    }


def _moves(before: _Side, after: _Side) -> dict[str, dict[str, int]]:
    moves: dict[str, Counter[str]] = {}
    for id in after.right:
        moves.setdefault(_state(before, id), Counter())[_state(after, id)] += 1
    return {start: dict(ends.most_common()) for start, ends in sorted(moves.items(), key=lambda item: -item[1].total())}


def _state(side: _Side, id: str) -> str:
    return side.causes[id][0] if id in side.causes else "right" if side.right[id] else "ungraded"


def _tables(before: _Side | None, after: _Side | None) -> tuple[dict[str, dict[str, Any]], list[str]]:
    side = after or before
    assert side, "one of the two has rows"
    columns, too_many = breakdown_columns(side.lines)
    rows: dict[str, dict[str, list[str]]] = {column: {} for column in columns}
    for line in side.lines:
        for column, value in columns_of(line):
            if column in rows:
                rows[column].setdefault(value, []).append(line["id"])
    tables = {
        column: {value: _group(ids, before, after) for value, ids in sorted(values.items(), key=lambda item: -len(item[1]))}
        for column, values in rows.items()
    }
    return tables, too_many


def _group(ids: Sequence[str], before: _Side | None, after: _Side | None) -> dict[str, Any]:
    side = after or before
    assert side, "one of the two has rows"
    both = [(before.right[id], after.right[id]) for id in ids] if before and after else None
    return {
        "n": len(ids),
        **{f"right_{name}": _count(ids, own, {True}) for name, own in (("before", before), ("after", after))},
        **{f"graded_{name}": _count(ids, own, {True, False}) for name, own in (("before", before), ("after", after))},
        "fixed": both and both.count((False, True)),
        "broken": both and both.count((True, False)),
        "families": dict(Counter(_FAMILY[side.causes[id][0]] for id in ids if id in side.causes).most_common()),
    }


def _count(ids: Sequence[str], side: _Side | None, values: set[bool]) -> int | None:
    return sum(side.right[id] in values for id in ids) if side else None
