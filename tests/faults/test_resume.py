"""A run that is broken off and gone on with ends as one that never stopped: the same losses, the same adapter, bit by bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxtune.backends import installed
from mlxtune.errors import RunError
from mlxtune.events import EvaluationProgress, Event, Saved, StepDone, Validated
from mlxtune.finetune import finetune
from mlxtune.recipe import Recipe, dump_recipe, load_recipe

pytestmark = pytest.mark.usefixtures("without_report")

ROOT = Path(__file__).parents[2]
STEPS = 8
SMALL = {
    "data.limit.train": 24,
    "data.limit.validation": 6,
    "train.steps": STEPS,
    "train.batch_size": 4,
    "train.micro_batch_size": 2,
    "train.evaluate_every": 3,
    "train.save_every": 3,
    "evaluate.limit": 6,
    "evaluate.metrics": "[exact_match, contains]",
    "evaluate.max_new_tokens": 6,
}
DROPOUTS = (0.0, 0.1)


class Interrupted(Exception):
    pass


def recipe(**changes: Any) -> Recipe:
    settings = {**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}
    return load_recipe(ROOT / "recipes/charts-tiny.yaml", overrides=[f"{key}={value}" for key, value in settings.items()])


def train(spec: Recipe, out: Path, backend: str, **options: Any) -> Path:
    return finetune(spec, name="small", recipe_path=Path("small.yaml"), backend=backend, out=out, **options).run


def break_off(spec: Recipe, out: Path, backend: str, *, when: Callable[[Event], bool], resume: bool = False) -> Path:
    def observe(event: Event) -> None:
        if when(event):
            raise Interrupted

    with pytest.raises(Interrupted):
        train(spec, out, backend, resume=resume, observe=observe)
    (run,) = out.iterdir()
    assert json.loads((run / "run.json").read_text())["status"] != "finished"
    return run


def steps(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("wall_s", "peak_bytes")} for line in lines]


def result(run: Path) -> dict[str, Any]:
    """All that a run computed."""
    files = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
    files += [f"{phase}/{name}" for phase in ("before", "after") for name in ("predictions.jsonl", "metrics.json")]
    benchmark = json.loads((run / "benchmark_results.json").read_text())
    del benchmark["wall_s"], benchmark["peak_bytes"]
    for asked in benchmark["sets"].values():
        del asked["speed"]
    return {"steps": steps(run), "benchmark": benchmark, **{name: (run / name).read_bytes() for name in files}}


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, float], dict[str, Any]]:
    """What the run gives when nothing happens to it."""
    made: dict[tuple[str, float], dict[str, Any]] = {}

    def of(backend: str, dropout: float = 0.0) -> dict[str, Any]:
        if (backend, dropout) not in made:
            out = tmp_path_factory.mktemp("whole")
            made[backend, dropout] = result(train(recipe(lora__dropout=dropout), out, backend))
        return made[backend, dropout]

    return of


def at_step(number: int, kind: type = StepDone) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, kind) and event.step == number  # type: ignore[attr-defined]


RANDOM = random.Random(20261121)
PLACES: dict[str, Callable[[Event], bool]] = {
    "before": lambda event: isinstance(event, EvaluationProgress) and event.phase == "before" and event.done > 0,
    "before the first checkpoint": at_step(RANDOM.choice([1, 2])),
    "behind a checkpoint": at_step(RANDOM.choice([4, 5])),
    "between validation and checkpoint": at_step(6, Validated),
    "right at a checkpoint": at_step(3, Saved),
    "the last step": at_step(STEPS),
    "after": lambda event: isinstance(event, EvaluationProgress) and event.phase == "after" and event.done > 0,
}


# What is kept and read again is the same on both backends; MLX's runs take twice as long.
_ON_MLX = ("behind a checkpoint", "between validation and checkpoint", "after")
_CASES = [(place, backend) for place in PLACES for backend in ("mlx", "torch") if backend == "torch" or place in _ON_MLX]


@pytest.mark.parametrize(("place", "backend"), _CASES, indirect=["backend"])
def test_resumed_is_as_uninterrupted(place: str, backend: str, tmp_path: Path, whole: Any) -> None:
    run = break_off(recipe(lora__dropout=0.1), tmp_path, backend, when=PLACES[place])
    assert train(recipe(lora__dropout=0.1), tmp_path, backend, resume=True) == run
    assert result(run) == whole(backend, 0.1)


def test_without_dropout_and_broken_off_twice(backend: str, tmp_path: Path, whole: Any) -> None:
    break_off(recipe(), tmp_path, backend, when=at_step(5))
    run = break_off(recipe(), tmp_path, backend, when=at_step(7), resume=True)
    assert [line["step"] for line in steps(run)] == [1, 2, 3, 4, 5, 6, 7]
    train(recipe(), tmp_path, backend, resume=True)
    assert result(run) == whole(backend)
    assert whole(backend)["steps"] != whole(backend, 0.1)["steps"], "dropout must do something, or it proves nothing"


def test_a_damaged_checkpoint_costs_steps_and_nothing_else(backend: str, tmp_path: Path, whole: Any) -> None:
    run = break_off(recipe(), tmp_path, backend, when=at_step(7))
    file = run / "checkpoints/step-000006/optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content)
    seen: list[int] = []
    train(recipe(), tmp_path, backend, resume=True, observe=lambda e: seen.append(e.step) if isinstance(e, StepDone) else None)
    assert seen == [4, 5, 6, 7, 8]
    assert result(run) == whole(backend)


def test_the_best_so_far_is_remembered(tmp_path: Path) -> None:
    """Steps this small change no answer: the first look stays the best, unless resuming forgets what it is better than."""
    name = next(name for name in ("torch", "mlx") if installed(name))
    spec = recipe(train__best="token_f1", train__learning_rate=1e-12)
    run = break_off(spec, tmp_path, name, when=at_step(5))
    train(spec, tmp_path, name, resume=True)
    assert json.loads((run / "benchmark_results.json").read_text())["best_step"] == 3


CHILD = """
import os, signal, sys
from pathlib import Path
from mlxtune.events import StepDone
from mlxtune.finetune import finetune
from mlxtune.recipe import load_recipe

file, backend, out, die_at, resume = sys.argv[1:]

def observe(event):
    if isinstance(event, StepDone) and event.step == int(die_at):
        os.kill(os.getpid(), signal.SIGKILL)

spec, options = load_recipe(file), {"name": "small", "recipe_path": Path("x"), "backend": backend, "observe": observe}
finetune(spec, out=Path(out, "killed"), resume=bool(resume), **options)
finetune(spec, out=Path(out, "whole"), **options)
"""


def test_killed_for_good(backend: str, tmp_path: Path) -> None:
    """All in processes of their own: the libraries that a test run has loaded decide the last bit of a matrix product."""
    file = tmp_path / "small.yaml"
    file.write_text(dump_recipe(recipe()))
    for die_at, resume, status in (("5", "", -signal.SIGKILL), ("0", "yes", 0)):
        command = [sys.executable, "-c", CHILD, file, backend, tmp_path, die_at, resume]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False)
        assert ended.returncode == status, ended.stderr.decode()
    (killed,), (whole,) = (tmp_path / "killed").iterdir(), (tmp_path / "whole").iterdir()
    assert result(killed) == result(whole)


def test_a_run_of_one_backend_goes_on_with_the_other(tmp_path: Path, whole: Any) -> None:
    missing = [name for name in ("mlx", "torch") if not installed(name)]
    if missing:
        pytest.skip(f"needs both backends; not installed: {', '.join(missing)}")
    run = break_off(recipe(), tmp_path, "torch", when=at_step(4))
    train(recipe(), tmp_path, "mlx", resume=True)
    for mine, theirs in zip(steps(run), whole("torch")["steps"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_a_finished_run_is_not_gone_on_with(tmp_path: Path) -> None:
    name = next(name for name in ("torch", "mlx") if installed(name))
    train(recipe(evaluate__limit=0, train__steps=1, train__evaluate_every="null"), tmp_path, name)
    with pytest.raises(RunError, match="no unfinished run of 'small'"):
        train(recipe(evaluate__limit=0, train__steps=1, train__evaluate_every="null"), tmp_path, name, resume=True)


def test_other_data_are_refused(tmp_path: Path) -> None:
    """The rows may change on disk while the recipe, which only names them, stays the same."""
    name = next(name for name in ("torch", "mlx") if installed(name))
    rows = [json.loads(line) for line in (ROOT / "data/charts/train.jsonl").read_text().splitlines()[:8]]
    file = tmp_path / "rows.jsonl"
    changes = {"data__path": file, "data__image_folder": ROOT / "data/charts", "evaluate__limit": 0}
    changes |= {"data__splits": "{train: all, validation: null, test: null}"}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    break_off(recipe(**changes), tmp_path / "out", name, when=at_step(4))
    file.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    with pytest.raises(RunError, match="other rows"):
        train(recipe(**changes), tmp_path / "out", name, resume=True)
