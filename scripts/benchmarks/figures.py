"""From result lines to figures: medians, ratios, shares of the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import Any

from benchmarks.sides import SIDES

Line = dict[str, Any]


@dataclass(frozen=True)
class Results:
    lines: Sequence[Line]

    def of(self, part: str, **wanted: Any) -> list[Line]:
        """Lines of a part that did not fail."""
        return [
            line
            for line in self.lines
            if line["part"] == part and "error" not in line and all(line.get(key) == value for key, value in wanted.items())
        ]

    def errors(self) -> list[Line]:
        return [line for line in self.lines if "error" in line]

    def middle(self, side: str, family: str, work: str, figure: Callable[[Line], float | None]) -> float | None:
        """Median over the repeats; None where nothing was measured."""
        found = [figure(line) for line in self.of("time", side=side, family=family, work=work)]
        known = [value for value in found if value is not None]
        return median(known) if known else None

    def flops(self, framework: str) -> float | None:
        """Rate of the matrix product, median over the repeats."""
        found = [line["figures"]["flops"] for line in self.of("gemm", side=f"gemm-{framework}")]
        return median(found) if found else None


def whole(line: Line) -> float | None:
    """Seconds from the start of the process to the adapter, or the last answer, on disk."""
    return line["done_s"]


def step(line: Line) -> float | None:
    """Seconds of a step, median over the run without the first."""
    return median(line["steps_s"]) if line["steps_s"] else None


def above(line: Line) -> float | None:
    """Bytes at the peak above the loaded model: MLX's own count; resident for torch on a CPU; CUDA's count there."""
    return line["memory"]["above"]


def shares(results: Results, framework: str, family: str, least: float) -> tuple[list[float], list[float]]:
    """Of the limit, step by step: by the matrix products right before and after it, and by the fastest product of that run.

    least: FLOPs of a step.
    """
    beside, fastest = [], []
    for line in results.of("share", side=f"share-{framework}", family=family):
        for seconds, around in zip(line["alone_s"], pairwise(line["rates"]), strict=True):
            beside.append(least / seconds / mean(around))
            fastest.append(least / seconds / max(line["rates"]))
    return beside, fastest


def peers(side: str, among: Sequence[str]) -> list[str]:
    """Whom a side is compared with: those of its framework that do the same."""
    return [name for name in among if SIDES[name].framework == SIDES[side].framework and not SIDES[name].ours]


def against(
    results: Results, side: str, others: Sequence[str], family: str, work: str, figure: Callable[[Line], float | None]
) -> tuple[float, str] | None:
    """(best of the others ÷ this side, who that is); None where one is not measured."""
    ours = results.middle(side, family, work, figure)
    theirs = {name: value for name in others if (value := results.middle(name, family, work, figure)) is not None}
    if not ours or not theirs:
        return None
    best = min(theirs, key=lambda name: theirs[name])
    return theirs[best] / ours, best


def same_answers(results: Results, side: str, other: str, family: str) -> tuple[int, int] | None:
    """(questions that both answered alike, questions that both answered) in G1."""
    pair = [results.of("time", side=name, family=family, work="G1") for name in (side, other)]
    if not all(pair):
        return None
    mine, theirs = (lines[0]["answers"] for lines in pair)
    shared = mine.keys() & theirs.keys()
    return sum(mine[key] == theirs[key] for key in shared), len(shared)
