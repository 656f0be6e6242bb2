"""From a recipe to what a run needs before anything is computed: rows, what is asked, and a loaded model."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlxtune import __version__
from mlxtune.adapters import Adapter
from mlxtune.backends import Choice, choose_backend
from mlxtune.data import Data, Examples, data_fingerprint, load_data
from mlxtune.engine import Engine, open_engine
from mlxtune.evaluate.sets import TestSet, check_metrics, further_sets, test_sets
from mlxtune.events import Observer, Planned, Reading
from mlxtune.hub import model_folder
from mlxtune.recipe import Recipe
from mlxtune.runs import RunFolder
from mlxtune.trackers import check_trackers

_PACKAGES = ("mlx", "torch", "transformers", "numpy", "Pillow", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Setup:
    """recipe_path: as the user wrote it. sets: what is asked before and after. further: the rows of `evaluate.sets`."""

    recipe: Recipe
    name: str
    recipe_path: Path
    data: Data
    further: Mapping[str, Data]
    sets: Sequence[TestSet]
    choice: Choice
    engine: Engine

    @property
    def train(self) -> Examples | None:
        return self.data.splits.get("train")

    @property
    def validation(self) -> Sequence[Any]:
        return self.data.splits.get("validation", ())

    @property
    def notices(self) -> Iterator[str]:
        """What to know of data and machine though nothing failed."""
        for data in (self.data, *self.further.values()):
            yield from data.notices
        yield from self.engine.backend.notes


def prepare(recipe: Recipe, *, name: str, recipe_path: Path, backend: str | None, observe: Observer) -> Setup:
    """Reads all rows and loads the model. Errors: MlxtuneError, the cheap ones first."""
    choice = choose_backend(backend or recipe.backend)
    check_metrics(recipe)
    check_trackers(recipe.report.trackers)
    data = load_data(recipe.data, progress=lambda rows, total: observe(Reading(recipe.data.path, rows, total)))
    further = further_sets(recipe, beside=data)
    observe(Reading(recipe.data.path, len(data.sink.store), len(data.sink.store)))
    folder = model_folder(recipe.model.path, revision=recipe.model.revision)
    engine = open_engine(folder, recipe.model, backend=choice.name)
    return Setup(recipe, name, recipe_path, data, further, test_sets(recipe, data, further), choice, engine)


def fingerprint(setup: Setup) -> str:
    """Of everything that is learned and asked."""
    return data_fingerprint(splits(setup))


def splits(setup: Setup) -> dict[str, Examples]:
    """All rows by the name that a person knows them by: train, validation, test and further sets."""
    return {**setup.data.splits, **{name: data.splits[name] for name, data in setup.further.items()}}


def versions_of(packages: Iterable[str]) -> dict[str, str | None]:
    """None for a package that is not installed."""
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def environment(setup: Setup) -> dict[str, Any]:
    """For run.json."""
    return {
        "name": setup.name,
        "started": datetime.now(UTC).isoformat(timespec="microseconds"),
        "seed": setup.recipe.train.seed,
        "data_sha256": fingerprint(setup),
        "data": {"own": setup.data.record(), **{name: data.record() for name, data in setup.further.items()}},
        "rows": {key: len(rows) for key, rows in splits(setup).items()},
        "backend": setup.choice.name,
        "device": setup.engine.backend.device,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {"mlxtune": __version__, **versions_of(_PACKAGES)},
    }


def plan(setup: Setup, run: RunFolder, adapter: Adapter | None, *, steps: int) -> Planned:
    recipe, engine = setup.recipe, setup.engine
    sites: dict[str, int] = {}
    for site in adapter.sites if adapter else ():
        group = engine.family.group_of(site) or "other"
        sites[group] = sites.get(group, 0) + 1
    asked = {one.name: one.examples for one in setup.sets}
    shown = {key: asked.get(key, rows) for key, rows in splits(setup).items()}
    return Planned(
        run=run.path,
        model=recipe.model.path,
        family=engine.family.name,
        parameters=engine.backend.parameters,
        task=recipe.data.task,
        data=recipe.data.path,
        splits={key: (len(rows), rows.pictures()) for key, rows in shown.items()},
        sites=sites,
        trainable=adapter.parameters if adapter else 0,
        backend=setup.choice.name,
        backend_reason=setup.choice.reason,
        device=engine.backend.device,
        precision=recipe.model.precision,
        seed=recipe.train.seed,
        steps=steps,
        batch_size=recipe.train.batch_size,
    )


def record_rows(setup: Setup, run: RunFolder) -> None:
    """Writes splits.jsonl and, where rows were left out, skipped.jsonl."""
    every = (setup.data, *setup.further.values())
    run.write_lines("splits.jsonl", (line for data in every for line in data.split_lines()))
    if any(len(data.skipped) for data in every):
        run.write_lines("skipped.jsonl", (line for data in every for line in data.skipped_lines()))
