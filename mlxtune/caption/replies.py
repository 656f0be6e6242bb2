"""From what a model wrote to text that may be learned, or a refusal that says what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from mlxtune.metrics.classes import name_words
from mlxtune.text import clean

NO_NAME = "no name"
CUT_SHORT = "cut short"
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?\s*```\Z", re.DOTALL | re.IGNORECASE)


class BadReplyError(Exception):
    """An answer of the wrong form. reason: a few words to count by."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Pair(NamedTuple):
    question: str
    answer: str


def caption_text(text: str) -> str:
    """A caption without space around it, escape sequences and control characters. Raises BadReplyError where none is left."""
    tidy = clean(text).strip()
    if not tidy:
        raise BadReplyError("empty reply")
    if "\ufffd" in tidy:
        raise BadReplyError("broken text")
    return tidy


def question_pairs(text: str, *, count: int, known: Collection[str] = ()) -> list[Pair]:
    """`count` pairs from ``[{"question": "…", "answer": "…"}, …]``; a Markdown fence around it may stand, nothing else.

    More than `count` are cut: that many were asked for. known: questions that the picture has already.
    Raises BadReplyError.
    """
    text = text.strip()
    fenced = _FENCE.match(text)
    try:
        values = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError) as error:
        raise BadReplyError("bad JSON") from error
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise BadReplyError("JSON of another form")
    seen = {_folded(question) for question in known}
    pairs: list[Pair] = []
    for value in values:
        question, answer = value.get("question"), value.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str):
            raise BadReplyError("JSON of another form")
        pair = Pair(caption_text(question), caption_text(answer))
        if (folded := _folded(pair.question)) not in seen:
            seen.add(folded)
            pairs.append(pair)
    if len(pairs) < count:
        raise BadReplyError("too few questions")
    return pairs[:count]


def named(text: str, names: Sequence[str]) -> bool:
    """Whether one of `names` stands in `text` as whole words, by the rule of the metric `recognition_rate`: without regard to
    case, "ё" is "е", hyphens part words."""
    folded = f" {_folded(text)} "
    return any(f" {name} " in folded for name in map(_folded, names) if name)


def _folded(text: str) -> str:
    return " ".join(name_words(text))
