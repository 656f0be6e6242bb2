"""Advice that follows from the wrong answers' causes."""

from __future__ import annotations

import math

from mlxtune.evaluate.advice_rules import Finding, rule
from mlxtune.evaluate.figures import Figures, KindFigures
from mlxtune.text import percent

_FEW_WRONG = 10  # below it a share says nothing
_WEAK_ROWS = 20  # a kind of fewer rows may be weak by chance
_WEAK_GAP = 0.25  # points of a hundred / 100 below the rows of the other kinds
_WEAK_Z = 3.0  # standard errors; looking at many kinds finds two by chance


def _of_family(figures: Figures, family: str, *, least: float, text: str, **told: float) -> Finding | None:
    """Where this family's share of the wrong answers reaches `least`, and there are enough to speak of.

    text: follows "12 % of the wrong answers". told: figures beside that share.
    """
    answers = figures.answers
    if answers is None or answers.wrong < _FEW_WRONG:
        return None
    share = answers.families.get(family, 0.0)
    if share < least:
        return None
    said = f"{percent(share, digits=0)} of the wrong answers {text}"
    return Finding(said, {"share_of_wrong": share, **told}, share * answers.wrong_share)


@rule("wrong_form", "data.suffix", "data.prompt")
def wrong_form(figures: Figures) -> Finding | None:
    """The model knows, but does not say it as the reference does."""
    answers = figures.answers
    if answers is None or answers.wrong < _FEW_WRONG:
        return None
    # What is said in another language may be wrong besides; it has a rule of its own.
    share = answers.families.get("wrong form", 0.0) - answers.causes.get("form_language", 0.0)
    if share < 0.2:
        return None
    told = f"{percent(share, digits=0)} of the wrong answers contain the right one in another form. "
    ask = "Set data.suffix or data.prompt so that the question says which form is wanted"
    keys: tuple[str, ...] = ("data.suffix", "data.prompt")
    if answers.has_options and figures.recipe.evaluate.answer_mode != "options":
        ask += ", or set evaluate.answer_mode: options, where the form cannot be wrong"
        keys += ("evaluate.answer_mode",)
    return Finding(told + ask, {"share_of_wrong": share, "wrong": answers.wrong}, share * answers.wrong_share, keys)


@rule("wrong_language", "data.system", "data.suffix")
def wrong_language(figures: Figures) -> Finding | None:
    answers = figures.answers
    share = answers.causes.get("form_language", 0.0) if answers else 0.0
    if answers is None or answers.wrong < _FEW_WRONG or share < 0.1:
        return None
    text = (
        f"{percent(share, digits=0)} of the wrong answers are in another language than the reference. "
        "Name the language in data.system or data.suffix"
    )
    return Finding(text, {"share_of_wrong": share}, share * answers.wrong_share)


@rule("cut_off", "evaluate.max_new_tokens")
def cut_off(figures: Figures) -> Finding | None:
    limit = figures.recipe.evaluate.max_new_tokens
    text = (
        f"were cut off after {limit} tokens. "
        f"Raise evaluate.max_new_tokens, to {4 * limit} for example, or ask for shorter answers in data.suffix"
    )
    return _of_family(figures, "cut off", least=0.1, text=text, max_new_tokens=limit)


@rule("near_misses", "model.max_pixels")
def near_misses(figures: Figures) -> Finding | None:
    """The right place is found and read badly: that is a matter of resolution before anything else."""
    limit = figures.recipe.model.max_pixels
    now = f"it is {limit:,}" if limit else "it is the model's own"
    text = (
        f"are numbers within 10 % of the right one: the right place, read badly. Raise model.max_pixels ({now}) if memory allows"
    )
    return _of_family(figures, "near miss", least=0.25, text=text)


@rule("repetition", "train.learning_rate", "train.epochs")
def repetition(figures: Figures) -> Finding | None:
    rate = figures.recipe.train.learning_rate
    text = (
        "repeat themselves, as a model does that was trained too hard. "
        f"Lower train.learning_rate ({rate:g}) to {rate / 3:.1g}, or train for fewer train.epochs"
    )
    return _of_family(figures, "repetition", least=0.1, text=text, learning_rate=rate)


@rule("refusals", "data.prompt", "data.system")
def refusals(figures: Figures) -> Finding | None:
    text = (
        "are empty or refuse to answer. "
        "Ask for a best guess in data.prompt or data.system, and look for training rows whose answer is such a refusal"
    )
    return _of_family(figures, "refusal or empty", least=0.15, text=text)


@rule("pictures_missing", "data.image_folder", "data.missing_image")
def pictures_missing(figures: Figures) -> Finding | None:
    text = "were given without a picture, or say that they see none. Check data.image_folder, and set data.missing_image: skip"
    return _of_family(figures, "image missing", least=0.05, text=text)


@rule("references_doubtful")
def references_doubtful(figures: Figures) -> Finding | None:
    text = (
        "meet a reference that is doubtful itself: it contradicts another row, "
        "or has hidden characters or stray punctuation. Mend the test rows listed under reference_doubtful"
    )
    return _of_family(figures, "reference doubtful", least=0.05, text=text)


@rule("weak_kind", "data.mix", "data.balance")
def weak_kind(figures: Figures) -> Finding | None:
    """The kind of question that costs most, where it is far below all others together."""
    kinds = figures.answers.kinds if figures.answers else ()
    weak = [(kind, rest) for kind in kinds if (rest := _rest(kind, kinds)) and _is_weak(kind, rest)]
    if not weak or figures.answers is None:
        return None
    kind, rest = max(weak, key=lambda pair: (pair[1].right / pair[1].n - pair[0].right / pair[0].n) * pair[0].n)
    own, others = kind.right / kind.n, rest.right / rest.n
    text = (
        f"Of the {kind.n} questions with {kind.column} '{kind.value}' {percent(own, digits=0)} are right, of the others "
        f"{percent(others, digits=0)}. Add training rows of that kind (data.mix), or let them come more often "
        f"(data.balance: {kind.column})"
    )
    worth = (others - own) * kind.n / figures.answers.rows
    return Finding(text, {"right_share": own, "right_share_of_others": others, "rows": kind.n}, worth)


def _rest(kind: KindFigures, kinds: tuple[KindFigures, ...]) -> KindFigures | None:
    """All other rows of the same column; None where there are none."""
    others = [other for other in kinds if other.column == kind.column and other.value != kind.value]
    n = sum(other.n for other in others)
    return KindFigures(kind.column, "others", n, sum(other.right for other in others)) if n else None


def _is_weak(kind: KindFigures, rest: KindFigures) -> bool:
    if min(kind.n, rest.n) < _WEAK_ROWS:
        return False
    gap = rest.right / rest.n - kind.right / kind.n
    pooled = (kind.right + rest.right) / (kind.n + rest.n)
    error = math.sqrt(pooled * (1 - pooled) * (1 / kind.n + 1 / rest.n))  # of two proportions, pooled
    return gap >= _WEAK_GAP and gap > _WEAK_Z * error


ANSWER_RULES = (
    wrong_form,
    wrong_language,
    cut_off,
    near_misses,
    repetition,
    refusals,
    pictures_missing,
    references_doubtful,
    weak_kind,
)
