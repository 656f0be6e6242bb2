"""Three hundred real ChartQA questions about real charts (RGBA, many sizes): the default recipe runs through on them.

The scores are those of a model that has never seen such charts, or of random weights: what counts is that they are reported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlxtune.backends import installed
from mlxtune.cli import main
from mlxtune.tasks import get_task
from tests.helpers import models

ROOT = Path(__file__).parents[2]
ROWS = ROOT.parent / "shared/data/chartqa_real/rows.jsonl"
ASSETS = models.ASSETS
RANDOM = {"qwen2_5_vl": "Qwen2.5-VL-3B-Instruct", "idefics3": "SmolVLM-256M-Instruct"}

pytestmark = pytest.mark.skipif(not ROWS.exists(), reason=f"no {ROWS}: real charts are not there")


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


@pytest.fixture(scope="module", params=["tiny-charts", *RANDOM])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, or random weights behind the published tokenizer, template and picture settings."""
    if request.param == "tiny-charts":
        return ROOT / "models/tiny-charts"
    pytest.importorskip("torch", reason="the random models are made with torch")
    assets = ASSETS / RANDOM[request.param]
    if not assets.exists():
        pytest.skip(f"no {assets}: the published files are not there")
    return models.build(request.param, tmp_path_factory.mktemp(request.param), assets=assets)


def settings(model: Path) -> list[str]:
    changes: dict[str, Any] = {
        "data.path": ROWS,
        "data.splits": "{train: 0.6, validation: 0.1, test: 0.3}",
        "data.limit": "{train: 16, validation: 4, test: 6}",
        "data.id": "id",
        "model.path": model,
        "model.max_pixels": 50176,
        "train.steps": 2,
        "train.batch_size": 2,
        "train.micro_batch_size": 1,
        "train.max_tokens": 2048,
        "evaluate.batch_size": 3,
        "evaluate.max_new_tokens": 4,
    }
    return [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]


def test_real_charts_run_through(model: Path, backend: str, tmp_path: Path) -> None:
    words = ["finetune", "recipes/charts-tiny.yaml", "--backend", backend, "--out", tmp_path / "runs", *settings(model)]
    result = CliRunner().invoke(
        main, [str(ROOT / word) if word == words[1] else str(word) for word in words], prog_name="mlxtune"
    )
    assert result.exit_code == 0, result.stderr
    (run,) = (tmp_path / "runs").iterdir()
    rows = {str(row["id"]): row for row in map(json.loads, ROWS.read_text(encoding="utf-8").splitlines())}
    for phase in ("before", "after"):
        lines = [json.loads(line) for line in (run / phase / "predictions.jsonl").read_text(encoding="utf-8").split("\n") if line]
        assert len(lines) == 6 == len({line["id"] for line in lines})
        for line in lines:
            row = rows[line["id"]]
            assert (line["question"], line["target"], line["images"]) == (row["query"], row["label"].strip(), [row["image"]])
            assert isinstance(line["prediction"], str) and line["new_tokens"] <= 4
        scores = json.loads((run / phase / "metrics.json").read_text())
        assert tuple(scores) == get_task("chartqa").metrics
        assert all(score["n"] == 6 and score["value"] is not None and score["value"] < 50 for score in scores.values())
    steps = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert [step["samples"] for step in steps] == [2, 2] and all(0 < step["loss"] < 20 for step in steps)
    assert "relaxed accuracy" in result.stdout and json.loads((run / "run.json").read_text())["status"] == "finished"
