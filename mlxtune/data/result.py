"""What loading gives: the splits, and everything a person or the run's record should know of how they came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mlxtune.data.duplicates import Shared
from mlxtune.data.examples import Examples, data_fingerprint
from mlxtune.data.policy import SkippedRows
from mlxtune.data.read import Sink


class Origin(NamedTuple):
    """Where a split comes from, in words. auto: whether we chose it."""

    source: str
    how: str
    auto: bool


@dataclass(frozen=True)
class Data:
    """splits: in the order train, validation, test. shared: pictures in two splits, by their pair.

    without_picture: pictures that are missing or broken and whose rows are asked
    all the same. mixed: source and distinct rows of each entry of `data.mix`; they stand behind the data set's own in "train".
    """

    splits: Mapping[str, Examples]
    origins: Mapping[str, Origin]
    skipped: SkippedRows
    without_picture: Mapping[str, Mapping[str, int]]
    shared: Mapping[tuple[str, str], Shared]
    mixed: tuple[tuple[str, int], ...]
    sink: Sink = field(repr=False)

    @property
    def notices(self) -> tuple[str, ...]:
        """What a person should see before the first step, one line each."""
        return (*self._chosen(), *self._left_out(), *self._in_two())

    def record(self) -> dict[str, Any]:
        """For the run's record, as JSON. A split's "rows" counts repeats, "distinct" does not."""
        return {
            "sha256": data_fingerprint(self.splits),
            "splits": {
                key: {
                    "rows": len(rows),
                    "distinct": len(np.unique(rows.rows)),
                    "pictures": rows.pictures(),
                    "sha256": data_fingerprint({key: rows}),
                    **self.origins[key]._asdict(),
                }
                for key, rows in self.splits.items()
            },
            "mix": [{"source": source, "rows": rows} for source, rows in self.mixed],
            "skipped": {split: dict(reasons) for split, reasons in self.skipped.counts.items()},
            "without_picture": {split: dict(reasons) for split, reasons in self.without_picture.items()},
            "shared_pictures": [
                {"splits": list(pair), "pictures": shared.count, "first": [shared.first, shared.second]}
                for pair, shared in self.shared.items()
            ],
        }

    def split_lines(self) -> Iterator[dict[str, Any]]:
        """Lines of splits.jsonl: every row once, in order, with "times" where it comes more than once."""
        for key, examples in self.splits.items():
            _, first, times = np.unique(examples.rows, return_index=True, return_counts=True)
            for place, count in zip(first.tolist(), times.tolist(), strict=True):
                head = examples.head(place)
                line = {"split": key, "id": head.id, "where": head.where, "sha256": head.sha256.hex()}
                yield line | ({"times": count} if count > 1 else {})

    def skipped_lines(self) -> Iterator[dict[str, str]]:
        """Lines of skipped.jsonl."""
        return (row._asdict() for row in self.skipped)

    def _chosen(self) -> Iterator[str]:
        chosen = [f"{key} is {origin.how}" for key, origin in self.origins.items() if origin.auto]
        if chosen:
            cut = any("of the rows" in line for line in chosen)
            source = next(origin.source for origin in self.origins.values() if origin.auto)
            yield f"{source}: {', '.join(chosen)}" + (", cut so that no picture is in two splits" if cut else "")

    def _left_out(self) -> Iterator[str]:
        for split, reasons in self.skipped.counts.items():
            yield f"{_many(reasons.total(), 'row')} of {split} left out ({_counted(reasons)})"
        for split, reasons in self.without_picture.items():
            yield f"{_many(sum(reasons.values()), 'picture')} of {split} done without ({_counted(reasons)})"

    def _in_two(self) -> Iterator[str]:
        for (one, other), shared in self.shared.items():
            name = f"'{shared.first}'" if shared.first == shared.second else f"'{shared.first}' = '{shared.second}'"
            are = "are" if shared.count > 1 else "is"
            yield f"{_many(shared.count, 'picture')} {are} both in {one} and in {other}, such as {name}: scores may be too good"


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("s" if count > 1 else "")
