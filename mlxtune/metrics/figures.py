"""Figures that describe answers without judging them: how long they are, and how much they repeat themselves."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

from mlxtune.metrics.text import words

_REPETITIVE = 0.5  # share of repeated word triples from which an answer counts as repetitive
_LONG_WORD = 20  # characters; such a "word" is searched for repeated letters instead


class AnswerFigures(NamedTuple):
    """words: lengths in words. repetition: mean over answers. repetitive: share of answers that mostly repeat themselves."""

    n: int
    empty: int
    words_mean: float
    words_median: float
    words_longest: int
    repetition: float
    repetitive: float


def answer_figures(predictions: Sequence[str | None]) -> AnswerFigures | None:
    """Length and repetition of the answers that there are; None where there are none."""
    texts = [text for text in predictions if text is not None]
    if not texts:
        return None
    lengths, repeated = [len(words(text)) for text in texts], [repetition(text) for text in texts]
    return AnswerFigures(
        n=len(texts),
        empty=sum(not text.strip() for text in texts),
        words_mean=fmean(lengths),
        words_median=float(median(lengths)),
        words_longest=max(lengths),
        repetition=fmean(repeated),
        repetitive=fmean(share >= _REPETITIVE for share in repeated),
    )


def repetition(text: str) -> float:
    """Share of word triples that occurred before in the same text, 0 (none, or fewer than four words) to nearly 1.

    Longest word of 20 characters or more: the share of its letter triples instead, if that is larger ("ааааааа…").
    """
    tokens = words(text)
    longest = max(tokens, key=len, default="")
    letters = _repeated(list(longest)) if len(longest) >= _LONG_WORD else 0.0
    return max(_repeated(tokens), letters)


def _repeated(tokens: Sequence[str]) -> float:
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if len(triples) > 1 else 0.0
