"""Before and after, row by row: what was fixed, what was broken, and in which part of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlxtune.errors import RunError
from mlxtune.metrics import METRICS

Line = Mapping[str, Any]  # of predictions.jsonl
Bucket = Literal["fixed", "broken", "still_right", "still_wrong", "ungraded"]
BUCKETS: tuple[Bucket, ...] = ("fixed", "broken", "still_right", "still_wrong", "ungraded")

# A graded metric calls an answer right from half of its scale on: the threshold that ANLS has built in, two annotators of VQA
# accuracy, half of the words for ROUGE and F1. Metrics of 0 or 1 do not depend on it.
RIGHT_FROM = 0.5
_MOST_VALUES = 100  # a column with more values than this, and than a tenth of the rows, names rows rather than kinds
_NAMED = 3  # rows in a message


def deciding_metric(lines: Sequence[Line]) -> str:
    """The first metric of the lines: a task names first the one that decides. Raises RunError where there is none."""
    for line in lines:
        for name in line.get("scores") or {}:
            return name
    raise RunError("the predictions have no scores, so right and wrong are unknown. Score them first, or name a metric")


def is_right(line: Line, metric: str, *, right_from: float = RIGHT_FROM) -> bool | None:
    """Whether the answer counts as right; None where it could not be graded. right_from: of the metric's scale."""
    if metric not in line["scores"]:
        raise RunError(f"row '{line['id']}': no score '{metric}'; it has {', '.join(line['scores']) or 'none'}. Name one of them")
    value = line["scores"][metric]
    scale = METRICS[metric].scale if metric in METRICS else 1.0
    return None if value is None else value >= right_from * scale


@dataclass(frozen=True)
class Pair:
    """One row asked twice. before, after: whether it was right, None where it could not be graded."""

    line: Line
    earlier: Line
    before: bool | None
    after: bool | None

    @property
    def bucket(self) -> Bucket:
        if self.before is None or self.after is None:
            return "ungraded"
        if self.before:
            return "still_right" if self.after else "broken"
        return "fixed" if self.after else "still_wrong"


def pair_up(
    before: Sequence[Line], after: Sequence[Line], *, metric: str, right_from: float = RIGHT_FROM, intersect: bool = False
) -> list[Pair]:
    """The rows of both, by id, in the order of `after`.

    intersect: rows of one side alone are left out instead of refused. Raises RunError where an id comes twice, where the rows
    differ and `intersect` is off, where nothing is left, and where one id stands for two questions.
    """
    earlier, later = _by_id(before, "before"), _by_id(after, "after")
    only = {"before": [id for id in earlier if id not in later], "after": [id for id in later if id not in earlier]}
    if not intersect and any(only.values()):
        told = "; ".join(f"{len(ids)} only in {side} ({_some(ids)})" for side, ids in only.items() if ids)
        raise RunError(f"before and after are not the same rows: {told}. Ask the same rows, or compare their intersection")
    shared = [id for id in later if id in earlier]
    if not shared:
        raise RunError("before and after have no row in common. Compare runs over the same data")
    changed = [id for id in shared if _asked(earlier[id]) != _asked(later[id])]
    if changed:
        raise RunError(
            f"{len(changed)} rows have another question, picture or reference before than after ({_some(changed)}). "
            "Compare runs over the same data"
        )
    return [
        Pair(
            later[id],
            earlier[id],
            is_right(earlier[id], metric, right_from=right_from),
            is_right(later[id], metric, right_from=right_from),
        )
        for id in shared
    ]


def breakdown_columns(lines: Sequence[Line]) -> tuple[list[str], list[str]]:
    """(columns to break down by, columns with too many values for that): those of `meta`, and "name" for pictured things."""
    values: dict[str, set[str]] = {}
    for line in lines:
        for column, value in columns_of(line):
            values.setdefault(column, set()).add(value)
    many = [name for name, found in values.items() if len(found) > max(_MOST_VALUES, len(lines) / 10)]
    return [name for name in values if name not in many], many


def columns_of(line: Line) -> Iterator[tuple[str, str]]:
    """(column, value) of everything that a row is counted under."""
    yield from ((column, str(value)) for column, value in (line.get("meta") or {}).items() if value is not None)
    if line.get("names"):
        yield "name", line["names"][0]


def count_buckets(pairs: Iterable[Pair]) -> dict[Bucket, int]:
    """Rows in each bucket, in the order of `BUCKETS`; they add up to all rows."""
    counts = Counter(pair.bucket for pair in pairs)
    return {bucket: counts[bucket] for bucket in BUCKETS}


def _by_id(lines: Sequence[Line], side: str) -> dict[str, Line]:
    found = {line["id"]: line for line in lines}
    if len(found) < len(lines):
        twice = [id for id, count in Counter(line["id"] for line in lines).items() if count > 1]
        raise RunError(f"{side}: {len(twice)} ids come more than once ({_some(twice)}). Give every row an id of its own")
    return found


def _asked(line: Line) -> tuple[Any, ...]:
    return line.get("question"), tuple(line.get("references") or [line.get("target")]), tuple(line.get("images") or ())


def _some(ids: Sequence[str]) -> str:
    return ", ".join(f"'{id}'" for id in ids[:_NAMED]) + (", …" if len(ids) > _NAMED else "")
