"""A recipe from start to end: before, training, after, and what came of it."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlxtune import __version__
from mlxtune.adapters import Adapter, load_adapter, new_adapter
from mlxtune.backends import Choice, choose_backend
from mlxtune.data import data_fingerprint, load_examples
from mlxtune.engine import EncodedRows, Engine, open_engine
from mlxtune.errors import DataError, RunError
from mlxtune.evaluate import evaluate
from mlxtune.events import Event, Finished, Notice, Observer, Phase, Planned
from mlxtune.hub import model_folder
from mlxtune.metrics import get_metrics
from mlxtune.outcome import outcome
from mlxtune.recipe import Recipe
from mlxtune.runs import RunFolder, new_run, run_to_resume
from mlxtune.schedule import total_steps
from mlxtune.tasks import get_task
from mlxtune.train import Trainer
from mlxtune.types import Example

_PACKAGES = ("mlx", "torch", "transformers", "numpy", "Pillow", "tokenizers", "safetensors")


def ignore(event: Event) -> None:
    """The observer of those who only want the result."""


@dataclass(frozen=True)
class _Setup:
    """What both commands need before anything is computed."""

    recipe: Recipe
    name: str
    recipe_path: Path
    examples: Mapping[str, list[Example]]
    test: Sequence[Example]
    metrics: Sequence[str]
    choice: Choice
    engine: Engine


def finetune(
    recipe: Recipe,
    *,
    name: str,
    recipe_path: Path,
    backend: str | None = None,
    out: Path | None = None,
    resume: bool = False,
    observe: Observer = ignore,
) -> Finished:
    """Scores the untouched model, trains the adapter, scores again; everything lands in a run folder below `out`.

    backend, out: win over the recipe's. resume: go on with the newest unfinished run of this recipe. Errors: MlxtuneError.
    """
    begin = time.perf_counter()
    setup = _prepare(recipe, name=name, recipe_path=recipe_path, backend=backend)
    engine, folder = setup.engine, Path(out or recipe.out)
    if not setup.examples.get("train"):
        raise DataError("data.splits.train: null, so there is nothing to learn from. Name a split, or use `mlxtune evaluate`")
    rows = EncodedRows(engine.processor, setup.examples["train"], max_tokens=recipe.train.max_tokens)
    adapter = new_adapter(engine.backend.linears(), engine.family, recipe.lora, seed=recipe.train.seed)
    run = run_to_resume(folder, name, recipe) if resume else new_run(folder, name, recipe)
    if resume:
        _check_same_rows(setup, run)
    else:
        run.update_info(kind="finetune", status="running", **_environment(setup))
    # Made before anything is computed: it tries the validation rows.
    validation = setup.examples.get("validation") or []
    trainer = Trainer(engine, recipe, run, adapter, rows, validation, observe)
    _choose_pictures(engine, adapter, recipe)
    _announce(setup, run, adapter, steps=total_steps(len(rows), recipe.train), observe=observe)
    if run.read_evaluation("before") is None:
        _evaluate(setup, run, "before", observe)
    engine.backend.attach(adapter, weight_decay=recipe.train.weight_decay)
    trainer.train(resume=resume)
    _keep_best(engine, run, adapter, recipe)
    _evaluate(setup, run, "after", observe)
    return _finish(setup, run, wall_s=time.perf_counter() - begin, observe=observe)


def evaluate_only(
    recipe: Recipe,
    *,
    name: str,
    recipe_path: Path,
    backend: str | None = None,
    out: Path | None = None,
    adapter: Path | None = None,
    observe: Observer = ignore,
) -> Finished:
    """Scores the recipe's model, or the model with an adapter, on the test rows. Errors: MlxtuneError."""
    begin = time.perf_counter()
    setup = _prepare(recipe, name=name, recipe_path=recipe_path, backend=backend)
    backend_ = setup.engine.backend
    loaded = load_adapter(adapter, backend_.linears(), setup.engine.family) if adapter is not None else None
    if not setup.test:
        raise DataError("there are no test rows to score. Set data.splits.test, and evaluate.limit above 0")
    run = new_run(Path(out or recipe.out), f"{name}-evaluate", recipe)
    run.update_info(kind="evaluate", status="running", adapter=str(adapter) if adapter else None, **_environment(setup))
    _announce(setup, run, loaded, steps=0, observe=observe)
    if loaded is not None:
        backend_.attach(loaded, weight_decay=0.0)
    _choose_pictures(setup.engine, loaded, recipe)
    _evaluate(setup, run, "after", observe)
    return _finish(setup, run, wall_s=time.perf_counter() - begin, observe=observe)


def _prepare(recipe: Recipe, *, name: str, recipe_path: Path, backend: str | None) -> _Setup:
    choice = choose_backend(backend or recipe.backend)
    metrics = recipe.evaluate.metrics or list(get_task(recipe.data.task).metrics)
    get_metrics(metrics)
    get_metrics([recipe.train.best] if recipe.train.best not in (None, "loss") else [], key="train.best")
    examples = load_examples(recipe.data)
    folder = model_folder(recipe.model.path, revision=recipe.model.revision)
    engine = open_engine(folder, recipe.model, backend=choice.name)
    test = examples.get("test", [])[: recipe.evaluate.limit]
    return _Setup(recipe, name, recipe_path, examples, test, metrics, choice, engine)


def _check_same_rows(setup: _Setup, run: RunFolder) -> None:
    """The recipe only names the rows; what it names may have changed since the run was broken off."""
    if run.info().get("data_sha256") != data_fingerprint(setup.examples):
        raise RunError(f"{run.path}: was started with other rows in '{setup.recipe.data.path}'. Start a new run, or restore them")


def _choose_pictures(engine: Engine, adapter: Adapter | None, recipe: Recipe) -> None:
    """Features may be kept where no adapted layer lies before them."""
    groups = {engine.family.group_of(site) for site in adapter.sites} if adapter else set()
    if recipe.speed.features == "auto" and not groups & {"vision", "projector"}:
        engine.keep_features()


def _evaluate(setup: _Setup, run: RunFolder, phase: Phase, observe: Observer) -> None:
    if not setup.test:
        return
    result = evaluate(setup.engine, setup.test, setup.metrics, setup.recipe.evaluate, phase=phase, observe=observe)
    run.write_evaluation(phase, result.predictions, result.scores)


def _keep_best(engine: Engine, run: RunFolder, adapter: Adapter, recipe: Recipe) -> None:
    best = run.best() if recipe.train.best is not None else None
    if best is not None:
        engine.backend.set_adapter(load_adapter(best, _base_shapes(adapter), engine.family).arrays)
    run.save_result(adapter, engine.backend.adapter(), base=recipe.model.path)


def _base_shapes(adapter: Adapter) -> dict[str, tuple[int, int]]:
    arrays = adapter.arrays
    return {site: (arrays[f"{site}.lora_B"].shape[0], arrays[f"{site}.lora_A"].shape[1]) for site in adapter.sites}


def _announce(setup: _Setup, run: RunFolder, adapter: Adapter | None, *, steps: int, observe: Observer) -> None:
    observe(_plan(setup, run, adapter, steps=steps))
    for note in setup.engine.backend.notes:
        observe(Notice(note))


def _plan(setup: _Setup, run: RunFolder, adapter: Adapter | None, *, steps: int) -> Planned:
    recipe, engine = setup.recipe, setup.engine
    sites: dict[str, int] = {}
    for site in adapter.sites if adapter else ():
        group = engine.family.group_of(site) or "other"
        sites[group] = sites.get(group, 0) + 1
    shown = {**setup.examples, "test": setup.test} if "test" in setup.examples else setup.examples
    return Planned(
        run=run.path,
        model=recipe.model.path,
        family=engine.family.name,
        parameters=engine.backend.parameters,
        task=recipe.data.task,
        data=recipe.data.path,
        splits={key: (len(rows), len({i.key for row in rows for i in row.images})) for key, rows in shown.items()},
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


def _environment(setup: _Setup) -> dict[str, Any]:
    versions: dict[str, str | None] = {"mlxtune": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "name": setup.name,
        "started": datetime.now(UTC).isoformat(timespec="microseconds"),
        "seed": setup.recipe.train.seed,
        "data_sha256": data_fingerprint(setup.examples),
        "rows": {key: len(rows) for key, rows in setup.examples.items()},
        "backend": setup.choice.name,
        "device": setup.engine.backend.device,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _finish(setup: _Setup, run: RunFolder, *, wall_s: float, observe: Observer) -> Finished:
    finished = outcome(
        run, metrics=setup.metrics, test=setup.test, model=setup.recipe.model.path, recipe_path=setup.recipe_path, wall_s=wall_s
    )
    run.update_info(status="finished", wall_s=round(wall_s, 3))
    observe(finished)
    return finished
