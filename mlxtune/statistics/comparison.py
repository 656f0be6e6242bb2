"""Before and after on the same items: how large the change is, and whether it is more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlxtune.metrics import METRICS, Item
from mlxtune.statistics.bootstrap import resample
from mlxtune.statistics.clusters import Keys, summed, together
from mlxtune.statistics.formulas import bonett_price, mcnemar, sign_flips
from mlxtune.statistics.intervals import FEW, mean, mean_rows, own_values

_NOTHING = 1e-9  # of the scale; sums of floats in another order differ by less


class Paired(NamedTuple):
    """A change on the same items. difference, low, high: after minus before, on the metric's scale; None where unknown.

    p_value: two-sided. n: items (of circular_accuracy: questions) graded both times. fixed, broken: how many of them rose and
    fell; with right or wrong: became right, became wrong. method: of the p-value, then of the interval.
    """

    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    n: int
    fixed: int
    broken: int
    method: str
    level: float = 0.95
    scale: float = 1.0

    @property
    def detectable(self) -> bool:
        """Whether test and interval agree that there is a change."""
        if self.low is None or self.high is None or self.p_value is None:
            return False
        return self.p_value <= 1 - self.level and not self.low <= 0.0 <= self.high

    def sentence(self) -> str:
        """In points of a hundred: "+31.0 points (95 %: 27.1 … 34.8)", "no detectable change (+1.0 points, 95 %: -0.8 … 2.9)"."""
        if self.difference is None:
            return "no change can be told: nothing was graded both times"
        change = f"{self._points(self.difference, sign='+')} points"
        if self.low is None or self.high is None:
            return f"no detectable change ({change})"
        sides = f"{self.level * 100:g} %: {self._points(self.low)} … {self._points(self.high)}"
        if self.detectable:
            return f"{change} ({sides})"
        # The interval alone would say otherwise; the test, which is exact, does not agree.
        doubt = "" if self.low <= 0.0 <= self.high or self.p_value is None else f"; p = {self.p_value:.2f}"
        return f"no detectable change ({change}, {sides}{doubt})"

    def _points(self, value: float, *, sign: str = "-") -> str:
        return f"{round(value * 100 / self.scale, 1) + 0.0:{sign}.1f}"  # + 0.0: no "-0.0"


def paired(
    before: Sequence[float | None],
    after: Sequence[float | None],
    *,
    level: float = 0.95,
    seed: int = 0,
    clusters: Keys = None,
    scale: float = 1.0,
    resamples: int | None = None,
) -> Paired:
    """The change of a mean between two gradings of the same items in the same order; pairs with a None are left out.

    p-value: McNemar's exact test for independent right-or-wrong values (0 or `scale`); else random sign flips of the clusters'
    summed changes, of which McNemar's is a special case. Interval: paired bootstrap over clusters; for right or wrong with
    fewer than ten changed answers Bonett and Price's, because resampling is too narrow there. Raises ValueError on unequal
    lengths.
    """
    (first, second), labels = together(clusters, before, after)
    if not first:
        return Paired(None, None, None, None, 0, 0, 0, "none", level, scale)
    changes = _changes(first, second, scale=scale)
    fixed, broken = int((changes > 0).sum()), int((changes < 0).sum())
    rows = mean_rows(changes, labels)
    count = len(rows)
    independent = count == len(changes) and set(first) | set(second) <= {0.0, scale}
    p_value = mcnemar(fixed, broken) if independent else sign_flips(rows[:, 0], seed=seed)
    if (independent and fixed + broken < FEW) or set(changes) in ({0.0}, {scale}, {-scale}):
        low, high = bonett_price(min(fixed, count), min(broken, count), count, level=level)
        low, high, method = low * scale, high * scale, "Bonett-Price interval"
    else:
        low, high, method, _ = resample([rows], mean, level=level, seed=seed, resamples=resamples)
    test = "McNemar exact" if independent else "sign flips"
    return Paired(
        float(changes.mean()), low, high, p_value, len(changes), fixed, broken, f"{test}, {method}", level=level, scale=scale
    )


def paired_metric(
    name: str,
    before: Sequence[Item | None],
    after: Sequence[Item | None],
    *,
    values: tuple[Sequence[float | None], Sequence[float | None]] | None = None,
    level: float = 0.95,
    seed: int = 0,
    clusters: Keys = None,
) -> Paired:
    """The change of a metric's value between two sets of answers to the same questions in the same order.

    values: the items' own values as `score` gave them, so that they need not be graded again. For a metric over the whole set,
    the paired bootstrap (Koehn 2004) gives both the interval and the p-value.
    """
    metric = METRICS[name]
    own = values or [own_values(metric, items) for items in (before, after)]
    (first, second, old, new), labels = together(clusters, *own, before, after)
    if metric.sums is None or not first:
        if metric.values:
            first, second = metric.values(old), metric.values(new)
        return paired(first, second, level=level, seed=seed, clusters=labels, scale=metric.scale)
    (rows, value), (new_rows, new_value) = metric.sums(old), metric.sums(new)
    parts = [summed(rows, labels), summed(new_rows, labels)]
    found = resample(parts, lambda left, right: new_value(right) - value(left), level=level, seed=seed)
    changes = _changes(first, second, scale=metric.scale)
    return Paired(
        difference=float(new_value(parts[1].sum(axis=0)) - value(parts[0].sum(axis=0))),
        low=found.low,
        high=found.high,
        p_value=_bootstrap_p(found.values) if found.low is not None else 1.0,
        n=len(first),
        fixed=int((changes > 0).sum()),
        broken=int((changes < 0).sum()),
        method=f"paired {found.method}",
        level=level,
        scale=metric.scale,
    )


def _changes(before: Sequence[float], after: Sequence[float], *, scale: float) -> np.ndarray:
    changes = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return np.where(np.abs(changes) > _NOTHING * scale, changes, 0.0)


def _bootstrap_p(values: np.ndarray) -> float:
    """Twice the share of resampled differences on the rarer side of zero."""
    below, above = int((values <= 0).sum()), int((values >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(values) + 1))
