"""Tests and intervals in closed form, for right and wrong; where the bootstrap would be too narrow."""

from __future__ import annotations

import math

import numpy as np

_MANY = 1_000  # changes from which the normal limit is exact enough
_CELLS = 4_000_000  # numbers held at once


def wilson(right: int, count: int, *, level: float) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927)."""
    from scipy.stats import binomtest

    found = binomtest(right, count).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def bonett_price(fixed: int, broken: int, count: int, *, level: float) -> tuple[float, float]:
    """Interval of the difference of two shares of the same items (Bonett and Price 2012): an item is added to each change."""
    from scipy.stats import norm

    gained, lost = (fixed + 1) / (count + 2), (broken + 1) / (count + 2)
    middle = gained - lost
    half = float(norm.ppf((1 + level) / 2)) * math.sqrt((gained + lost - middle**2) / (count + 2))
    return max(-1.0, middle - half), min(1.0, middle + half)


def mcnemar(fixed: int, broken: int) -> float:
    """Two-sided p-value of McNemar's exact test: whether a changed answer is as likely to have been fixed as broken."""
    from scipy.stats import binomtest

    return float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0


def sign_flips(changes: np.ndarray, *, seed: int) -> float:
    """Two-sided p-value of the sum of `changes` [clusters] if each had either sign by chance.

    With changes of ±1 it is McNemar's exact test. All signs are tried for up to 12 changes, 4,999 random ones for more; from
    1,000 on it is the normal limit, which is McNemar's test for clusters (Durkalski et al. 2003).
    """
    from scipy.stats import norm, permutation_test

    moved = changes[np.abs(changes) > 0]
    if len(moved) < 2:  # one change is as large with either sign
        return 1.0
    if len(moved) >= _MANY:
        return float(2 * norm.sf(abs(moved.sum()) / np.sqrt((moved**2).sum())))
    found = permutation_test(
        (moved,),
        lambda values, axis: np.sum(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=4_999,
        batch=_CELLS // len(moved),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
