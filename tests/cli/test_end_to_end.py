"""The default recipe, shortened, as a newcomer runs it: what is printed, every file that is left, and what they can do next."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from mlxtune.backends import installed
from mlxtune.cli import main
from mlxtune.evaluate.schemas import SCHEMAS, schema_of
from mlxtune.recipe import load_recipe
from mlxtune.schedule import lr_at
from mlxtune.tasks import get_task

ROOT = Path(__file__).parents[2]
RECIPE = "recipes/charts-tiny.yaml"
METRICS = get_task("chartqa").metrics
OVERRIDES = ["train.steps=6", "evaluate.limit=12", "train.evaluate_every=3", "data.limit.validation=16", "train.save_every=2"]
SETTINGS = [part for override in OVERRIDES for part in ("--set", override)]


@dataclass(frozen=True)
class Ended:
    stdout: str
    stderr: str
    run: Path

    def read(self, name: str) -> Any:
        return json.loads((self.run / name).read_text(encoding="utf-8"))

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run / name).read_text(encoding="utf-8").split("\n") if line]


Finetune = Callable[[str], Ended]


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory) -> Finetune:
    """One run of each backend in a process of its own, kept for all tests."""
    made: dict[str, Ended] = {}

    def of(backend: str) -> Ended:
        if backend not in made:
            out = tmp_path_factory.mktemp(backend) / "runs"
            words = [sys.executable, "-m", "mlxtune", "finetune", RECIPE, "--backend", backend, *SETTINGS, "--out", str(out)]
            ended = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=300, check=False)
            assert ended.returncode == 0, ended.stderr.decode()
            (run,) = out.iterdir()
            made[backend] = Ended(ended.stdout.decode(), ended.stderr.decode(), run)
        return made[backend]

    return of


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


@pytest.fixture
def ended(backend: str, finetune: Finetune) -> Ended:
    return finetune(backend)


def test_output_is_plain(ended: Ended) -> None:
    controls = {char for char in ended.stdout if unicodedata.category(char) == "Cc"} - {"\n"}
    assert not controls and ended.stderr == ""


def test_output_tells_the_run_in_its_order(ended: Ended, backend: str) -> None:
    parts = [
        f"backend {backend}: asked for",
        "tiny-charts",
        "test 12",
        "trainable parameters",
        "float32",
        "before: 12/12 answered",
    ]
    parts += [*(f"step {n}/6: loss " for n in (1, 2, 3)), "step 3: validation loss ", "step 6/6: loss ", "after: 12/12 answered"]
    parts += [
        "metric",
        "relaxed accuracy",
        "bleu",
        "question",
        "reference",
        "before",
        "after",
        "run folder",
        "mlxtune ask ",
        "--adapter",
    ]
    place = 0
    for part in parts:
        found = ended.stdout.find(part, place)
        assert found >= 0, f"no '{part}' behind:\n{ended.stdout[:place]}"
        place = found + len(part)
    assert str(ended.run) in ended.stdout.splitlines()[-3]


def test_the_run_folder_holds_what_the_design_says(ended: Ended) -> None:
    files = {path.relative_to(ended.run).as_posix() for path in ended.run.rglob("*") if path.is_file()}
    state = ("adapter_config.json", "adapter_model.safetensors", "state.json", "manifest.json")
    expected = {"recipe.yaml", "run.json", "train.jsonl", "validation.jsonl", "splits.jsonl", "after/controls.json"}
    expected |= {"benchmark_results.json", "error_analysis.json", "report.html", "report.md"}
    asked = ("predictions.jsonl", "metrics.json", "evaluation.json")
    expected |= {f"{phase}/{name}" for phase in ("before", "after") for name in asked}
    expected |= {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    expected |= {f"checkpoints/{step}/{name}" for step in ("step-000004", "step-000006", "best") for name in state}
    expected |= {f"checkpoints/{step}/optimizer.safetensors" for step in ("step-000004", "step-000006")}
    assert files == expected


def test_the_recipe_is_the_resolved_one(ended: Ended) -> None:
    assert load_recipe(ended.run / "recipe.yaml") == load_recipe(ROOT / RECIPE, overrides=OVERRIDES)
    assert "weight_decay: 0.0" in (ended.run / "recipe.yaml").read_text(), "defaults are written out"


def test_the_journal(ended: Ended, backend: str) -> None:
    info = ended.read("run.json")
    known = {"kind": "finetune", "status": "finished", "name": "charts-tiny", "seed": 0, "backend": backend}
    assert {**info, **known} == info and info["rows"] == {"train": 600, "validation": 16, "test": 300}
    assert info["versions"][backend] and info["versions"]["mlxtune"] and info["device"] and info["platform"] and info["python"]
    assert len(info["data_sha256"]) == 64 and datetime.fromisoformat(info["started"]).tzinfo and info["wall_s"] > 0


def test_every_step_is_a_line(ended: Ended) -> None:
    lines = ended.lines("train.jsonl")
    fields = "step loss learning_rate grad_norm tokens supervised_tokens samples wall_s peak_bytes".split()
    assert [list(line) for line in lines] == [fields] * 6
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6] and {line["samples"] for line in lines} == {8}
    spec = load_recipe(ended.run / "recipe.yaml").train
    assert [line["learning_rate"] for line in lines] == [lr_at(step, 6, spec) for step in range(1, 7)]
    for line in lines:
        assert 0 < line["loss"] < 20 and line["grad_norm"] > 0 and line["wall_s"] > 0 and line["peak_bytes"] > 1_000_000
        assert 8 * 2 <= line["supervised_tokens"] < line["tokens"], "an answer has a token and its end at least"


def test_checkpoints_carry_their_sums(ended: Ended) -> None:
    for folder in (ended.run / "checkpoints").iterdir():
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest == {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.name != "manifest.json"
        }
    assert ended.read("checkpoints/step-000006/state.json")["step"] == 6


def test_the_adapter_is_the_best_checkpoint(ended: Ended) -> None:
    best = ended.read("checkpoints/best/state.json")["step"]
    assert ended.read("benchmark_results.json")["best_step"] == best and best in (3, 6)
    name = "adapter_model.safetensors"
    assert (ended.run / "adapter" / name).read_bytes() == (ended.run / "checkpoints/best" / name).read_bytes()
    arrays = load_file(ended.run / "adapter" / name)
    assert len(arrays) == 2 * 28 and any(array.any() for key, array in arrays.items() if "lora_B" in key)
    assert ended.read("adapter/adapter_config.json")["r"] == 16


def test_the_comparison(ended: Ended) -> None:
    rows = [json.loads(line) for line in (ROOT / "data/charts/test.jsonl").read_text().splitlines()[:12]]
    asked = ended.read("benchmark_results.json")["sets"]["test"]
    assert asked["rows"] == 12 and tuple(asked["metrics"]) == METRICS
    for phase in ("before", "after"):
        lines, metrics = ended.lines(f"{phase}/predictions.jsonl"), ended.read(f"{phase}/metrics.json")
        assert [line["question"] for line in lines] == [row["query"] for row in rows]
        assert [line["target"] for line in lines] == [row["label"][0] for row in rows]
        assert [line["images"] for line in lines] == [[row["image"]] for row in rows]
        assert [line["id"] for line in lines] == [f"test-{n}" for n in range(1, 13)]
        assert {tuple(line["scores"]) for line in lines} == {METRICS}
        assert all(line["prediction"] and line["finish"] in ("stop", "length") and line["new_tokens"] <= 16 for line in lines)
        for name in METRICS:
            assert (metrics[name]["n"], metrics[name]["ungraded"]) == (12, 0)
            assert asked["metrics"][name][phase]["value"] == metrics[name]["value"]
            if name != "bleu":
                assert metrics[name]["value"] == pytest.approx(sum(line["scores"][name] for line in lines) / 12)
        assert {"p", "r"} < metrics["rougeL"].keys()
    for told in asked["metrics"].values():
        before, after, change = told["before"], told["after"], told["change"]
        assert change["difference"] == pytest.approx(after["value"] - before["value"]) and told["scale"] in (1.0, 100.0)
        assert all(score["low"] <= score["value"] <= score["high"] for score in (before, after) if score["low"] is not None)


def test_what_was_written_follows_its_schemas(ended: Ended) -> None:
    from jsonschema import Draft202012Validator

    for file in SCHEMAS:
        Draft202012Validator(schema_of(file)).validate(ended.read(file))


def cli(*words: Any) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words], prog_name="mlxtune")
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_an_adapter_is_scored_beside_its_model(
    ended: Ended, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    adapter = ended.run / "adapter"
    printed = cli("evaluate", RECIPE, "--adapter", adapter, "--backend", backend, "--out", tmp_path / "runs", *SETTINGS)
    (run,) = (tmp_path / "runs").iterdir()
    assert "before: 12/12 answered" in printed and "after: 12/12 answered" in printed and "change" in printed
    assert run.name.startswith("charts-tiny-evaluate-")
    assert json.loads((run / "run.json").read_text())["adapter"] == str(adapter)
    for name in ("before/predictions.jsonl", "before/metrics.json", "after/predictions.jsonl", "after/metrics.json"):
        assert (run / name).read_bytes() == (ended.run / name).read_bytes()
    results, ours = (json.loads((folder / "benchmark_results.json").read_text()) for folder in (run, ended.run))
    assert results["sets"]["test"]["metrics"] == ours["sets"]["test"]["metrics"]
    assert json.loads((run / "error_analysis.json").read_text())["buckets"] == ended.read("error_analysis.json")["buckets"]
    assert all(" before, with adapter " in (run / page).read_text() for page in ("report.html", "report.md"))
    assert not (run / "adapter").exists()


def test_a_model_alone_is_scored(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed = cli("evaluate", RECIPE, "--backend", backend, "--out", tmp_path / "runs", *SETTINGS)
    (run,) = (tmp_path / "runs").iterdir()
    assert "evaluate: 12/12 answered" in printed and "before" not in printed
    assert json.loads((run / "error_analysis.json").read_text())["buckets"] is None
    assert "One model was scored" in (run / "report.html").read_text() and not (run / "before").exists()


def test_it_is_asked(ended: Ended, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    line = ended.lines("after/predictions.jsonl")[1]
    question = line["question"] + get_task("chartqa").suffix
    words = [
        "ask",
        f"data/charts/{line['images'][0]}",
        question,
        "--model",
        "models/tiny-charts",
        "--adapter",
        ended.run / "adapter",
    ]
    assert cli(*words, "--backend", backend, "--max-new-tokens", 16).strip() == line["prediction"]


def test_both_backends_learn_the_same(finetune: Finetune) -> None:
    missing = [name for name in ("mlx", "torch") if not installed(name)]
    if missing:
        pytest.skip(f"needs both backends; not installed: {', '.join(missing)}")
    mlx, torch = finetune("mlx"), finetune("torch")
    for one, other in zip(mlx.lines("train.jsonl"), torch.lines("train.jsonl"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        for name in ("step", "learning_rate", "tokens", "supervised_tokens", "samples"):
            assert one[name] == other[name]
    for phase in ("before", "after"):
        assert mlx.read(f"{phase}/metrics.json") == torch.read(f"{phase}/metrics.json")
    assert mlx.read("run.json")["data_sha256"] == torch.read("run.json")["data_sha256"]
