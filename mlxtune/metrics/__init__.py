"""Metrics: each a pure function of an answer and what it is compared with, with its definition, source and caveats beside it.

>>> scores, items = score(["exact_match"], [Item("Paris", ("paris",)), None])
>>> scores["exact_match"].to_dict()
{'value': 1.0, 'n': 1, 'ungraded': 1}
>>> items
[{'exact_match': 1.0}, {'exact_match': None}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from statistics import fmean
from typing import Any

from mlxtune.errors import RecipeError
from mlxtune.metrics.answers import ANSWERS
from mlxtune.metrics.base import Item, Metric, Score, Sums, as_mapping, item_of_line
from mlxtune.metrics.choices import CHOICES, extract_letter
from mlxtune.metrics.classes import CLASSES
from mlxtune.metrics.figures import AnswerFigures, answer_figures, repetition
from mlxtune.metrics.overlap import OVERLAP
from mlxtune.metrics.status import STATUSES, count_statuses, status
from mlxtune.metrics.strict import STRICT
from mlxtune.metrics.vqa import VQA

__all__ = [
    "METRICS",
    "STATUSES",
    "AnswerFigures",
    "Item",
    "Metric",
    "Score",
    "Sums",
    "answer_figures",
    "breakdown",
    "count_statuses",
    "extract_letter",
    "get_metrics",
    "item_of_line",
    "repetition",
    "score",
    "status",
]

METRICS: dict[str, Metric] = {m.name: m for m in (*ANSWERS, *STRICT, *CHOICES, *VQA, *CLASSES, *OVERLAP)}


def get_metrics(names: Sequence[str], *, key: str = "evaluate.metrics") -> list[Metric]:
    """The metrics of these names, in this order. Raises RecipeError with the nearest name where one is not known.

    key: the recipe's key that names them, for the message.
    """
    for name in names:
        if name not in METRICS:
            raise RecipeError(f"{key}: no metric '{name}'.{_suggestion(name)} There are: {', '.join(METRICS)}")
    return [METRICS[name] for name in names]


def score(names: Sequence[str], items: Sequence[Item | None]) -> tuple[dict[str, Score], list[dict[str, float | None]]]:
    """Score of each metric over all items, and each item's own values.

    An item that is None (there was no answer), or that a metric cannot grade, is ungraded there: None in its values, counted
    in `Score.ungraded`, and left out of the mean. Raises RecipeError on an unknown metric.
    """
    values: list[dict[str, float | None]] = [dict.fromkeys(names) for _ in items]
    scores = {}
    for metric in get_metrics(names):
        grades = [metric.grade(item) for item in items]
        for own, grade in zip(values, grades, strict=True):
            own[metric.name] = None if grade is None else grade["value"]
        graded = [(item, grade) for item, grade in zip(items, grades, strict=True) if item is not None and grade is not None]
        total = dict(_total(metric, graded))
        scores[metric.name] = Score(total.pop("value"), n=len(graded), ungraded=len(items) - len(graded), extra=total)
    return scores, values


def breakdown(names: Sequence[str], items: Sequence[Item | None], key: str) -> dict[str, dict[str, Score]]:
    """Scores of the items of each value of ``meta[key]``, commonest value first; items without it are left out."""
    buckets: dict[str, list[Item | None]] = {}
    for item in items:
        if item is not None and item.meta.get(key) is not None:
            buckets.setdefault(str(item.meta[key]), []).append(item)
    return {value: score(names, rows)[0] for value, rows in sorted(buckets.items(), key=lambda pair: -len(pair[1]))}


def _total(metric: Metric, graded: Sequence[tuple[Item, Mapping[str, Any]]]) -> Mapping[str, Any]:
    if not graded:
        return {"value": None}
    if metric.corpus:
        return as_mapping(metric.corpus([item for item, _ in graded])) or {"value": None}
    return {key: fmean(grade[key] for _, grade in graded) for key in graded[0][1]}


def _suggestion(name: str) -> str:
    plain = {_plain(known): known for known in METRICS}
    nearest = get_close_matches(_plain(name), plain, n=1, cutoff=0.4)
    return f" Did you mean '{plain[nearest[0]]}'?" if nearest else ""


def _plain(name: str) -> str:
    return "".join(char for char in str(name).lower() if char.isalnum())
