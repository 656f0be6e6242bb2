"""Confidence intervals of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlxtune.metrics import METRICS, Item, Metric
from mlxtune.statistics.bootstrap import resample
from mlxtune.statistics.clusters import Keys, summed, together
from mlxtune.statistics.formulas import wilson

FEW = 10  # with fewer right, or fewer wrong, answers than this resampling is too narrow, and a formula is used


class Interval(NamedTuple):
    """low, high: on the metric's scale; None where the values cannot tell (fewer than two clusters, or all alike).

    n: graded items. clusters: how many are independent. method: "BCa bootstrap", "percentile bootstrap", "Wilson" or "none".
    """

    low: float | None
    high: float | None
    level: float
    n: int
    clusters: int
    method: str


def interval(
    values: Sequence[float | None],
    *,
    level: float = 0.95,
    seed: int = 0,
    clusters: Keys = None,
    scale: float = 1.0,
    resamples: int | None = None,
) -> Interval:
    """Interval of the mean of `values`; None among them is ungraded and left out.

    Bootstrap over clusters: BCa, or percentile above 2,000 clusters. Two exceptions use Wilson's score interval: independent
    right-or-wrong values (0 or `scale`) with fewer than ten of one kind; and values that are all 0 or all `scale`, where the
    clusters are what is counted. Resampling either would give too little width, or none. Raises ValueError on unequal lengths.
    """
    (graded,), labels = together(clusters, values)
    if not graded:
        return Interval(None, None, level, 0, 0, "none")
    numbers, count = np.array(graded, np.float64), max(labels) + 1
    right, wrong = int((numbers == scale).sum()), int((numbers == 0).sum())
    if len(numbers) in (right, wrong) or (count == len(numbers) == right + wrong and min(right, wrong) < FEW):
        low, high = wilson(min(right, count), count, level=level)
        return Interval(low * scale, high * scale, level, len(numbers), count, "Wilson")
    found = resample([mean_rows(numbers, labels)], mean, level=level, seed=seed, resamples=resamples)
    return Interval(found.low, found.high, level, len(numbers), count, found.method)


def metric_interval(
    name: str,
    items: Sequence[Item | None],
    *,
    values: Sequence[float | None] | None = None,
    level: float = 0.95,
    seed: int = 0,
    clusters: Keys = None,
) -> Interval:
    """Interval of a metric's value over `items`; a metric over the whole set is computed anew in each resample.

    values: the items' own values as `score` gave them, so that they need not be graded again.
    """
    metric = METRICS[name]
    (own, graded), labels = together(clusters, own_values(metric, items) if values is None else values, items)
    if metric.sums is None or not graded:
        numbers = metric.values(graded) if metric.values else own
        return interval(numbers, level=level, seed=seed, clusters=labels, scale=metric.scale)
    rows, value = metric.sums(graded)
    found = resample([summed(rows, labels)], value, level=level, seed=seed)
    return Interval(found.low, found.high, level, len(graded), max(labels) + 1, found.method)


def own_values(metric: Metric, items: Sequence[Item | None]) -> list[float | None]:
    return [None if grade is None else float(grade["value"]) for grade in map(metric.grade, items)]


def mean_rows(numbers: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """[clusters, 2]: each cluster's sum and size, of which `mean` is the function."""
    return summed(np.column_stack([numbers, np.ones(len(numbers))]), labels)


def mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]
