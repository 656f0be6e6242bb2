"""Controls: which pictures the model is shown, and what the commonest answers would score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlxtune.evaluate import controls as module
from mlxtune.evaluate import spread
from mlxtune.evaluate.controls import controls
from mlxtune.metrics import Score
from mlxtune.recipe import EvaluateSpec
from mlxtune.types import Example
from tests.helpers.rows import example


def line(row: Example, prediction: str) -> dict[str, Any]:
    return {"id": row.id, "references": list(row.references), "prediction": prediction, "meta": dict(row.meta)}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Sequence[Example]]:
    """Rows by phase, instead of asking a model."""
    asked: dict[str, Sequence[Example]] = {}

    def evaluate(engine: Any, rows: Sequence[Example], metrics: Any, spec: Any, *, phase: str, observe: Any) -> Any:
        asked[phase] = rows
        return SimpleNamespace(scores={metrics[0]: Score(0.25, n=len(rows), ungraded=0)})

    monkeypatch.setattr(module, "evaluate", evaluate)
    return asked


def control(rows: Sequence[Example], train: Sequence[Example] = (), *, limit: int = 64) -> dict[str, Any]:
    lines = [line(row, row.target if number % 2 else "x") for number, row in enumerate(rows)]
    spec = EvaluateSpec(controls=limit)
    return controls(None, rows, lines, metric="exact_match", train=train, spec=spec, observe=lambda event: None)


def test_blank_pictures_are_grey_and_as_large(shown: dict[str, Sequence[Example]]) -> None:
    rows = [example(number, pictures=number % 3) for number in range(6)]
    assert control(rows)["blank"] == 0.25
    for row, blank in zip(rows, shown["blank pictures"], strict=True):
        assert replace(blank, images=()) == replace(row, images=())
        assert [image.size for image in blank.images] == [image.size for image in row.images]
        assert all((np.asarray(image.load()) == 128).all() for image in blank.images)


def test_shuffled_pictures_are_those_of_another_row(shown: dict[str, Sequence[Example]]) -> None:
    rows = [example(number // 2, pictures=1 + number % 2) for number in range(8)]  # pictures of neighbours are shared
    control(rows)
    for row, other in zip(rows, shown["shuffled pictures"], strict=True):
        assert len(other.images) == len(row.images) and not set(other.images) & set(row.images)
        assert other.messages == row.messages
    lonely = [example(0)]
    control(lonely)
    assert shown["shuffled pictures"][0].images == lonely[0].images


def test_shuffled_pictures_are_of_another_answer_where_there_is_one(shown: dict[str, Sequence[Example]]) -> None:
    rows = [example(number, target="Yaga" if number < 5 else "Kolobok") for number in range(10)]
    control(rows)
    answers = {image: row.target for row in rows for image in row.images}
    assert all(answers[other.images[0]] != row.target for row, other in zip(rows, shown["shuffled pictures"], strict=True))
    named = [replace(row, target=f"{row.target} {number}", names=(row.target,)) for number, row in enumerate(rows)]
    control(named)
    assert all(answers[other.images[0]] != row.names[0] for row, other in zip(named, shown["shuffled pictures"], strict=True))


def test_rows_without_pictures_have_nothing_to_control(shown: dict[str, Sequence[Example]]) -> None:
    told = control([example(number, pictures=0) for number in range(4)])
    assert told["blank"] is None and told["shuffled"] is None and not shown


def test_the_commonest_answer_goes_by_kind(shown: dict[str, Sequence[Example]]) -> None:
    def of(kind: str | None, target: str) -> Example:
        row = example(0, target=target)
        return replace(row, meta={"kind": kind} if kind else {})

    train = [of("count", "4"), of("count", "4"), of("count", "5"), *[of("yes", "No")] * 4, of("yes", "Yes")]
    asked = [of("count", "4"), of("count", "5"), of("yes", "No"), of("new", "No"), of("new", "4")]
    assert control(asked, train)["majority"] == 3 / 5  # an unknown kind gets the commonest answer of all, "No"
    assert control(asked)["majority"] is None


def test_the_full_score_is_of_the_same_few_rows(shown: dict[str, Sequence[Example]]) -> None:
    rows = [example(number) for number in range(20)]
    told = control(rows, limit=7)
    chosen = spread(range(20), 7)
    assert told["rows"] == 7 == len(shown["blank pictures"])
    assert told["full"] == sum(number % 2 for number in chosen) / 7
    assert [row.id for row in shown["blank pictures"]] == [rows[number].id for number in chosen]


@pytest.mark.parametrize(("count", "limit", "wanted"), [(3, None, [0, 1, 2]), (3, 5, [0, 1, 2]), (10, 3, [0, 3, 6])])
def test_spread(count: int, limit: int | None, wanted: list[int]) -> None:
    assert list(spread(range(count), limit)) == wanted
