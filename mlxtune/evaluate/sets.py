"""What is asked: the recipe's own test rows, and further data sets under names of their own, each with its task's scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxtune.data import Data, load_set
from mlxtune.errors import RecipeError
from mlxtune.evaluate.results import OWN, folder
from mlxtune.metrics import get_metrics
from mlxtune.recipe import EvaluateSpec, Recipe
from mlxtune.tasks import get_task
from mlxtune.types import Example


@dataclass(frozen=True)
class TestSet:
    """metrics: the first decides what counts as right. spec: the recipe's, with the set's own `max_new_tokens`."""

    name: str
    task: str
    examples: Sequence[Example]
    metrics: tuple[str, ...]
    spec: EvaluateSpec

    def folder(self, phase: str) -> str:
        """Below the run's folder."""
        return folder(phase, self.name)


def check_metrics(recipe: Recipe) -> None:
    """Refuses (RecipeError) unknown tasks and metrics before any row is read."""
    get_metrics(_metrics(recipe.data.task, recipe.evaluate.metrics))
    get_metrics([recipe.train.best] if recipe.train.best not in (None, "loss") else [], key="train.best")
    get_metrics(recipe.train.validation_metrics or [], key="train.validation_metrics")
    for name, spec in recipe.evaluate.sets.items():
        get_metrics(_metrics(spec.task, spec.metrics), key=f"evaluate.sets.{name}.metrics")
        if name == OWN:
            raise RecipeError(f"evaluate.sets.{OWN}: that is the name of the recipe's own test rows. Choose another")


def further_sets(recipe: Recipe, *, beside: Data) -> dict[str, Data]:
    """The rows of `evaluate.sets`; none where the comparison is switched off. Raises DataError."""
    if recipe.evaluate.limit == 0:
        return {}
    return {name: load_set(spec, name=name, beside=beside) for name, spec in recipe.evaluate.sets.items()}


def test_sets(recipe: Recipe, data: Data, further: dict[str, Data]) -> tuple[TestSet, ...]:
    """All that is asked, the recipe's own test rows first; sets without rows are left out."""
    own = TestSet(
        name=OWN,
        task=recipe.data.task,
        examples=data.splits.get("test", [])[: recipe.evaluate.limit],
        metrics=_metrics(recipe.data.task, recipe.evaluate.metrics),
        spec=recipe.evaluate,
    )
    others = [_further(recipe, name, rows.splits[name]) for name, rows in further.items()]
    return tuple(one for one in (own, *others) if len(one.examples))


def _further(recipe: Recipe, name: str, examples: Sequence[Example]) -> TestSet:
    spec = recipe.evaluate.sets[name]
    tokens = spec.max_new_tokens or recipe.evaluate.max_new_tokens
    own = recipe.evaluate.model_copy(update={"max_new_tokens": tokens})
    return TestSet(name=name, task=spec.task, examples=examples, metrics=_metrics(spec.task, spec.metrics), spec=own)


def _metrics(task: str, named: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(named if named is not None else get_task(task).metrics)
