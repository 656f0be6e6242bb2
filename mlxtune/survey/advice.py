"""What to know before training on these rows. Each piece of advice comes from a figure and names what to change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mlxtune.data.duplicates import Shared
from mlxtune.recipe import DataSpec, Recipe
from mlxtune.survey.model import TokenFacts, answer_limit
from mlxtune.survey.pictures import TINY
from mlxtune.survey.rows import SplitFacts, SplitKeys
from mlxtune.text import percent

_MAJORITY = 0.4
_ENOUGH = 10  # rows; of fewer, one answer may well be half
_FEW_TESTS = 200  # below it a score of 50 % is known to 7 points at best
_UNEVEN = 5  # times more rows of one class than of another


@dataclass(frozen=True)
class Advice:
    text: str
    remedy: str


def advise(
    splits: Sequence[SplitFacts],
    *,
    keys: Mapping[str, SplitKeys],
    shared: Sequence[tuple[tuple[str, str], Shared]],
    tokens: Mapping[str, TokenFacts],
    recipe: Recipe,
) -> tuple[Advice, ...]:
    """The gravest first: what makes a score wrong, then what is lost, then what may be improved."""
    found = [*_asked_in_two(splits, keys), *_seen_in_two(shared)]
    for split in splits:
        found += [*_pictures(split), *_answers(split)]
        if split.name in tokens:
            found += _tokens(split.name, tokens[split.name], recipe=recipe)
    return (*found, *_balance(splits, recipe.data), *_few(splits, recipe))


def _asked_in_two(splits: Sequence[SplitFacts], keys: Mapping[str, SplitKeys]) -> Iterator[Advice]:
    for first, second in combinations([split.name for split in splits], 2):
        if number := len(np.intersect1d(keys[first].questions, keys[second].questions, assume_unique=True)):
            yield Advice(
                f"{number:,} {_plural(number, 'question')} {_are(number)} asked of the same picture in {first} and in {second}: "
                f"a score there would measure memory",
                "Set data.splits to fractions or auto; then no picture is in two splits",
            )


def _seen_in_two(shared: Sequence[tuple[tuple[str, str], Shared]]) -> Iterator[Advice]:
    for (first, second), pictures in shared:
        name = f"'{pictures.first}'" if pictures.first == pictures.second else f"'{pictures.first}' = '{pictures.second}'"
        yield Advice(
            f"{pictures.count:,} {_plural(pictures.count, 'picture')} {_are(pictures.count)} in {first} and in {second}, "
            f"such as {name}",
            "For a score on pictures that the model has never seen, set data.splits to fractions or auto",
        )


def _pictures(split: SplitFacts) -> Iterator[Advice]:
    pictures = split.pictures
    if pictures.unreadable:
        yield Advice(
            f"{split.name}: {pictures.unreadable:,} of {pictures.count:,} pictures cannot be read, first: {pictures.problems[0]}",
            "Replace the files, or remove their rows",
        )
    if pictures.blank:
        yield Advice(
            f"{split.name}: {pictures.blank:,} of {pictures.decoded:,} pictures looked at are of one colour: "
            f"{_first(pictures.blank_keys, pictures.blank)}",
            "Look at these files; a picture that shows nothing teaches the model to guess",
        )
    if pictures.tiny:
        yield Advice(
            f"{split.name}: {pictures.tiny:,} {_plural(pictures.tiny, 'picture')} {_are(pictures.tiny)} less than {TINY} pixels "
            f"high or wide: {_first(pictures.tiny_keys, pictures.tiny)}",
            "Check whether these are thumbnails; raise model.min_pixels, or remove their rows",
        )


def _answers(split: SplitFacts) -> Iterator[Advice]:
    best = split.answers.values[0]
    if best.share > _MAJORITY and split.rows >= _ENOUGH:
        yield Advice(
            f"{split.name}: {percent(best.share)} of the answers are '{_short(best.value)}'; a model that always says so scores "
            "as much",
            "Compare scores with that share, or add rows with other answers",
        )
    if split.contradicted:
        yield Advice(
            f"{split.name}: {split.contradicted:,} {_plural(split.contradicted, 'question')} {_are(split.contradicted)} asked "
            f"again {_of_what(split)} with another answer",
            "Keep one answer, or give all accepted ones as a list in one row",
        )
    if split.repeated > split.contradicted:
        number = split.repeated - split.contradicted
        yield Advice(
            f"{split.name}: {number:,} {_plural(number, 'row')} {_are(number)} the same question asked again {_of_what(split)}",
            "Remove the copies; they count twice in training and in scores",
        )
    if split.list_like.count:
        yield Advice(
            f"{split.name}: {split.list_like.count:,} {_plural(split.list_like.count, 'answer')} {_are(split.list_like.count)} "
            f"written as a list, as in row '{split.list_like.first}'; they are learned as that text",
            "If the row means several accepted answers, store a list instead of text",
        )
    if split.hidden.count:
        yield Advice(
            f"{split.name}: {split.hidden.count:,} {_plural(split.hidden.count, 'row')} hold control characters or marks that "
            f"turn the direction of text, first '{split.hidden.first}'; the model sees them, this page does not show them",
            "Remove them from the data",
        )


def _tokens(name: str, tokens: TokenFacts, *, recipe: Recipe) -> Iterator[Advice]:
    if tokens.refused:
        yield Advice(
            f"{name}: {tokens.refused:,} of {tokens.refused + tokens.rows:,} sampled rows are refused by the model's processor, "
            f"first: {tokens.problem}",
            "Mend or remove these rows",
        )
    if tokens.too_long:
        yield Advice(
            f"{name}: {tokens.too_long:,} of {tokens.rows:,} sampled rows are longer than train.max_tokens "
            f"{recipe.train.max_tokens}",
            f"Raise train.max_tokens (the longest has {tokens.whole.most:,}), or lower model.max_pixels",
        )
    if tokens.unanswerable:
        yield Advice(
            f"{name}: {tokens.unanswerable:,} of {tokens.rows:,} sampled answers are longer than the "
            f"{answer_limit(name, recipe)} tokens that the model may answer in: it cannot finish them",
            f"Set {_limit_key(name, recipe)} to {tokens.answers.most} or more",
        )


def _balance(splits: Sequence[SplitFacts], spec: DataSpec) -> Iterator[Advice]:
    train = next((split for split in splits if split.name == "train"), None)
    classes = train.meta.get("class") if train else None
    if classes is None or spec.balance or len(classes.values) < 2 or classes.distinct != len(classes.values):
        return
    most, least = classes.values[0], classes.values[-1]
    if most.count > _UNEVEN * least.count:
        yield Advice(
            f"train: class '{_short(most.value)}' has {most.count:,} rows, '{_short(least.value)}' {least.count:,}",
            "Set data.balance: class, so that each trains equally often",
        )


def _few(splits: Sequence[SplitFacts], recipe: Recipe) -> Iterator[Advice]:
    test = next((split for split in splits if split.name == "test"), None)
    asked = min(test.rows, recipe.evaluate.limit or test.rows) if test else _FEW_TESTS
    if asked < _FEW_TESTS and recipe.evaluate.limit != 0:
        points = 100 * 1.96 * math.sqrt(0.25 / asked)
        yield Advice(
            f"test: {asked:,} {_plural(asked, 'row')} {_are(asked)} asked; a score near 50 % is known to ± {points:.0f} points",
            "Give more rows to data.splits.test, or raise data.limit.test and evaluate.limit",
        )


def _limit_key(name: str, recipe: Recipe) -> str:
    return f"evaluate.sets.{name}.max_new_tokens" if name in recipe.evaluate.sets else "evaluate.max_new_tokens"


def _of_what(split: SplitFacts) -> str:
    return "of the same picture" if split.text_only < split.rows else "without a picture"


def _first(keys: Sequence[str], total: int) -> str:
    return ", ".join(keys) + (", …" if total > len(keys) else "")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"


def _plural(number: int, word: str) -> str:
    return word if number == 1 else f"{word}s"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
