"""Advice that follows from the curves: what the losses, the gradients and the score did."""

from __future__ import annotations

from statistics import fmean, median

from mlxtune.evaluate.advice_rules import Finding, rule
from mlxtune.evaluate.figures import Figures
from mlxtune.text import name, percent

_RISE = 1.05  # a validation loss this much above its best is more than its noise
_PLATEAU_NATS = 1.0  # a loss below is no plateau: the model is sure of what it says
_PLATEAU_FALL = 0.1
_LEARNED_FALL = 0.3
_SPIKE = 10  # times the median gradient norm
_STILL_FALLING = 0.03  # of the loss, between the last two looks


def ends(losses: tuple[float, ...]) -> tuple[float, float] | None:
    """Mean loss of the first and of the last tenth of the steps (at least five each); None where there are too few steps."""
    size = max(5, len(losses) // 10)
    return (fmean(losses[:size]), fmean(losses[-size:])) if len(losses) >= 4 * size else None


@rule("overfit", "train.epochs", "train.best")
def overfit(figures: Figures) -> Finding | None:
    looks = figures.training.validation if figures.training else ()
    if len(looks) < 3:
        return None
    step, best = min(looks, key=lambda look: look[1])
    last_step, last = looks[-1]
    if last < best * _RISE or step == last_step:
        return None
    kept = "" if figures.recipe.train.best else " Set train.best: loss to keep the best checkpoint."
    text = (
        f"The validation loss rises from step {step} on, from {best:.3g} to {last:.3g} at step {last_step}: "
        f"the rest was learned by heart. Lower train.epochs, or add training rows.{kept}"
    )
    return Finding(text.rstrip("."), {"step": step, "best_loss": best, "last_loss": last}, min(0.5, (last / best - 1)))


@rule("plateau", "train.learning_rate", "lora.rank", "data.target")
def plateau(figures: Figures) -> Finding | None:
    """The silent failure of many fine-tunes: labels on the wrong tokens, or a rate that moves nothing."""
    found = ends(figures.training.losses) if figures.training else None
    if found is None:
        return None
    first, last = found
    if last < _PLATEAU_NATS or last < (1 - _PLATEAU_FALL) * first:
        return None
    train = figures.recipe.train
    text = (
        f"The training loss never left its plateau: {first:.3g} at the start, {last:.3g} at the end. See what is "
        "learned (the page of `mlxtune data`) and whether data.target is the answer; then raise "
        f"train.learning_rate ({train.learning_rate:g}) or lora.rank ({figures.recipe.lora.rank})"
    )
    return Finding(text, {"first_loss": first, "last_loss": last, "learning_rate": train.learning_rate}, 1.5)


@rule("loss_without_score", "data.suffix", "evaluate.metrics")
def loss_without_score(figures: Figures) -> Finding | None:
    found = ends(figures.training.losses) if figures.training else None
    score = figures.score
    if found is None or score is None or score.change is None or score.low is None:
        return None
    first, last = found
    if last > (1 - _LEARNED_FALL) * first or score.low > 0 or (score.before or 0.0) > 0.95:
        return None
    text = (
        f"The training loss fell from {first:.3g} to {last:.3g}, but the score did not rise ({percent(score.before)} before, "
        f"{percent(score.after)} after). The training answers may have another form than the test's: compare them, and see "
        "data.suffix and evaluate.metrics"
    )
    return Finding(text, {"first_loss": first, "last_loss": last, "change": score.change}, 0.6)


@rule("got_worse", "train.learning_rate", "train.epochs")
def got_worse(figures: Figures) -> Finding | None:
    score = figures.score
    if score is None or score.change is None or score.high is None or score.high >= 0 or not score.detectable:
        return None
    rate = figures.recipe.train.learning_rate
    text = (
        f"The score fell from {percent(score.before)} to {percent(score.after)}. Lower train.learning_rate ({rate:g}) to "
        f"{rate / 3:.1g} or train.epochs, and look at the rows in the bucket 'broken'"
    )
    return Finding(text, {"change": score.change, "learning_rate": rate}, 1.0 - score.change)


@rule("gradient_spikes", "train.warmup", "train.learning_rate", "train.clip")
def gradient_spikes(figures: Figures) -> Finding | None:
    norms = figures.training.grad_norms if figures.training else ()
    if len(norms) < 20:
        return None
    usual = median(norms)
    spikes = [step for step, norm in enumerate(norms, start=1) if norm > _SPIKE * usual]
    if len(spikes) < max(2, len(norms) / 100):
        return None
    train = figures.recipe.train
    clip = "set train.clip to 1" if train.clip is None else f"lower train.clip ({train.clip:g})"
    text = (
        f"The gradient norm was more than {_SPIKE} times its median ({usual:.3g}) at {len(spikes)} steps, first at step "
        f"{spikes[0]}. Raise train.warmup ({train.warmup:g}), lower train.learning_rate ({train.learning_rate:g}), or {clip}"
    )
    return Finding(text, {"spikes": len(spikes), "median_norm": usual, "first_step": spikes[0]}, 0.15)


@rule("still_improving", "train.epochs")
def still_improving(figures: Figures) -> Finding | None:
    looks = figures.training.validation if figures.training else ()
    score = figures.score
    if len(looks) < 3 or (score and score.high is not None and score.high < 0):
        return None
    (_, before), (step, last) = looks[-2:]
    if last > (1 - _STILL_FALLING) * before or last > min(loss for _, loss in looks):
        return None
    text = f"The validation loss was still falling at the end (from {before:.3g} to {last:.3g} at the last look, step {step}). "
    told = {"loss_before": before, "last_loss": last, "step": step}
    train = figures.recipe.train
    if figures.training and figures.training.out_of_patience:
        watched = name(train.best or "loss")
        text += f"train.patience ({train.patience}) ended the run because {watched} did not get better: raise it"
        return Finding(text, told, 0.1, ("train.patience",))
    return Finding(f"{text}Raise train.epochs or train.steps", told, 0.1, _length_keys(figures))


def _length_keys(figures: Figures) -> tuple[str, ...]:
    return ("train.steps",) if figures.recipe.train.steps is not None else ("train.epochs",)


TRAINING_RULES = (plateau, got_worse, loss_without_score, overfit, gradient_spikes, still_improving)
