"""Rows end to end instead of padding: the same step as rows side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mlxtune.batching import micro_batches
from mlxtune.engine import Engine
from mlxtune.types import Batch, Encoded
from tests.helpers.rows import example, fitting
from tests.helpers.training import attach, encode, largest_difference

Open = Callable[..., Engine]


def of_unlike_lengths(engine: Engine) -> list[Encoded]:
    """One long row, four short ones about other pictures."""
    long = example(0, target="the blue bar is the longest one of them all " * 20)
    short = [replace(example(number), target="42") for number in (1, 2, 3)]
    return encode(engine, fitting([long, *short, example(6, pictures=0)], engine.family))


def batches(engine: Engine, rows: list[Encoded], *, fill: bool, size: int) -> list[Batch]:
    settings = {"pad_id": engine.processor.pad_id, "pictures": engine.pictures}
    return list(micro_batches(rows, size=size, fill=fill, **settings))


def test_a_step_is_the_same(backend: str, open_: Open) -> None:
    def step(fill: bool) -> tuple[float, float, float, int, dict[str, np.ndarray]]:
        engine = open_(backend)
        engine.keep_features()
        attach(engine, random_b=True)
        made = batches(engine, of_unlike_lengths(engine), fill=fill, size=8)
        before = sum(engine.backend.loss(batch) for batch in made)
        result = engine.backend.train_step(made, lr=1e-4, clip=1.0, seed=0)
        tokens = sum(batch.input_ids.size for batch in made)
        return before, result.loss, result.grad_norm, tokens, engine.backend.adapter()

    packed, apart = step(True), step(False)
    assert packed[:2] == pytest.approx(apart[:2], abs=1e-5)
    assert packed[2] == pytest.approx(apart[2], rel=1e-4)
    assert largest_difference(packed[4], apart[4]) <= 1e-5
    assert packed[3] < apart[3] or open_(backend).processor.crossed


def test_fewer_tokens_are_padding(engine: Engine) -> None:
    rows = of_unlike_lengths(engine)
    packed, apart = (sum(b.input_ids.size for b in batches(engine, rows, fill=fill, size=8)) for fill in (True, False))
    if engine.processor.crossed:
        assert packed == apart, "a lane has one picture to look at"
    else:
        assert packed < 0.8 * apart
