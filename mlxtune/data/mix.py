"""How often each training row comes in a pass: balanced over a column, weighted beside other data sets."""

from __future__ import annotations

import hashlib

import numpy as np

from mlxtune.data.examples import Store
from mlxtune.errors import DataError


def balanced(store: Store, rows: np.ndarray, *, seed: int) -> np.ndarray:
    """[N] int64: how often each row comes so that every value of the balanced column comes as often as the commonest one.

    Rows without a value come once. Which rows come once more than others is drawn from their contents and the seed.
    """
    codes = np.array(store.codes)[rows]
    times = np.ones(len(rows), np.int64)
    values, counts = np.unique(codes[codes >= 0], return_counts=True)
    for value, count in zip(values, counts, strict=True):
        places = np.flatnonzero(codes == value)
        times[places], rest = divmod(int(counts.max()), int(count))
        times[_drawn(store, rows, places, rest, seed=seed)] += 1
    return times


def weighted(store: Store, rows: np.ndarray, times: np.ndarray, *, weight: float, seed: int) -> np.ndarray:
    """`times` with each row's copies times `weight`; what is not whole goes to drawn rows. The sum is right to half a row."""
    scaled = times * weight
    whole = np.floor(scaled + 1e-9).astype(np.int64)
    over = np.round(scaled - whole, 9)
    for part in np.unique(over[over > 0]):  # rows that came equally often
        places = np.flatnonzero(over == part)
        whole[_drawn(store, rows, places, round(len(places) * part), seed=seed)] += 1
    return whole


def repeated(times: np.ndarray) -> np.ndarray:
    """Places of the rows, each as often as `times` says, in order."""
    return np.repeat(np.arange(len(times)), times)


def check_balance(column: str, *, rows: int, columns: tuple[str, ...], name: str) -> None:
    """rows: how many training rows have the column. Raises DataError where none has."""
    if not rows:
        there = ", ".join(f"'{one}'" for one in columns)
        raise DataError(f"data.balance: no training row of {name} has a '{column}'; there are {there}. Set one of them, or null")


def _drawn(store: Store, rows: np.ndarray, places: np.ndarray, count: int, *, seed: int) -> list[int]:
    """`count` of the places: those whose rows hash lowest, so that neither order nor machine decides."""
    salt = seed.to_bytes(16, "little")

    def lot(place: int) -> bytes:
        row = int(rows[place])
        return hashlib.blake2b(store.digests[32 * row : 32 * row + 32], key=salt, digest_size=8).digest()

    return sorted(places.tolist(), key=lot)[:count] if count else []
