"""What `mlxtune score` prints: scores with their intervals, what became of the answers, and why they are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from mlxtune.text import NOTHING, name, percent, value
from mlxtune.ui.tables import say, show_table

_CAUSES = 8  # all are in the file


def show_scores(results: Mapping[str, Any], analysis: Mapping[str, Any], out: Console) -> None:
    """The content of benchmark_results.json and error_analysis.json."""
    found = next(iter(results["sets"].values()))
    compared = analysis["buckets"] is not None
    say(out, f"{found['rows']:,} rows, task {found['task']}")
    if compared:
        rows = [_compared(metric, told) for metric, told in found["metrics"].items()]
        show_table(out, ("metric", "before", "after", "graded", "change"), rows, right=(1, 2, 3))
    else:
        rows = [_alone(metric, told) for metric, told in found["metrics"].items()]
        show_table(out, ("metric", "score", "graded", "interval"), rows, right=(1, 2))
    if compared:
        say(out, "answers  " + " · ".join(f"{name(key)} {one['n']:,}" for key, one in analysis["buckets"].items()))
    for phase in ("before", "after") if compared else ("after",):
        counts = " · ".join(f"{key} {n:,}" for key, n in analysis[phase]["statuses"].items() if n)
        say(out, f"{phase if compared else 'status'}  {counts}")
    _causes(analysis, out, compared=compared)


def _compared(metric: str, told: Mapping[str, Any]) -> tuple[str, ...]:
    before, after = (value(told[phase]["value"], scale=told["scale"]) for phase in ("before", "after"))
    return name(metric), before, after, _graded(told["after"]), told["change"]["text"]


def _alone(metric: str, told: Mapping[str, Any]) -> tuple[str, ...]:
    side, scale = told["after"], told["scale"]
    low, high = (None if side[end] is None else f"{100 * side[end] / scale:.1f}" for end in ("low", "high"))
    return name(metric), value(side["value"], scale=scale), _graded(side), f"95 %: {low} … {high}" if low and high else NOTHING


def _graded(side: Mapping[str, Any]) -> str:
    return f"{side['n']:,}" + (f" of {side['n'] + side['ungraded']:,}" if side["ungraded"] else "")


def _causes(analysis: Mapping[str, Any], out: Console, *, compared: bool) -> None:
    newest = analysis["after"]
    if not newest["causes"]:
        say(out, "no graded answer is wrong" if newest["right"] else "no answer could be graded")
        return
    rows = []
    for cause, told in list(newest["causes"].items())[:_CAUSES]:
        earlier = (analysis["before"]["causes"].get(cause, {"n": 0})["n"],) if compared else ()
        meaning = analysis["definitions"][cause]["description"]
        rows.append((name(cause), *(f"{n:,}" for n in earlier), f"{told['n']:,}", percent(told["share"]), meaning))
    headings = ("why answers are wrong", *(("before", "after") if compared else ("rows",)), "share", "what it means")
    show_table(out, headings, rows, right=(1, 2, 3) if compared else (1, 2))
    if more := len(newest["causes"]) - len(rows):
        say(out, f"and {more} more causes")
