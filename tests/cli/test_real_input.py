"""Three hundred real ChartQA questions about real charts (RGBA, many sizes): the default recipe runs through on them.

The scores are those of a model that has never seen such charts: what counts is that they are reported. The published tokenizers
and processors of all families meet these rows in `test_chartqa_real.py`.
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

ROOT = Path(__file__).parents[2]
ROWS = ROOT.parent / "shared/data/chartqa_real/rows.jsonl"

pytestmark = pytest.mark.skipif(not ROWS.exists(), reason=f"no {ROWS}: real charts are not there")


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


def settings() -> list[str]:
    changes: dict[str, Any] = {
        "data.path": ROWS,
        "data.splits": "{train: 0.6, validation: 0.1, test: 0.3}",
        "data.limit": "{train: 16, validation: 4, test: 6}",
        "data.id": "id",
        "model.max_pixels": 50176,
        "train.steps": 2,
        "train.batch_size": 2,
        "train.micro_batch_size": 1,
        "train.max_tokens": 2048,
        "evaluate.batch_size": 3,
        "evaluate.max_new_tokens": 4,
    }
    return [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]


def test_real_charts_run_through(backend: str, tmp_path: Path) -> None:
    words = ["finetune", "recipes/charts-tiny.yaml", "--backend", backend, "--out", tmp_path / "runs", *settings()]
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
