"""Training steps: exact accumulation, the same run on both backends, and a state that can be carried over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mlxtune.engine import Engine
from mlxtune.recipe import LoraSpec, TrainSpec
from mlxtune.types import Arrays, StepResult
from tests.helpers.rows import examples
from tests.helpers.training import EVERYWHERE, attach, encode, largest_difference, mean_loss, train

Open = Callable[..., Engine]
SPEC = TrainSpec(steps=30, batch_size=8, micro_batch_size=4, learning_rate=2e-3, warmup=0.1, weight_decay=0.01, clip=1.0, seed=5)
TEXT, ALL = LoraSpec(rank=4, alpha=8), LoraSpec(rank=4, alpha=8, sites=EVERYWHERE)


def run(
    engine: Engine, spec: TrainSpec, lora: LoraSpec, *, stored: bool = False, random_b: bool = False
) -> tuple[list[StepResult], Arrays]:
    if stored:
        engine.keep_features()
    attach(engine, lora, random_b=random_b)
    results = train(engine, encode(engine, examples(24)), spec)
    return results, engine.backend.adapter()


def assert_learned(results: list[StepResult]) -> None:
    assert np.mean([r.loss for r in results[-3:]]) < results[0].loss - 0.05
    assert any(r.grad_norm > 1 for r in results), "clipping must take part"


@pytest.mark.parametrize("micro", [4, 1])
def test_accumulation_is_exact(backend: str, open_: Open, micro: int) -> None:
    # AdamW divides gradients by their own size, so where they vanish it turns rounding into steps of the learning rate: it is a
    # recipe's usual one here, and B is not zero, since A's gradients would vanish with it.
    spec = SPEC.model_copy(update={"steps": 3, "learning_rate": 1e-4})

    def cut(size: int) -> tuple[list[StepResult], Arrays]:
        return run(open_(backend), spec.model_copy(update={"micro_batch_size": size}), TEXT, random_b=True)

    (whole, adapter), (pieces, same) = cut(8), cut(micro)
    for ours, theirs in zip(pieces, whole, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    assert largest_difference(same, adapter) <= 1e-5


def test_learning_rate_and_clip_are_those_of_the_step(backend: str, open_: Open) -> None:
    engine = open_(backend)
    before = attach(engine, TEXT, weight_decay=0.0).arrays
    rows = encode(engine, examples(8))
    train(engine, rows, SPEC.model_copy(update={"steps": 1, "warmup": 0.0}))
    # AdamW's first update has the size of the learning rate wherever there is a gradient at all.
    change = np.concatenate([np.abs(engine.backend.adapter()[n] - before[n]).ravel() for n in before if n.endswith("B")])
    assert np.median(change) == pytest.approx(SPEC.learning_rate, rel=1e-3)
    assert change.max() <= SPEC.learning_rate * 1.001


@pytest.mark.parametrize(
    ("lora", "steps", "stored"),
    [(TEXT, 30, True), (TEXT, 6, False), (ALL, 8, False)],
    ids=["text sites, stored features", "text sites, fresh pixels", "projector and vision sites"],
)
def test_both_backends_make_the_same_run(both: tuple[str, str], open_: Open, lora: LoraSpec, steps: int, stored: bool) -> None:
    spec = SPEC.model_copy(update={"steps": steps})
    # With B at zero the first gradients of A vanish, and AdamW makes steps of what rounding leaves: seen in a vision tower.
    lively = lora is ALL
    (ours, adapter), (theirs, other) = (run(open_(name), spec, lora, stored=stored, random_b=lively) for name in both)
    for number, (mine, yours) in enumerate(zip(ours, theirs, strict=True), start=1):
        assert mine.loss == pytest.approx(yours.loss, abs=1e-4), number
        assert mine.grad_norm == pytest.approx(yours.grad_norm, rel=1e-3), number
    assert largest_difference(adapter, other) <= 1e-4
    if steps == 30:
        assert_learned(ours)


def test_every_site_of_the_vision_tower_learns(backend: str, open_: Open) -> None:
    engine = open_(backend)
    adapter = attach(engine, ALL)
    train(engine, encode(engine, examples(8)), SPEC.model_copy(update={"steps": 1}))
    groups = {engine.family.group_of(site) for site in adapter.sites}
    assert groups == set(EVERYWHERE)
    learned = engine.backend.adapter()
    assert [site for site in adapter.sites if not learned[f"{site}.lora_B"].any()] == []


def test_weights_outside_the_adapter_stay(backend: str, open_: Open) -> None:
    engine = open_(backend)
    rows = encode(engine, examples(6))
    before = mean_loss(engine, rows)
    zero = {name: array * 0 for name, array in attach(engine, ALL).arrays.items()}
    assert mean_loss(engine, rows) == before
    train(engine, rows, SPEC.model_copy(update={"steps": 2}))
    assert mean_loss(engine, rows) != before
    engine.backend.set_adapter(zero)
    assert mean_loss(engine, rows) == before


def test_a_fresh_process_goes_on_with_the_same_bytes(backend: str, open_: Open) -> None:
    spec = SPEC.model_copy(update={"steps": 6})
    lora = LoraSpec(rank=4, alpha=8, dropout=0.1)
    first, second = open_(backend), open_(backend)
    attach(first, lora)
    attach(second, lora)
    rows = encode(first, examples(12))
    train(first, rows, spec, last=3)
    second.backend.set_adapter(first.backend.adapter())
    second.backend.set_optimizer(first.backend.optimizer())
    assert train(first, rows, spec, first=4) == train(second, rows, spec, first=4)
    for ours, theirs in (
        (first.backend.adapter(), second.backend.adapter()),
        (first.backend.optimizer(), second.backend.optimizer()),
    ):
        assert {n: a.tobytes() for n, a in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}


@pytest.mark.parametrize("origin", [0, 1])
def test_a_run_can_change_its_backend(both: tuple[str, str], open_: Open, origin: int) -> None:
    spec = SPEC.model_copy(update={"steps": 6})
    first, second = open_(both[origin]), open_(both[1 - origin])
    attach(first)
    attach(second)
    rows = encode(first, examples(12))
    train(first, rows, spec, last=3)
    second.backend.set_adapter(first.backend.adapter())
    second.backend.set_optimizer(first.backend.optimizer())
    here, there = train(first, rows, spec, first=4), train(second, rows, spec, first=4)
    assert [r.loss for r in there] == pytest.approx([r.loss for r in here], abs=1e-5)
    assert largest_difference(second.backend.adapter(), first.backend.adapter()) <= 1e-5


def test_what_a_backend_gives_away_is_a_copy(engine: Engine) -> None:
    attach(engine, random_b=True)
    rows = encode(engine, examples(4))
    adapter, optimizer = engine.backend.adapter(), engine.backend.optimizer()
    kept = {name: array.copy() for name, array in {**adapter, **optimizer}.items()}
    train(engine, rows, SPEC.model_copy(update={"steps": 1}))
    assert all(np.array_equal(kept[name], array) for name, array in {**adapter, **optimizer}.items())
