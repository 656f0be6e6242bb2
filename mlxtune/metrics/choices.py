"""Multiple choice: the letter that an answer names, and accuracy by row, by question and by likelihood."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mlxtune.metrics.base import Item, Metric

_LETTERS = 5  # A to E are read as letters even where a question has fewer options, as in lmms-eval
_AFFIXES = [("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ").")]
_AFFIXES += [(":", ""), (":", ","), (":", "."), (":", ")"), (":", ").")]
_LOOK_ALIKES = str.maketrans("АВСЕ", "ABCE")  # Cyrillic to Latin; Cyrillic has no D
_BY_META = ("category", "l2-category")


def extract_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """The option that an answer names; None where it names none, or several.

    In this order: one option letter as a word of its own (unless it is an "A" among more than three words, which may be the
    article); a letter with ``. , : )`` behind it, in brackets or behind a colon; the text of exactly one option inside the
    answer, without regard to case. Last, where all of that fails, Cyrillic А В С Е as letters: with such marks, or as the
    answer's last word and the only such letter, because inside a sentence they are words (в, с, а).

    The letter may be one that the question does not offer.
    """
    letters = sorted({*string.ascii_uppercase[:_LETTERS], *choices})
    words = answer.split()
    return (
        _alone(words, letters)
        or _marked(words, letters)
        or _by_text(answer, choices)
        or _marked([word.translate(_LOOK_ALIKES) for word in words], letters)
        or _cyrillic(words, letters)
    )


def _alone(words: Sequence[str], letters: Sequence[str]) -> str | None:
    found = [letter for letter in letters if letter in words]
    if len(found) != 1 or ("A" in words and len(words) > 3):
        return None
    return found[0]


def _marked(words: Sequence[str], letters: Sequence[str]) -> str | None:
    for before, behind in _AFFIXES:
        found = [letter for letter in letters if before + letter + behind in words]
        if len(found) == 1:
            return found[0]
    return None


def _by_text(answer: str, choices: Mapping[str, str]) -> str | None:
    lowered = answer.lower()
    found = [letter for letter, text in choices.items() if text.strip() and text.lower() in lowered]
    return found[0] if len(found) == 1 else None


def _cyrillic(words: Sequence[str], letters: Sequence[str]) -> str | None:
    """The only Cyrillic look-alike of a letter among the words, where it is the last one."""
    found = {word.translate(_LOOK_ALIKES) for word in words if not word.isascii()} & set(letters)
    return found.pop() if len(found) == 1 and words[-1].translate(_LOOK_ALIKES) in found else None


def _gradable(item: Item) -> bool:
    """Whether there is a right letter: one of the options or, where the options are not known, any single capital letter."""
    wanted = item.references[0]
    return wanted in item.choices if item.choices else len(wanted) == 1 and wanted in string.ascii_uppercase


def accuracy(item: Item) -> float | None:
    return float(extract_letter(item.prediction, item.choices) in item.references) if _gradable(item) else None


def corpus_accuracy(items: Sequence[Item]) -> Mapping[str, Any]:
    """``{"value", "format_errors": answers without a letter, "by_category", "by_l2-category"}``, the last two where known."""
    return {
        "value": fmean(float(accuracy(item) or 0.0) for item in items),
        "format_errors": _format_errors(items),
        **_categories({str(number): [item] for number, item in enumerate(items)}),
    }


def circular_accuracy(items: Sequence[Item]) -> Mapping[str, Any]:
    """`corpus_accuracy` by question; "questions" counts them, "incomplete" those with fewer rotations than options."""
    groups = _groups(items)
    # Where the options are not known there are at least two, so one row alone is no full circle.
    incomplete = sum(len(rows) < max(2, *(len(row.choices) for row in rows)) for rows in groups.values())
    grade = {
        "value": fmean(map(_all_right, groups.values())),
        "questions": len(groups),
        "incomplete": incomplete,
        "format_errors": _format_errors(items),
        **_categories(groups),
    }
    if incomplete:
        grade["note"] = (
            f"{incomplete} of {len(groups)} questions lack rotations, which makes them easier than the protocol has it"
        )
    return grade


def question_values(items: Sequence[Item]) -> list[float | None]:
    """At the first item of each question whether all its rotations are right, at its others None."""
    right = {key: _all_right(rows) for key, rows in _groups(items).items()}
    return [right.pop(_question(item, number), None) for number, item in enumerate(items)]


def option_accuracy(item: Item) -> float | None:
    likelihoods = item.likelihoods or {}
    if not _gradable(item) or not likelihoods or any(math.isnan(value) for value in likelihoods.values()):
        return None
    return float(max(likelihoods, key=likelihoods.__getitem__) in item.references)


def _groups(items: Sequence[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for number, item in enumerate(items):
        groups.setdefault(_question(item, number), []).append(item)
    return groups


def _question(item: Item, number: int) -> str:
    return item.group or f"\0{number}"  # no group is called so


def _all_right(rows: Sequence[Item]) -> float:
    return float(all(accuracy(row) for row in rows))


def _format_errors(items: Sequence[Item]) -> int:
    return sum(not is_parseable(item) for item in items)


def is_parseable(item: Item) -> bool:
    """Whether the answer names a letter; one that the question does not offer will not do."""
    letter = extract_letter(item.prediction, item.choices)
    return letter is not None and (not item.choices or letter in item.choices)


def _categories(groups: Mapping[str, Sequence[Item]]) -> dict[str, Any]:
    """``{"by_category": {name: {"value", "n"}}}`` over the groups' first rows, for each of `_BY_META` that they have."""
    found = {}
    for key in _BY_META:
        values: dict[str, list[float]] = {}
        for rows in groups.values():
            if (name := rows[0].meta.get(key)) is not None:
                values.setdefault(str(name), []).append(_all_right(rows))
        if values:
            found[f"by_{key}"] = {name: {"value": fmean(right), "n": len(right)} for name, right in sorted(values.items())}
    return found


_EXTRACTION = (
    "The letter is one option letter standing alone, else a letter with marks (A. (A) A), else the text of exactly one option "
    "inside the answer; Cyrillic А В С Е are read as letters where all of that finds nothing. No letter is wrong, and counted as "
    "a format error."
)

CHOICES = (
    Metric(
        name="accuracy",
        item=accuracy,
        corpus=corpus_accuracy,
        definition=f"Multiple choice: share of rows whose answer names the right letter. {_EXTRACTION} By category beside it.",
        source="Letter extraction of lmms-eval (tasks/mmbench), without its remote judge; Cyrillic letters are mlxtune's.",
        caveat="Each rotation of a question counts as a row: easier than circular_accuracy, the published MMBench figure. A "
        "small letter ('b') is no letter. An option's text counts also inside another word ('да' in 'когда'), as published. Rows "
        "without options or a letter as reference are ungraded.",
    ),
    Metric(
        name="circular_accuracy",
        item=accuracy,
        corpus=circular_accuracy,
        values=question_values,
        definition="Multiple choice: share of questions that are right in every rotation of their options; rows of one group are "
        f"one question. {_EXTRACTION} An item's own value is whether that rotation is right. By category beside it.",
        source="Liu et al. 2023 (MMBench, CircularEval); grouping and extraction as in lmms-eval.",
        caveat="Answering at random gives nearly 0, not 1 in 4. Where a sample cuts groups apart, the questions get easier: "
        "'incomplete' counts those with fewer rotations than options.",
    ),
    Metric(
        name="option_accuracy",
        item=option_accuracy,
        definition="Multiple choice: share of rows where the right option is the likeliest continuation, the first one of a tie. "
        "No answer is read, so there are no format errors.",
        source="lm-evaluation-harness (multiple_choice), MMLU.",
        caveat="Not comparable with accuracy: it asks what the model would choose, not what it says. Needs option likelihoods "
        "(evaluate.answer_mode); rows without them are ungraded.",
    ),
)
