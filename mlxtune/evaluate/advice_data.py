"""Advice that follows from the data: what the score is worth, and what was lost on the way."""

from __future__ import annotations

import math

from mlxtune.evaluate.advice_rules import Finding, rule
from mlxtune.evaluate.figures import Figures
from mlxtune.text import percent

_SAME = 0.9  # share of the full score from which a control is as good
_FEW_CONTROLS = 30  # rows
_NARROW = 0.02  # an interval of 2 points to each side is as good as one gets
_SKIPPED = 0.02


@rule("seen_in_training", "data.splits")
def seen_in_training(figures: Figures) -> Finding | None:
    data = figures.data
    if data is None or not data.shared_pictures or not data.test_pictures:
        return None
    share = data.shared_pictures / data.test_pictures
    text = (
        f"{data.shared_pictures:,} of {data.test_pictures:,} test pictures ({percent(share)}) are in the training rows too, so "
        "the score measures memory there. Set data.splits.test to a fraction or auto: then no picture is in two splits"
    )
    return Finding(text, {"shared_pictures": data.shared_pictures, "share": share}, 1.0 + share)


@rule("picture_not_needed", "data.filter", "data.path")
def picture_not_needed(figures: Figures) -> Finding | None:
    ratio = _control(figures, "blank")
    if ratio is None or ratio < _SAME:
        return None
    text = (
        f"With blank pictures the score is {percent(ratio, digits=0)} of the full score: the questions don't need the picture. "
        "Keep those that do (data.filter), or take other data (data.path)"
    )
    return Finding(text, _told(figures, "blank", ratio), 1.0)


@rule("picture_not_used", "data.filter", "model.max_pixels")
def picture_not_used(figures: Figures) -> Finding | None:
    ratio = _control(figures, "shuffled")
    if ratio is None or ratio < _SAME:
        return None
    text = (
        f"With the pictures of other rows the score is {percent(ratio, digits=0)} of the full score: it does not come from the "
        "picture that belongs to the question. Check that pictures and questions match, and see data.filter and model.max_pixels"
    )
    return Finding(text, _told(figures, "shuffled", ratio), 0.95)


@rule("majority_is_as_good", "data.balance")
def majority_is_as_good(figures: Figures) -> Finding | None:
    ratio = _control(figures, "majority")
    if ratio is None or ratio < 0.95:
        return None
    text = (
        f"Always giving the commonest training answer to the kind of question scores {percent(ratio, digits=0)} of the model's "
        "score. Even out the answers (data.balance), or train on more rows"
    )
    return Finding(text, _told(figures, "majority", ratio), 0.9)


def _control(figures: Figures, way: str) -> float | None:
    """The control's score as a share of the full score; None where it is unknown or too few rows were asked."""
    controls = figures.controls
    if controls is None or controls.rows < _FEW_CONTROLS or not controls.full:
        return None
    value = getattr(controls, way)
    return None if value is None else value / controls.full


def _told(figures: Figures, way: str, ratio: float) -> dict[str, float]:
    controls = figures.controls
    assert controls and controls.full is not None
    return {"share_of_full": ratio, way: getattr(controls, way), "full": controls.full, "rows": controls.rows}


@rule("forgetting", "data.mix", "train.learning_rate")
def forgetting(figures: Figures) -> Finding | None:
    fallen = {name: one for name, one in figures.sets.items() if one.detectable and one.high is not None and one.high < 0}
    if not fallen:
        return None
    told = ", ".join(f"{name} ({percent(one.before)} to {percent(one.after)})" for name, one in fallen.items())
    loss = max(-(one.change or 0.0) for one in fallen.values())
    text = (
        f"Scores outside the task fell: {told}. Train on some such rows too (data.mix), or lower train.learning_rate "
        f"({figures.recipe.train.learning_rate:g})"
    )
    return Finding(text, {name: one.change or 0.0 for name, one in fallen.items()}, 0.3 + loss)


@rule("rows_skipped", "data.max_skipped")
def rows_skipped(figures: Figures) -> Finding | None:
    data = figures.data
    if data is None or data.used_rows is None:
        return None
    skipped = sum(data.skipped.values())
    share = skipped / (skipped + data.used_rows) if skipped else 0.0
    if share < _SKIPPED:
        return None
    pictures = sum(number for reason, number in data.skipped.items() if "picture" in reason)
    keys = ("data.image_folder", "data.missing_image") if pictures > skipped / 2 else ("data.max_skipped",)
    remedy = "Check data.image_folder" if pictures > skipped / 2 else "Mend them; data.max_skipped says how many are let through"
    why = ", ".join(f"{reason} {number:,}" for reason, number in sorted(data.skipped.items(), key=lambda item: -item[1]))
    text = f"{skipped:,} rows ({percent(share)}) could not be used: {why}. {remedy}; skipped.jsonl names each"
    return Finding(text, {"skipped": skipped, "share": share}, share, keys)


@rule("too_few_test_rows", "evaluate.limit", "data.splits")
def too_few_test_rows(figures: Figures) -> Finding | None:
    """An interval wider than the change: nothing can be claimed, one way or the other."""
    score = figures.score
    if score is None or score.change is None or score.low is None or score.high is None or score.detectable:
        return None
    half = (score.high - score.low) / 2
    if half <= max(_NARROW, abs(score.change)):
        return None
    # The half-width falls with the square root of the rows.
    goal = max(_NARROW, abs(score.change))
    needed = math.ceil(round(score.rows * (half / goal) ** 2, 3) / 50) * 50
    text = (
        f"The change is {100 * score.change:+.1f} points, known to ± {100 * half:.1f} only: {score.rows} test rows are too few "
        f"to tell it from nothing. Raise evaluate.limit (about {needed:,} rows would do), or keep more rows for data.splits.test"
    )
    return Finding(text, {"change": score.change, "half_width": half, "rows": score.rows}, 0.5)


DATA_RULES = (
    seen_in_training,
    picture_not_needed,
    picture_not_used,
    majority_is_as_good,
    forgetting,
    rows_skipped,
    too_few_test_rows,
)
