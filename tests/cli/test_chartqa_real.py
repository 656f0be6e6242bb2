"""One epoch on forty real ChartQA questions (RGBA, many sizes) with every published tokenizer, template and processor.

The published files lie in front of small random weights: the prompts and pixels are those of the real model, the loss is that of
one that knows nothing. It must fall all the same, because the answers have an end token and few forms, and the run must be whole.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlxtune.backends import installed
from mlxtune.cli import main
from mlxtune.errors import MlxtuneError
from mlxtune.families import FAMILIES, load_processor
from mlxtune.tasks import get_task
from tests.helpers import models
from tests.helpers.families import FIXTURES
from tests.helpers.published_models import build_published

ROOT = models.ROOT
DATA = ROOT.parent / "shared/data/chartqa_real"
ROWS = 40
PIXELS = 50_176  # 224 x 224: one tile, one crop, 64 tokens of Qwen; a whole chart costs twenty times as much


def families_of_assets() -> list[tuple[str, str]]:
    """(folder, family): those that the fixtures name, whether they are here or not, and those here that a family knows.

    A folder whose `model_type` several families share (Moondream's two layouts) stands for each of them, and "none" for a family
    of which there are no published files at all.
    """
    pairs = {(name, family) for family, fixture in FIXTURES.items() for name in fixture.assets}
    for config in models.ASSETS.glob("*/config.json"):
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        pairs |= {(config.parent.name, family.name) for family in FAMILIES.values() if kind in family.model_types}
    return sorted(pairs | {("none", family) for family in set(FAMILIES) - {family for _, family in pairs}})


PAIRS = families_of_assets()
# Folders of one family differ in what is the same for both backends: tokenizer, template, picture settings.
FIRST = {family: (name, family) for name, family in reversed(PAIRS)}
CASES = [(pair, backend) for pair in PAIRS for backend in ("mlx", "torch") if backend == "torch" or FIRST[pair[1]] == pair]


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, family = request.param
    assets = models.ASSETS / name
    if name == "none":
        pytest.skip(f"no published files of a model of the family '{family}' are known to these tests")
    if not assets.is_dir():
        pytest.skip(f"the published files of {name} are not at {models.ASSETS}")
    pytest.importorskip("torch", reason="the random models are made with torch")
    return build_published(family, tmp_path_factory.mktemp(name), assets=assets)


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    if not DATA.is_dir():
        pytest.skip(f"no {DATA}: real charts are not there")
    lines = (DATA / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    return {str(row["id"]): row for row in map(json.loads, lines)}


def bound(model: Path) -> int | None:
    """`PIXELS`, or None for a family that has one size for all pictures and refuses another."""
    try:
        load_processor(model, max_pixels=PIXELS)
    except MlxtuneError as error:
        assert "max_pixels" in str(error), error
        return None
    return PIXELS


def settings(model: Path) -> list[str]:
    pixels = bound(model)
    changes: dict[str, Any] = {
        "data.path": DATA / "rows.jsonl",
        "data.splits": "{train: 0.8, validation: 0.1, test: 0.1}",
        "data.limit": f"{{train: {ROWS}, validation: 2, test: 2}}",
        "data.id": "id",
        "model.path": model,
        "model.max_pixels": "null" if pixels is None else pixels,
        "train.epochs": 1,
        "train.batch_size": 4,
        "train.micro_batch_size": 4,
        "train.max_tokens": 4096,
        "train.learning_rate": 1e-2,
        "train.warmup": 1,
        "train.evaluate_every": ROWS // 4,
        "evaluate.batch_size": 2,
        "evaluate.max_new_tokens": 4,
        "evaluate.controls": 0,
    }
    return [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.parametrize(("model", "backend"), CASES, indirect=True, ids=["-".join([*pair, backend]) for pair, backend in CASES])
def test_an_epoch_on_real_charts(model: Path, backend: str, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    words = ["finetune", str(ROOT / "recipes/charts-tiny.yaml"), "--backend", backend, "--out", str(tmp_path)]
    result = CliRunner().invoke(main, [*words, *settings(model)], prog_name="mlxtune")
    assert result.exit_code == 0, result.stderr or result.exception
    (run,) = tmp_path.iterdir()

    steps = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert sum(step["samples"] for step in steps) == ROWS
    assert all(math.isfinite(step["loss"]) and math.isfinite(step["grad_norm"]) for step in steps)
    losses = [step["loss"] for step in steps]
    assert sum(losses[-3:]) / 3 < 0.9 * sum(losses[:3]) / 3, losses
    looks = [json.loads(line)["loss"] for line in (run / "validation.jsonl").read_text().splitlines()]
    assert len(looks) == 1 and all(map(math.isfinite, looks)), looks

    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert (run / "report.html").exists() and (run / "adapter/adapter_model.safetensors").exists()
    for phase in ("before", "after"):
        lines = [json.loads(line) for line in (run / phase / "predictions.jsonl").read_text(encoding="utf-8").split("\n") if line]
        assert len({line["id"] for line in lines}) == 2
        for line in lines:
            row = rows[line["id"]]
            assert (line["question"], line["target"], line["images"]) == (row["query"], row["label"].strip(), [row["image"]])
            assert line["new_tokens"] <= 4
        scores = json.loads((run / phase / "metrics.json").read_text())
        assert tuple(scores) == get_task("chartqa").metrics and all(score["n"] == 2 for score in scores.values())
