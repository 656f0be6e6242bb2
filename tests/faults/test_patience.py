"""Looks at the validation rows: what they score, when they end the training, and that a resumed run ends there too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.events import Event, Notice, StepDone, Validated
from tests.faults.test_resume import Interrupted, break_off, recipe, result, steps, train

STUCK: dict[str, Any] = {"train__learning_rate": 1e-12, "train__evaluate_every": 1, "train__save_every": 2}


def looks(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


def test_training_ends_when_nothing_gets_better(tmp_path: Path) -> None:
    seen: list[Event] = []
    run = train(recipe(**STUCK, train__patience=2), tmp_path, "torch", observe=seen.append)
    assert [line["step"] for line in steps(run)] == [1, 2, 3]
    assert [look["best"] for look in looks(run)] == [True, False, False]
    assert [event.text for event in seen if isinstance(event, Notice)][-1].startswith("stopped before step 4: 2 looks")
    assert (run / "adapter/adapter_model.safetensors").exists() and (run / "after/metrics.json").exists()


def test_a_run_that_goes_on_getting_better_is_left_alone(tmp_path: Path) -> None:
    run = train(recipe(train__evaluate_every=1, train__patience=2), tmp_path, "torch")
    assert len(steps(run)) == 8 and sum(look["best"] for look in looks(run)) > 4


@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_ends_where_the_whole_one_did(step: int, tmp_path: Path) -> None:
    spec = recipe(**STUCK, train__patience=2)
    whole = result(train(spec, tmp_path / "whole", "torch"))
    run = break_off(spec, tmp_path / "broken", "torch", when=lambda event: isinstance(event, StepDone) and event.step == step)
    train(spec, tmp_path / "broken", "torch", resume=True)
    assert result(run) == whole and len(looks(run)) == 3


def test_broken_off_behind_the_last_look(tmp_path: Path) -> None:
    spec = recipe(**STUCK, train__patience=1)

    def observe(event: Event) -> None:
        if isinstance(event, Notice) and event.text.startswith("stopped"):
            raise Interrupted

    with pytest.raises(Interrupted):
        train(spec, tmp_path, "torch", observe=observe)
    run = train(spec, tmp_path, "torch", resume=True)
    assert [line["step"] for line in steps(run)] == [1, 2]


@pytest.mark.parametrize(
    ("metrics", "names"), [("null", ["relaxed_accuracy"]), ("[]", []), ("[contains, token_f1]", ["contains", "token_f1"])]
)
def test_scores_that_are_followed(metrics: str, names: list[str], tmp_path: Path) -> None:
    seen: list[Event] = []
    spec = recipe(train__validation_metrics=metrics, train__validation_limit=3, train__steps=3)
    run = train(spec, tmp_path, "torch", observe=seen.append)
    (told,) = [event for event in seen if isinstance(event, Validated)]
    assert list(told.scores) == names == list(looks(run)[0]["scores"])
    assert all(value in (0, 1 / 3, 2 / 3, 1) for key, value in told.scores.items() if key != "token_f1")


def test_the_best_metric_is_followed_too(tmp_path: Path) -> None:
    run = train(recipe(train__best="contains", train__steps=3), tmp_path, "torch")
    assert list(looks(run)[0]["scores"]) == ["relaxed_accuracy", "contains"]
