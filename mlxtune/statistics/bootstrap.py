"""The bootstrap over clusters, for means and for any function of sums; by scipy.stats.bootstrap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

_DRAWS = 10_000_000  # clusters drawn in all: what bounds the time
_RESAMPLES = (1_000, 9_999)
_CELLS = 4_000_000  # numbers held at once
_SKEWED_UP_TO = 2_000  # clusters; beyond, BCa's correction vanishes and its jackknife is what costs


class Resampled(NamedTuple):
    """low, high: None where all resamples are equal, or there are fewer than two clusters. values: [resamples]."""

    low: float | None
    high: float | None
    method: str
    values: np.ndarray


def resample(
    parts: Sequence[Any], value: Callable[..., np.ndarray], *, level: float, seed: int, resamples: int | None = None
) -> Resampled:
    """Bootstrap of `value(*sums)`, where the sums [..., K] are those of each part's rows [clusters, K] (numpy or scipy.sparse).

    BCa; percentile where BCa has no answer or there are many clusters. The number of resamples follows from their cost, unless
    it is given.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    count = parts[0].shape[0]
    if count < 2:
        return Resampled(None, None, "none", np.empty(0))

    def statistic(drawn: np.ndarray, axis: int = -1) -> np.ndarray:  # [..., draws] places -> [...]
        flat = drawn.reshape(-1, drawn.shape[-1])
        offsets = np.arange(len(flat))[:, None] * count
        times = np.bincount((flat + offsets).ravel(), minlength=len(flat) * count).reshape(len(flat), count)
        return np.asarray(value(*(times.astype(np.float64) @ part for part in parts))).reshape(drawn.shape[:-1])

    method = "BCa" if count <= _SKEWED_UP_TO else "percentile"
    settings: dict[str, Any] = {
        "vectorized": True,
        "axis": -1,
        "confidence_level": level,
        "n_resamples": resamples or int(np.clip(_DRAWS // count, *_RESAMPLES)),
        "batch": max(1, _CELLS // max(count, *(part.shape[1] for part in parts))),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # answered below
        warnings.simplefilter("ignore", RuntimeWarning)
        found = bootstrap((np.arange(count),), statistic, method=method, rng=np.random.default_rng(seed), **settings)
    values = found.bootstrap_distribution
    if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return Resampled(None, None, "none", values)
    low, high = map(float, found.confidence_interval)
    if not np.isfinite([low, high]).all():
        low, high = map(float, np.quantile(values, [(1 - level) / 2, (1 + level) / 2]))
        method = "percentile"
    return Resampled(low, high, f"{method} bootstrap", values)
