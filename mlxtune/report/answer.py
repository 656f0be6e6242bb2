"""The answer first: what came of a run, in one sentence that does not say more than its figures do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from mlxtune.text import name, value

OWN = "test"  # the recipe's own test rows

Tone = Literal["good", "bad", "none"]


class Answer(NamedTuple):
    """claim: the sentence. sure: its interval. tone: whether a change to the better or to the worse can be told."""

    claim: str
    sure: str
    tone: Tone

    @property
    def sentence(self) -> str:
        return f"{self.claim} ({self.sure})" if self.sure else self.claim


def answer_of(results: Mapping[str, Any]) -> Answer:
    """Of the content of benchmark_results.json: its first set's deciding metric."""
    if not results["sets"]:
        return Answer("Nothing was asked, so there is no score", "", "none")
    set_name, found = next(iter(results["sets"].items()))
    return set_answer(found, name=set_name)


def set_answer(found: Mapping[str, Any], *, name: str = OWN) -> Answer:
    """Of one set of benchmark_results.json."""
    told = found["metrics"][found["metric"]]
    before, after, change, scale = told["before"], told["after"], told["change"], told["scale"]
    over = f"{_capital(_metric(found['metric']))} on {found['rows']:,} {_rows(name, found['rows'])}"
    last = after or before
    if change is None or change["difference"] is None:
        if last["value"] is None:
            return Answer(f"{over} could not be graded", "", "none")
        return Answer(f"{over} is {value(last['value'], scale=scale)}", interval_words(last, scale=scale), "none")
    values = [value(side["value"], scale=scale) for side in (before, after)]
    if not change["detectable"]:
        over = f"{over[0].lower()}{over[1:]}" if over[1:2].islower() else over
        return Answer(
            f"No detectable change in {over}: {values[0]} before, {values[1]} after", change_words(change, scale), "none"
        )
    up = change["difference"] > 0
    claim = f"{over} {'rose' if up else 'fell'} from {values[0]} to {values[1]}"
    return Answer(claim, change_words(change, scale), "good" if up == told["higher_is_better"] else "bad")


def change_words(change: Mapping[str, Any], scale: float) -> str:
    """ "+43.7 points, 95 %: 38.7 … 48.7"."""
    difference, low, high = (_points(change[key], scale) for key in ("difference", "low", "high"))
    sign = "+" if change["difference"] >= 0 and not difference.startswith("-") else ""
    words = f"{sign}{difference} points"
    return f"{words}, 95 %: {low} … {high}" if change["low"] is not None else words


def interval_words(side: Mapping[str, Any] | None, *, scale: float) -> str:
    """ "95 %: 38.7 … 48.7"; "" where there is none."""
    if side is None or side["low"] is None:
        return ""
    return f"95 %: {_points(side['low'], scale)} … {_points(side['high'], scale)}"


def tone_of(told: Mapping[str, Any]) -> Tone:
    """Of one metric of a set."""
    change = told["change"]
    if change is None or not change["detectable"] or not change["difference"]:
        return "none"
    return "good" if (change["difference"] > 0) == told["higher_is_better"] else "bad"


def _points(number: float | None, scale: float) -> str:
    return "" if number is None else f"{round(100 * number / scale, 1) + 0.0:.1f}"  # + 0.0: no "-0.0"


def _metric(metric: str) -> str:
    return name(metric)


def _rows(set_name: str, rows: int) -> str:
    noun = "question" if rows == 1 else "questions"
    return f"test {noun}" if set_name == OWN else f"{noun} of {set_name}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
