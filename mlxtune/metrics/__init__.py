"""Metrics: each a pure function of a prediction and its references, with its definition, source and caveats beside it.

>>> scores, items = score(["exact_match"], ["Paris", None], [("paris",), ("Rome",)])
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
from mlxtune.metrics.base import Grade, Metric, References, Score
from mlxtune.metrics.overlap import OVERLAP

__all__ = ["METRICS", "Metric", "Score", "get_metrics", "score"]

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*ANSWERS, *OVERLAP)}


def get_metrics(names: Sequence[str], *, key: str = "evaluate.metrics") -> list[Metric]:
    """The metrics of these names, in this order. Raises RecipeError with the nearest name where one is not known.

    key: the recipe's key that names them, for the message.
    """
    for name in names:
        if name not in METRICS:
            raise RecipeError(f"{key}: no metric '{name}'.{_suggestion(name)} There are: {', '.join(METRICS)}")
    return [METRICS[name] for name in names]


def score(
    names: Sequence[str], predictions: Sequence[str | None], references: Sequence[References]
) -> tuple[dict[str, Score], list[dict[str, float | None]]]:
    """Score of each metric over all items, and each item's own values.

    An item whose prediction is None, or that has no reference, is ungraded: None in its values, counted in `Score.ungraded`,
    and left out of the mean. Raises RecipeError on an unknown metric.
    """
    assert len(predictions) == len(references), f"{len(predictions)} predictions for {len(references)} items"
    metrics = get_metrics(names)
    items: list[dict[str, float | None]] = [dict.fromkeys(names) for _ in predictions]
    graded = [i for i, (text, accepted) in enumerate(zip(predictions, references, strict=True)) if text is not None and accepted]
    texts, accepted = [predictions[i] for i in graded], [references[i] for i in graded]
    scores = {}
    for metric in metrics:
        grades = [_as_mapping(metric.item(*pair)) for pair in zip(texts, accepted, strict=True)]
        for i, grade in zip(graded, grades, strict=True):
            items[i][metric.name] = grade["value"]
        total = dict(_total(metric, grades, texts, accepted))
        scores[metric.name] = Score(total.pop("value"), n=len(graded), ungraded=len(items) - len(graded), extra=total)
    return scores, items


def _total(metric: Metric, grades: list[Mapping[str, Any]], texts: list[str], accepted: list[References]) -> Mapping[str, Any]:
    if not grades:
        return {"value": None}
    if metric.corpus:
        return _as_mapping(metric.corpus(texts, accepted))
    return {key: fmean(grade[key] for grade in grades) for key in grades[0]}


def _as_mapping(grade: Grade) -> Mapping[str, Any]:
    return grade if isinstance(grade, Mapping) else {"value": grade}


def _suggestion(name: str) -> str:
    plain = {_plain(known): known for known in METRICS}
    nearest = get_close_matches(_plain(name), plain, n=1, cutoff=0.4)
    return f" Did you mean '{plain[nearest[0]]}'?" if nearest else ""


def _plain(name: str) -> str:
    return "".join(char for char in str(name).lower() if char.isalnum())
