"""The length of a run, its order of rows and its learning rate are functions of the recipe and the step alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mlxtune.recipe import TrainSpec
from mlxtune.schedule import lr_at, rows_of_step, rows_used, total_steps


def spec(**values: Any) -> TrainSpec:
    return TrainSpec.model_validate({"batch_size": 4, "epochs": 1.0, **values})


def stream(rows: int, train: TrainSpec) -> list[np.ndarray]:
    return [rows_of_step(step, rows, train) for step in range(1, total_steps(rows, train) + 1)]


@pytest.mark.parametrize(
    ("values", "rows", "steps"),
    [
        ({}, 8, 2),
        ({}, 9, 3),
        ({}, 1, 1),
        ({"epochs": 3.0}, 9, 7),  # 27 rows in batches that run across the ends of epochs
        ({"epochs": 0.5}, 8, 1),
        ({"epochs": 0.01}, 8, 1),
        ({"epochs": 2.5}, 10, 7),
        ({"steps": 5}, 1000, 5),
        ({"steps": 5, "epochs": None}, 2, 5),
    ],
)
def test_total_steps(values: dict[str, Any], rows: int, steps: int) -> None:
    assert total_steps(rows, spec(**values)) == steps


@pytest.mark.parametrize(("rows", "epochs"), [(8, 1), (9, 1), (9, 3), (3, 4), (1, 2), (13, 2)])
def test_every_row_comes_once_in_each_epoch(rows: int, epochs: int) -> None:
    batches = stream(rows, spec(epochs=float(epochs)))
    assert [len(batch) for batch in batches[:-1]] == [4] * (len(batches) - 1), "only the last batch may be smaller"
    assert len(batches[-1]) == (rows * epochs - 1) % 4 + 1
    joined = np.concatenate(batches)
    for epoch in range(epochs):
        assert sorted(joined[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_part_of_an_epoch_takes_distinct_rows() -> None:
    joined = np.concatenate(stream(10, spec(epochs=2.5)))
    assert len(joined) == 25
    assert sorted(joined[:10]) == sorted(joined[10:20]) == list(range(10))
    assert len(set(joined[20:])) == 5


def test_steps_go_on_past_the_rows_with_full_batches() -> None:
    batches = stream(3, spec(steps=7, epochs=1.0))
    assert [len(batch) for batch in batches] == [4] * 7
    joined = np.concatenate(batches)
    for epoch in range(len(joined) // 3):
        assert sorted(joined[3 * epoch : 3 * epoch + 3]) == [0, 1, 2]


def test_epochs_have_different_orders_and_so_have_seeds() -> None:
    joined = np.concatenate(stream(64, spec(epochs=2.0)))
    assert list(joined[:64]) != list(joined[64:]) and list(joined[:64]) != list(range(64))
    other = np.concatenate(stream(64, spec(epochs=2.0, seed=1)))
    assert list(joined) != list(other)


def test_a_step_depends_on_its_number_alone() -> None:
    train = spec(epochs=4.0, seed=7)
    in_order = stream(9, train)
    backwards = [rows_of_step(step, 9, train) for step in range(len(in_order), 0, -1)][::-1]
    assert [list(batch) for batch in in_order] == [list(batch) for batch in backwards]


def _reference(schedule: str, *, warmup: int, total: int) -> Any:
    """transformers' factor as a function of the number of scheduler steps made before."""
    torch = pytest.importorskip("torch")
    optimization = pytest.importorskip("transformers.optimization")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    made = {
        "cosine": lambda: optimization.get_cosine_schedule_with_warmup(optimizer, warmup, total),
        "linear": lambda: optimization.get_linear_schedule_with_warmup(optimizer, warmup, total),
        "constant": lambda: optimization.get_constant_schedule_with_warmup(optimizer, warmup),
    }[schedule]()
    return made.lr_lambdas[0]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warmup", "total", "whole"), [(0.0, 20, 0), (0.25, 20, 5), (0.03, 225, 7), (3.0, 10, 3), (0.03, 6, 1)])
def test_learning_rate_against_transformers(schedule: str, warmup: float, total: int, whole: int) -> None:
    """The rise is counted from the step that is made (transformers' first step has rate 0 and teaches nothing), the fall as
    there; a fraction of a warm-up step counts as a whole one, as in `TrainingArguments.get_warmup_steps`."""
    reference = _reference(schedule, warmup=whole, total=total)
    train = spec(schedule=schedule, warmup=warmup, learning_rate=2e-4)
    for step in range(1, total + 1):
        expected = 2e-4 * reference(step if step <= whole else step - 1)
        assert lr_at(step, total, train) == pytest.approx(expected, rel=1e-12, abs=1e-18), step


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.01, 0.03, 0.17, 0.5, 0.999, 1.0, 5.0, 100.0])
@pytest.mark.parametrize("total", [1, 2, 6, 37, 225])
def test_every_step_learns_and_none_above_the_highest_rate(schedule: str, warmup: float, total: int) -> None:
    train = spec(schedule=schedule, warmup=warmup, learning_rate=1e-3)
    rates = [lr_at(step, total, train) for step in range(1, total + 1)]
    assert all(0 < rate <= 1e-3 * (1 + 1e-12) for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    if warmup < 1 or warmup <= total:
        assert math.isclose(max(rates), 1e-3), "the recipe's rate is reached"


PICTURES = np.array([0, 1, 0, 2, 0, 1, -7, 0, 2, 0, 0, -12, 1, 0])


@pytest.mark.parametrize("most", [1, 2, 4, 100])
def test_rows_about_one_picture_follow_each_other(most: int) -> None:
    spec = TrainSpec(epochs=2, batch_size=len(PICTURES), rows_per_image=most, seed=3)
    for step in (1, 2):
        order = rows_of_step(step, len(PICTURES), spec, pictures=PICTURES)
        assert sorted(order) == list(range(len(PICTURES)))
        shown = PICTURES[order]
        if most == 1:
            assert (order == rows_of_step(step, len(PICTURES), spec)).all()
            continue
        runs = np.split(shown, np.flatnonzero(np.diff(shown)) + 1)
        for picture in set(PICTURES.tolist()):
            count = int((PICTURES == picture).sum())
            whole = sum(len(part) // most for part in runs if part[0] == picture)
            assert whole == count // most, "full groups stand together"
    assert (
        rows_of_step(1, len(PICTURES), spec, pictures=PICTURES).tolist() != rows_of_step(2, 14, spec, pictures=PICTURES).tolist()
    )


def test_rows_without_a_shared_picture_keep_their_order() -> None:
    spec = TrainSpec(epochs=1, batch_size=5)
    alone = np.arange(5)
    assert (rows_of_step(1, 5, spec, pictures=alone) == rows_of_step(1, 5, spec)).all()


@pytest.mark.parametrize(
    "values",
    [{}, {"epochs": 2.5}, {"epochs": 0.5}, {"steps": 1}, {"steps": 2, "batch_size": 3}, {"steps": 9, "rows_per_image": 1}],
)
@pytest.mark.parametrize("together", [True, False])
def test_rows_used_are_those_of_all_steps(values: dict[str, Any], together: bool) -> None:
    train, rows = spec(**values), len(PICTURES)
    pictures = PICTURES if together else None
    steps = range(1, total_steps(rows, train) + 1)
    each = np.concatenate([rows_of_step(step, rows, train, pictures=pictures) for step in steps])
    np.testing.assert_array_equal(rows_used(rows, train, pictures=pictures), np.unique(each))
