"""Experiment trackers: TensorBoard, Weights & Biases and trackio are told what the terminal is told."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from mlxtune.errors import RecipeError
from mlxtune.events import Evaluated, Event, Observer, StepDone, Validated
from mlxtune.recipe import Recipe
from mlxtune.runs import RunFolder

_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
_PROJECT = "mlxtune"

Log = Callable[[Mapping[str, float], int], None]  # values and the step that they belong to


def check_trackers(names: Sequence[str]) -> None:
    """Refuses (RecipeError) a tracker whose package is not installed, before anything is computed."""
    for name in names:
        if importlib.util.find_spec(_MODULES[name]) is None:
            raise RecipeError(f"report.trackers: {name} is not installed. Run: pip install 'mlxtune[{name}]', or take it out")


@contextmanager
def tracked(observe: Observer, recipe: Recipe, run: RunFolder) -> Iterator[Observer]:
    """An observer that tells the recipe's trackers too; they are closed at the end, however it comes."""
    with ExitStack() as stack:
        logs = [stack.enter_context(_OPEN[name](recipe, run)) for name in recipe.report.trackers]
        step = 0

        def told(event: Event) -> None:
            nonlocal step
            observe(event)
            if isinstance(event, (StepDone, Validated)):
                step = event.step
            if logs and (values := _values(event)):
                for log in logs:
                    log(values, step)

        yield told


def _values(event: Event) -> dict[str, float]:
    match event:
        case StepDone():
            speed = {"tokens_per_s": event.tokens / event.wall_s, "samples_per_s": event.samples / event.wall_s}
            names = ("loss", "learning_rate", "grad_norm", "peak_bytes")
            return {f"train/{name}": value for name, value in {**{n: getattr(event, n) for n in names}, **speed}.items()}
        case Validated():
            scores = {"loss": event.loss, **event.scores}
            return {f"validation/{name}": value for name, value in scores.items() if value is not None}
        case Evaluated():
            return {f"{event.phase}/{name}": score.value for name, score in event.scores.items() if score.value is not None}
    return {}


@contextmanager
def _tensorboard(recipe: Recipe, run: RunFolder) -> Iterator[Log]:
    writer = importlib.import_module("tensorboardX").SummaryWriter(str(run.path / "tensorboard"))

    def log(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, global_step=step)

    try:
        yield log
    finally:
        writer.close()


@contextmanager
def _wandb(recipe: Recipe, run: RunFolder) -> Iterator[Log]:
    # Under the folder's name, so that a resumed run goes on where it was.
    settings: dict[str, Any] = {"id": run.path.name, "resume": "allow", "dir": str(run.path)}
    session = importlib.import_module("wandb").init(project=_PROJECT, name=run.path.name, config=recipe.model_dump(), **settings)
    try:
        yield lambda values, step: session.log(dict(values), step=step)
    finally:
        session.finish()


@contextmanager
def _trackio(recipe: Recipe, run: RunFolder) -> Iterator[Log]:
    session = importlib.import_module("trackio").init(
        project=_PROJECT, name=run.path.name, config=recipe.model_dump(), resume="allow"
    )
    try:
        yield lambda values, step: session.log(dict(values), step=step)
    finally:
        session.finish()


_OPEN = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
