"""Whether an answer could be graded at all. Counted beside the scores, never instead of them.

An answer that is empty, cut off or without the asked form stays in the scores, where nearly always it is wrong: so the
published protocols have it, and so no model gains by falling silent. A row without its picture was never asked: it is
ungraded, and in no score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mlxtune.metrics.base import item_of_line
from mlxtune.metrics.choices import is_parseable

Status = Literal["graded", "empty", "cut off", "unparseable", "image missing"]
STATUSES: tuple[Status, ...] = ("graded", "empty", "cut off", "unparseable", "image missing")


def status(line: Mapping[str, Any]) -> Status:
    """Of a line of predictions.jsonl, the first that holds:

    image missing: no answer (`prediction` is null). empty: nothing but white space. cut off: `finish` is "length".
    unparseable: there are options, but the answer names none of them. graded: none of these.
    """
    item = item_of_line(line)
    if item is None:
        return "image missing"
    if not item.prediction.strip():
        return "empty"
    if line.get("finish") == "length":
        return "cut off"
    return "unparseable" if item.choices and not is_parseable(item) else "graded"


def count_statuses(lines: Iterable[Mapping[str, Any]]) -> dict[Status, int]:
    """Lines of each status, in the order of `STATUSES`; they add up to all lines."""
    counts = dict.fromkeys(STATUSES, 0)
    for line in lines:
        counts[status(line)] += 1
    return counts
