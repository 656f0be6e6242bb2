"""A recipe from start to end: before, training, after, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from mlxtune.adapters import Adapter, load_adapter, new_adapter, stored_arrays
from mlxtune.engine import EncodedRows, Engine
from mlxtune.errors import DataError, RunError
from mlxtune.evaluate import evaluate
from mlxtune.evaluate.controls import controls
from mlxtune.evaluate.results import OWN
from mlxtune.evaluate.sets import TestSet
from mlxtune.events import Event, Finished, Notice, Observer
from mlxtune.images import ImageRef
from mlxtune.outcome import next_commands, story, write_results
from mlxtune.prepare import Setup, environment, fingerprint, plan, prepare, record_rows
from mlxtune.recipe import Recipe
from mlxtune.report import write_report
from mlxtune.runs import RunFolder, new_run, run_to_resume
from mlxtune.schedule import total_steps
from mlxtune.trackers import tracked
from mlxtune.train import Trainer


def ignore(event: Event) -> None:
    """The observer of those who only want the result."""


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
    setup = prepare(recipe, name=name, recipe_path=recipe_path, backend=backend, observe=observe)
    engine, folder = setup.engine, Path(out or recipe.out)
    if not setup.train:
        raise DataError("data.splits.train: null, so there is nothing to learn from. Name a split, or use `mlxtune evaluate`")
    rows = EncodedRows(engine.processor, setup.train, max_tokens=recipe.train.max_tokens)
    adapter = new_adapter(engine.backend.linears(), engine.family, recipe.lora, seed=recipe.train.seed)
    run = run_to_resume(folder, name, recipe) if resume else new_run(folder, name, recipe)
    if resume:
        _check_same_rows(setup, run)
    else:
        run.update_info(kind="finetune", status="running", **environment(setup))
        record_rows(setup, run)
    with tracked(observe, recipe, run) as told:
        # Made before anything is computed: it tries the validation rows.
        trainer = Trainer(engine, recipe, run, adapter, rows, setup.validation, told)
        _choose_savings(engine, adapter, recipe)
        _announce(setup, run, adapter, steps=total_steps(len(rows), recipe.train), observe=told)
        _ask(setup, run, "before", told)
        engine.backend.attach(
            adapter,
            weight_decay=recipe.train.weight_decay,
            checkpointing=recipe.speed.gradient_checkpointing,
            compiled=recipe.speed.compile == "on" or (recipe.speed.compile == "auto" and engine.backend.gains_by_compiling),
        )
        engine.look_at(trainer.pictures(), phase="training", observe=told)
        trainer.train(resume=resume)
        _keep_best(engine, run, adapter, recipe)
        _ask(setup, run, "after", told)
        return _finish(setup, run, wall_s=time.perf_counter() - begin, observe=told)


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
    """Scores the recipe's model on the test rows; with an adapter, "before" is the model without it. Errors: MlxtuneError."""
    begin = time.perf_counter()
    setup = prepare(recipe, name=name, recipe_path=recipe_path, backend=backend, observe=observe)
    backend_ = setup.engine.backend
    loaded = load_adapter(adapter, backend_.linears(), setup.engine.family) if adapter is not None else None
    if not setup.sets:
        raise DataError("there are no test rows to score. Set data.splits.test, and evaluate.limit above 0")
    run = new_run(Path(out or recipe.out), f"{name}-evaluate", recipe)
    run.update_info(kind="evaluate", status="running", adapter=str(adapter) if adapter else None, **environment(setup))
    record_rows(setup, run)
    with tracked(observe, recipe, run) as told:
        _announce(setup, run, loaded, steps=0, observe=told)
        _choose_savings(setup.engine, loaded, recipe)
        if loaded is not None:
            _ask(setup, run, "before", told)
            backend_.attach(loaded, weight_decay=0.0)
        _ask(setup, run, "after", told)
        return _finish(setup, run, wall_s=time.perf_counter() - begin, observe=told)


def _check_same_rows(setup: Setup, run: RunFolder) -> None:
    """The recipe only names the rows; what it names may have changed since the run was broken off."""
    if run.info().get("data_sha256") != fingerprint(setup):
        raise RunError(f"{run.path}: was started with other rows in '{setup.recipe.data.path}'. Start a new run, or restore them")


def _choose_savings(engine: Engine, adapter: Adapter | None, recipe: Recipe) -> None:
    """Features may be kept where no adapted layer lies before them."""
    engine.shares_prefixes = recipe.speed.shared_prefix == "auto"
    groups = {engine.family.group_of(site) for site in adapter.sites} if adapter else set()
    if recipe.speed.features != "off" and not groups & {"vision", "projector"}:
        on_disk = recipe.speed.features == "auto"
        engine.keep_features(disk_bytes=int(recipe.speed.features_gb * 2**30) if on_disk else None)


def _announce(setup: Setup, run: RunFolder, adapter: Adapter | None, *, steps: int, observe: Observer) -> None:
    observe(plan(setup, run, adapter, steps=steps))
    for text in setup.notices:
        observe(Notice(text))


def _ask(setup: Setup, run: RunFolder, phase: str, observe: Observer) -> None:
    """Asks every set; one that a resumed run has asked before is left alone. Controls follow the last answers."""
    for one in setup.sets:
        if run.read_evaluation(one.folder(phase)) is None:
            pictures = (image for example in one.examples for image in example.images)
            setup.engine.look_at(pictures, phase=one.folder(phase), observe=observe)
            result = evaluate(setup.engine, one.examples, one.metrics, one.spec, phase=one.folder(phase), observe=observe)
            run.write_evaluation(
                one.folder(phase), result.predictions, result.scores, {"set": one.name, "task": one.task, **result.about}
            )
        if phase == "after" and one.name == OWN and setup.recipe.evaluate.controls:
            _control(setup, run, one, observe)


def _control(setup: Setup, run: RunFolder, asked: TestSet, observe: Observer) -> None:
    predictions, _ = run.read_evaluation(asked.folder("after")) or ([], {})
    found = controls(
        setup.engine,
        asked.examples,
        predictions,
        metric=asked.metrics[0],
        train=setup.train or (),
        spec=asked.spec,
        observe=observe,
    )
    run.write_json(f"{asked.folder('after')}/controls.json", found)


def _keep_best(engine: Engine, run: RunFolder, adapter: Adapter, recipe: Recipe) -> None:
    best = run.best() if recipe.train.best is not None else None
    if best is not None:
        engine.backend.set_adapter(stored_arrays(best))
    run.save_result(adapter, engine.backend.adapter(), base=recipe.model.path)


def _finish(setup: Setup, run: RunFolder, *, wall_s: float, observe: Observer) -> Finished:
    run.update_info(status="finished", wall_s=round(wall_s, 3))
    write_results(run)
    write_report(run, picture=_picture_finder(setup))
    finished = story(run, commands=next_commands(setup, run))
    observe(finished)
    return finished


def _picture_finder(setup: Setup) -> Callable[[str], ImageRef | None]:
    """Pictures of the test rows by key, for the report."""
    # Two sets may each have an "images/1.png"; the run's own test rows are what is shown, so they win.
    pictures = {image.key: image for one in reversed(setup.sets) for example in one.examples for image in example.images}
    return pictures.get
