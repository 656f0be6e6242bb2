"""Every saving of `speed` can be switched off, and then the run costs more and says the same."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from mlxtune.backends import installed
from mlxtune.finetune import finetune
from mlxtune.recipe import load_recipe
from tests.helpers.families.base import ROOT

pytestmark = pytest.mark.usefixtures("without_report")

RECIPE = ROOT / "recipes" / "charts-tiny.yaml"
SHORT = ["train.steps=3", "train.epochs=null", "train.batch_size=8", "train.evaluate_every=3", "train.learning_rate=1e-4"]
SHORT += ["data.limit={train: 30, validation: 6, test: 9}", "evaluate.controls=0", "report.title=switches"]
SWITCHES = {
    "features off": "speed.features=off",
    "features in memory": "speed.features=memory",
    "no shared prefix": "speed.shared_prefix=off",
    "checkpointing": "speed.gradient_checkpointing=true",
    "compiled": "speed.compile=on",
    "no packing": "speed.packing=off",
}


class Told(NamedTuple):
    losses: list[float]
    validation: list[float]
    answers: list[str]
    cut: list[int]  # tokens of each step


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@cache
def told(backend: str, *settings: str) -> Told:
    recipe = load_recipe(RECIPE, overrides=[*SHORT, f"model.path={ROOT / 'models/tiny-charts'}", *settings])
    with TemporaryDirectory(prefix="mlxtune-switch-") as out:
        run = finetune(recipe, name="switch", recipe_path=RECIPE, backend=backend, out=Path(out)).run
        steps = lines(run / "train.jsonl")
        answers = [line["prediction"] for phase in ("before", "after") for line in lines(run / phase / "predictions.jsonl")]
        looks = [look["loss"] for look in lines(run / "validation.jsonl")]
    return Told([step["loss"] for step in steps], looks, answers, [step["tokens"] for step in steps])


@pytest.mark.parametrize("setting", SWITCHES.values(), ids=SWITCHES)
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_switch_changes_no_number(backend: str, setting: str) -> None:
    if not installed(backend):
        pytest.skip(f"backend '{backend}' is not installed")
    if backend == "torch" and setting == SWITCHES["compiled"]:
        pytest.skip("torch's compiler takes two minutes here; the test below has it compile one step")
    plain, switched = told(backend), told(backend, setting)
    assert switched.losses == pytest.approx(plain.losses, abs=1e-5)
    assert switched.validation == pytest.approx(plain.validation, abs=1e-5)
    assert switched.answers == plain.answers and len(set(plain.answers)) > 5
    assert switched.cut == plain.cut, "the rows of a step do not depend on what is saved"


def test_torch_compiles_in_a_process_that_loaded_no_compiler(tmp_path: Path) -> None:
    """As the command's own process does, to start sooner."""
    pytest.importorskip("torch")
    settings = ["train.steps=1", "train.epochs=null", "train.batch_size=8", "train.evaluate_every=null", "evaluate.limit=0"]
    settings += ["data.limit={train: 8, validation: 2, test: 1}", "speed.compile=on"]
    command = [sys.executable, "-m", "mlxtune", "finetune", str(RECIPE), "--backend", "torch", "--out", str(tmp_path)]
    subprocess.run([*command, *(part for setting in settings for part in ("--set", setting))], cwd=ROOT, check=True)
    plain = load_recipe(RECIPE, overrides=[*settings[:-1], f"model.path={ROOT / 'models/tiny-charts'}"])
    run = finetune(plain, name="plain", recipe_path=RECIPE, backend="torch", out=tmp_path).run
    compiled = next(tmp_path.glob("charts-tiny-*"))
    (found,), (wanted,) = (lines(folder / "train.jsonl") for folder in (compiled, run))
    assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
    assert found["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-4)
