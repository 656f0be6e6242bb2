"""Every recipe of recipes/ from start to end on both backends: published layouts, small random models, a few made-up rows.

Only its length is cut, and what it would download is put beside it: task, columns, splits, template, number format, adapter
sites, metrics and further sets are the recipe's own. Scores mean nothing here; that everything the recipe asks has one does.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import mlxtune
from mlxtune.backends import installed
from mlxtune.cli import main
from mlxtune.recipe import Recipe, load_recipe
from mlxtune.tasks import get_task
from tests.helpers.published_models import ROOT, Published

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
ASKED = ("predictions.jsonl", "metrics.json", "evaluation.json")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
SHORT = {"train.steps": 2, "train.batch_size": 4, "train.micro_batch_size": 2, "train.evaluate_every": 1, "train.save_every": 1}
SHORT |= {"train.validation_limit": 2, "data.limit": "{train: 8, validation: 2, test: 3}", "evaluate.limit": 3}
SHORT |= {"evaluate.controls": 2, "evaluate.batch_size": 3, "evaluate.max_new_tokens": 3}


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Published:
    pytest.importorskip("torch", reason="the random models are made with torch")
    return Published(tmp_path_factory.mktemp("published"))


def settings(recipe: Recipe, *, backend: str, there: Published) -> list[str]:
    changes: dict[str, Any] = dict(SHORT)
    for name in recipe.evaluate.sets:
        changes |= {f"evaluate.sets.{name}.limit": 3, f"evaluate.sets.{name}.max_new_tokens": 3}
    if recipe.model.quantize and backend == "torch":
        changes["model.quantize"] = "null"  # bitsandbytes packs weights on a CUDA device alone
    return [*there.overrides(recipe), *(f"{key}={value}" for key, value in changes.items())]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs(path: Path, backend: str, there: Published, tmp_path: Path) -> None:
    overrides = settings(load_recipe(path), backend=backend, there=there)
    words = ["finetune", str(path), "--backend", backend, "--out", str(tmp_path)]
    words += [word for override in overrides for word in ("--set", override)]
    result = CliRunner().invoke(main, words, prog_name="mlxtune")
    assert result.exit_code == 0, result.stderr or result.exception
    (run,) = tmp_path.iterdir()
    recipe = load_recipe(run / "recipe.yaml")
    assert recipe == load_recipe(path, overrides=overrides)
    check_files(run, recipe)
    check_training(run, recipe)
    check_scores(run, recipe)
    assert path.stem in (run / "report.html").read_text(encoding="utf-8")
    mlxtune.load(recipe.model.path, adapter=run / "adapter", backend=backend, precision=recipe.model.precision)


def sets(recipe: Recipe) -> dict[str, tuple[str, list[str]]]:
    """Every set that is asked: its folder below before/ and after/, and its scores."""
    own = {"": ("", recipe.evaluate.metrics or list(get_task(recipe.data.task).metrics))}
    further = {
        name: (f"{name}/", spec.metrics or list(get_task(spec.task).metrics)) for name, spec in recipe.evaluate.sets.items()
    }
    return (own if recipe.data.splits.test is not None else {}) | further


def check_files(run: Path, recipe: Recipe) -> None:
    """All that ARCHITECTURE.md names, and nothing that it does not."""
    files = {file.relative_to(run).as_posix() for file in run.rglob("*") if file.is_file()}
    expected = {"recipe.yaml", "run.json", "train.jsonl", "validation.jsonl", "splits.jsonl", "report.html", "report.md"}
    expected |= {"benchmark_results.json", "error_analysis.json", *(f"adapter/{name}" for name in ADAPTER)}
    expected |= {f"{phase}/{at}{name}" for phase in ("before", "after") for at, _ in sets(recipe).values() for name in ASKED}
    expected |= {"after/controls.json"} if recipe.data.splits.test is not None else set()
    kept = ("step-000001", "step-000002", "best")
    expected |= {f"checkpoints/{step}/{name}" for step in kept for name in (*ADAPTER, "state.json", "manifest.json")}
    expected |= {f"checkpoints/{step}/optimizer.safetensors" for step in kept if step != "best"}
    assert files == expected


def check_training(run: Path, recipe: Recipe) -> None:
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["status"] == "finished"
    steps = lines(run / "train.jsonl")
    assert [step["samples"] for step in steps] == [4, 4]
    assert all(0 < step["loss"] < 30 and math.isfinite(step["grad_norm"]) and step["grad_norm"] > 0 for step in steps)
    assert all(0 < step["supervised_tokens"] < step["tokens"] for step in steps)
    assert [look["step"] for look in lines(run / "validation.jsonl")] == [1, 2]
    trained = load_file(run / "adapter" / "adapter_model.safetensors")
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["r"] == recipe.lora.rank
    assert all(array.any() for name, array in trained.items() if "lora_B" in name), "every adapted layer learns"


def check_scores(run: Path, recipe: Recipe) -> None:
    results = json.loads((run / "benchmark_results.json").read_text(encoding="utf-8"))["sets"]
    assert set(results) == {name or "test" for name in sets(recipe)}
    for at, metrics in sets(recipe).values():
        for phase in ("before", "after"):
            answers = lines(run / phase / f"{at}predictions.jsonl")
            assert 1 <= len(answers) <= 3 and all(isinstance(line["prediction"], str) for line in answers)
            scores = json.loads((run / phase / f"{at}metrics.json").read_text(encoding="utf-8"))
            assert list(scores) == metrics
            assert all(score["value"] is not None and 0 <= score["value"] <= 100 for score in scores.values()), scores


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_names_only_what_the_helpers_can_make(path: Path, there: Published) -> None:
    """A recipe with a model or data that stands for nothing here would otherwise never be run."""
    recipe = load_recipe(path)
    local = load_recipe(path, overrides=there.overrides(recipe))
    named = [local.model.path, *(spec.path for spec in (local.data, *local.data.mix, *local.evaluate.sets.values()))]
    assert [path for path in named if not Path(path).exists()] == []


def test_what_stands_for_nothing_is_refused(there: Published) -> None:
    recipe = load_recipe(ROOT / "recipes" / "qwen2.5-vl-3b-chartqa.yaml", overrides=["data.path=someone/else"])
    with pytest.raises(LookupError, match="someone/else"):
        there.overrides(recipe)
    with pytest.raises(LookupError, match="some/model"):
        there.overrides(load_recipe(ROOT / "recipes" / "smolvlm-chartqa.yaml", overrides=["model.path=some/model"]))
