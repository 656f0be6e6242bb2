"""Which items are not independent of each other."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Keys = Sequence[Hashable] | None


def row_clusters(lines: Iterable[Mapping[str, Any]]) -> list[int]:
    """A number for each line of predictions.jsonl; lines that share a picture (`images`) or a `group` have the same one.

    Sharing carries over: if a and b share a picture and b and c a group, all three are one cluster.
    """
    parents: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while parents.setdefault(key, key) != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    own: list[Hashable] = []
    for number, line in enumerate(lines):
        own.append(("line", number))
        shared = [("image", key) for key in line.get("images") or ()]
        if line.get("group"):
            shared.append(("group", line["group"]))
        for key in shared:
            parents[root(key)] = root(("line", number))
    return numbered([root(key) for key in own])


def numbered(keys: Iterable[Hashable]) -> list[int]:
    """Each key as a number, counted from 0 in the order of their first occurrence."""
    order: dict[Hashable, int] = {}
    return [order.setdefault(key, len(order)) for key in keys]


def summed(rows: Any, labels: Sequence[int]) -> Any:
    """Rows [items, K] (numpy or scipy.sparse) summed over clusters, [clusters, K]."""
    from scipy.sparse import csr_array

    count = max(labels) + 1
    if count == len(labels):  # numbered in order: each is its own
        return rows
    places = (np.asarray(labels), np.arange(len(labels)))
    return csr_array((np.ones(len(labels)), places), shape=(count, len(labels))) @ rows


def together(labels: Keys, *columns: Sequence[Any]) -> tuple[list[list[Any]], list[int]]:
    """The columns without the places where one of them is None, and the clusters of those that stay.

    Raises ValueError where the lengths differ.
    """
    keys = range(len(columns[0])) if labels is None else labels
    if len({len(column) for column in (keys, *columns)}) > 1:
        raise ValueError(f"not one value for each item: {', '.join(str(len(column)) for column in (keys, *columns))}")
    kept = [row for row in zip(keys, *columns, strict=True) if all(value is not None for value in row[1:])]
    split = [[row[place] for row in kept] for place in range(len(columns) + 1)]
    return split[1:], numbered(split[0])
