"""Questions that share a picture's tokens: the same loss, the same step and the same answers as apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mlxtune.batching import micro_batches
from mlxtune.engine import Engine
from mlxtune.generation import generate
from mlxtune.recipe import LoraSpec
from mlxtune.types import Batch, Encoded, Example
from tests.helpers.rows import ANSWERS, example, fitting
from tests.helpers.training import EVERYWHERE, attach, encode, largest_difference

Open = Callable[..., Engine]
LIMIT = 2048


def four_each(engine: Engine, pictures: int = 2) -> list[Encoded]:
    """Four questions about each of some pictures, and one row that shares nothing."""
    rows: list[Example] = []
    for number in range(pictures):
        first = example(number)
        asked = [example(10 * number + i, target=ANSWERS[i]) for i in range(4)]
        rows += [replace(row, images=first.images) for row in asked]
    return encode(engine, [*fitting(rows, engine.family), example(99)])


def batches(engine: Engine, rows: list[Encoded], *, share: bool, size: int = 16) -> list[Batch]:
    settings = {"size": size, "pad_id": engine.processor.pad_id, "pictures": engine.pictures}
    return list(micro_batches(rows, **settings, share=LIMIT if share else None))


@pytest.mark.parametrize("stored", [True, False])
def test_a_step_is_the_same(backend: str, open_: Open, stored: bool) -> None:
    def steps(share: bool) -> tuple[list[float], list[float], dict[str, np.ndarray]]:
        engine = open_(backend)
        if stored:
            engine.keep_features()
        attach(engine, LoraSpec(rank=4, alpha=8, sites=["attention", "mlp"] if stored else EVERYWHERE), random_b=True)
        made = batches(engine, four_each(engine), share=share)
        results = [engine.backend.train_step(made, lr=1e-4, clip=1.0, seed=0) for _ in range(3)]
        return [r.loss for r in results], [r.grad_norm for r in results], engine.backend.adapter()

    (loss, norm, adapter), (apart, norm_apart, adapter_apart) = steps(True), steps(False)
    assert loss == pytest.approx(apart, abs=1e-5)
    assert norm == pytest.approx(norm_apart, rel=1e-4)
    assert largest_difference(adapter, adapter_apart) <= 1e-5


def test_fewer_tokens_are_read(engine: Engine) -> None:
    rows = four_each(engine)
    shared, apart = (sum(int(batch.valid.sum()) for batch in batches(engine, rows, share=s, size=1)) for s in (True, False))
    if engine.processor.crossed:
        assert shared == apart, "pictures behind cross-attention take no rows that could be shared"
    else:
        spared = 3 * sum(engine.pictures.tokens(rows[first].images[0]) for first in (0, 4))
        assert apart - shared >= spared > 0


def test_company_and_cutting_leave_the_loss_alone(engine: Engine) -> None:
    rows = four_each(engine)
    attach(engine, random_b=True)
    losses = [
        sum(engine.backend.loss(batch) for batch in batches(engine, rows, share=share, size=size))
        for share, size in ((True, 1), (True, 2), (True, 16), (False, 3))
    ]
    assert losses == pytest.approx([losses[-1]] * 4, abs=1e-5)


def answers(engine: Engine, prompts: list[Encoded], *, share: bool, size: int) -> list[tuple[int, ...]]:
    engine.shares_prefixes = share
    return [answer.ids for answer in generate(engine, prompts, batch_size=size, max_new_tokens=8)]


@pytest.mark.parametrize("size", [3, 4, 9])
def test_answers_are_the_same(engine: Engine, size: int) -> None:
    attach(engine, random_b=True)
    prompts = [replace(row, **_prompt(row)) for row in four_each(engine)]
    apart = answers(engine, prompts, share=False, size=1)
    assert len(set(apart)) > 2
    assert answers(engine, prompts, share=True, size=size) == apart


def _prompt(row: Encoded) -> dict[str, np.ndarray]:
    """The row without its answer."""
    length = int(np.flatnonzero(row.weights)[0])
    return {"input_ids": row.input_ids[:length], "weights": row.weights[:length] * 0, "positions": row.positions[:, :length]}


def test_a_picture_is_read_once_for_all_its_questions(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    prefill = engine.backend.prefill

    def counted(batch: Batch, **settings: object) -> object:
        read.append(int(batch.valid.sum()))
        return prefill(batch, **settings)

    monkeypatch.setattr(engine.backend, "prefill", counted)
    prompts = [replace(row, **_prompt(row)) for row in four_each(engine)]
    answers(engine, prompts, share=True, size=4)
    shared, read[:] = sum(read), []
    answers(engine, prompts, share=False, size=4)
    spared = 0 if engine.processor.crossed else 2 * 3 * min(engine.pictures.tokens(row.images[0]) for row in prompts)
    assert sum(read) - shared >= spared and (shared == sum(read) or spared)
