"""The likelihood of an option's letter, against the loss of answering with it and against transformers' logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlxtune.batching import collate
from mlxtune.engine import Engine
from mlxtune.errors import DataError
from mlxtune.evaluate.options import option_likelihoods
from mlxtune.types import Example
from tests.helpers.rows import example, examples, fitting

Open = Callable[..., Engine]


def asked(engine: Engine, count: int) -> list[Example]:
    """Multiple-choice questions with two to four options among plain ones."""
    options = {"A": "red", "B": "blue", "C": "green", "D": "white"}
    choices = [dict(list(options.items())[: 2 + number % 3]) for number in range(count)]
    rows = [
        replace(row, choices=chosen, target="B")
        for row, chosen in zip(fitting(examples(count), engine.family), choices, strict=True)
    ]
    return [replace(row, choices={}) if number % 4 == 3 else row for number, row in enumerate(rows)]


@pytest.mark.parametrize("size", [1, 3])
def test_a_letters_likelihood_is_what_learning_it_would_cost(engine: Engine, size: int) -> None:
    rows = asked(engine, 9)
    found = option_likelihoods(engine, rows, batch_size=size)
    for row, likelihoods in zip(rows, found, strict=True):
        if not row.choices:
            assert likelihoods is None
            continue
        assert likelihoods is not None and list(likelihoods) == list(row.choices)
        for letter, value in likelihoods.items():
            whole = engine.processor.encode(replace(row, target=letter), max_tokens=None, answer=True)
            first = np.zeros_like(whole.weights)
            place = np.flatnonzero(whole.weights)[-2]  # before the end token
            assert engine.processor.decode([int(whole.input_ids[place])]) == letter
            first[place] = 1
            batch = collate([replace(whole, weights=first)], pad_id=engine.processor.pad_id, pictures=engine.pictures)
            assert value == pytest.approx(-engine.backend.loss(batch), abs=1e-4)
    assert np.std([some["A"] for some in found if some]) > 1e-3  # it hangs on the question and the picture


def test_both_backends_agree(open_: Open, both: tuple[str, str]) -> None:
    engines = [open_(name) for name in both]
    mlx, torch = ([x for x in option_likelihoods(engine, asked(engine, 5), batch_size=2) if x] for engine in engines)
    differences: list[Any] = [abs(ours[k] - theirs[k]) for ours, theirs in zip(mlx, torch, strict=True) for k in ours]
    assert max(differences) < 1e-4


def test_options_that_begin_alike_are_refused(engine: Engine) -> None:
    row = replace(example(0), choices={"A": "red", "AB": "blue", "C": "green"})
    with pytest.raises(DataError, match="row 0: of the options A, AB, C some begin alike"):
        option_likelihoods(engine, [row], batch_size=1)
