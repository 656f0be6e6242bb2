"""Half precision, quantised weights and dropout: near the float32 numbers, and no surprise between two runs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from mlxtune.backends import installed
from mlxtune.backends.base import LossScale
from mlxtune.engine import Engine
from mlxtune.errors import BackendError
from mlxtune.recipe import LoraSpec, TrainSpec
from tests.helpers.rows import examples
from tests.helpers.training import EVERYWHERE, attach, encode, mean_loss, train

Open = Callable[..., Engine]
SPEC = TrainSpec(steps=3, batch_size=4, micro_batch_size=2, learning_rate=1e-3, warmup=0.0)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_near_single(backend: str, open_: Open, precision: str) -> None:
    single, half = open_(backend), open_(backend, precision=precision)
    rows = encode(single, examples(6))
    attach(single, LoraSpec(rank=4, alpha=8, sites=EVERYWHERE), random_b=True)
    attach(half, LoraSpec(rank=4, alpha=8, sites=EVERYWHERE), random_b=True)
    near = 0.1 if precision == "bfloat16" else 0.02
    assert mean_loss(half, rows) == pytest.approx(mean_loss(single, rows), abs=near)
    for ours, theirs in zip(train(half, rows, SPEC), train(single, rows, SPEC), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=2 * near)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=0.1)
    adapter = half.backend.adapter()
    assert {array.dtype for array in adapter.values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(array).all() for array in adapter.values())


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_mlx_trains_beside_quantised_weights(open_: Open, quantize: str) -> None:
    if not installed("mlx"):
        pytest.skip("backend 'mlx' is not installed")
    plain, small = open_("mlx"), open_("mlx", quantize=quantize)
    small.keep_features()
    assert small.backend.linears() == plain.backend.linears()
    rows = encode(plain, examples(8))
    assert mean_loss(small, rows) == pytest.approx(mean_loss(plain, rows), abs=0.5 if quantize == "4bit" else 0.05)
    assert mean_loss(small, rows) != mean_loss(plain, rows)
    attach(small)
    before = mean_loss(small, rows)
    train(small, rows, SPEC.model_copy(update={"steps": 6, "batch_size": 8, "learning_rate": 1e-2}))
    assert mean_loss(small, rows) < before - 0.1


def test_torch_without_a_card_refuses_quantised_weights(open_: Open) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    with pytest.raises(BackendError, match="CUDA"):
        open_("torch", quantize="4bit")


def test_dropout_follows_the_seed_and_spares_evaluation(backend: str, open_: Open) -> None:
    def steps(seed: int, share: float) -> tuple[list[float], float]:
        engine = open_(backend)
        engine.keep_features()
        rows = encode(engine, examples(8))
        attach(engine, LoraSpec(rank=4, alpha=8, dropout=share), random_b=True)
        before = mean_loss(engine, rows)
        # The rate is next to nothing, so that seeds differ by dropout alone; the rows of a step are all of them.
        spec = SPEC.model_copy(update={"seed": seed, "batch_size": 8, "learning_rate": 1e-12})
        losses = [result.loss for result in train(engine, rows, spec)]
        assert mean_loss(engine, rows) == pytest.approx(before, abs=1e-6), "dropout goes on after the step"
        return losses, before

    (ours, plain), (again, _), (other, _), (none, same) = steps(1, 0.4), steps(1, 0.4), steps(2, 0.4), steps(1, 0.0)
    assert ours == again
    assert ours != pytest.approx(other, abs=1e-5)
    assert plain == same
    assert none == pytest.approx([plain] * 3, abs=1e-5)
    assert len({round(loss, 5) for loss in ours}) == 3, "every step drops others"
    assert all(0 < abs(loss - plain) < 1 for loss in ours)


def test_a_loss_scale_halves_on_overflow_and_grows_after_good_steps() -> None:
    scale = LossScale(value=8.0, growth_interval=3)
    assert not scale.accepts(math.inf) and scale.value == 4.0
    assert not scale.accepts(math.nan) and scale.value == 2.0
    assert [scale.accepts(1.0) for _ in range(3)] == [True] * 3
    assert scale.value == 4.0
    fixed = LossScale(value=1.0, growth_interval=1)
    assert fixed.accepts(math.inf), "nothing can be mended at scale 1: the step goes on and the loss shows it"
    assert fixed.accepts(1.0) and fixed.value == 1.0


def test_a_step_that_overflows_is_made_again(backend: str, open_: Open) -> None:
    engine, plain = open_(backend, precision="float16"), open_(backend, precision="float16")
    rows = encode(engine, examples(4))
    attach(engine)
    attach(plain)
    engine.backend._scale.value = 2.0**30
    ours, theirs = train(engine, rows, SPEC), train(plain, rows, SPEC)
    assert engine.backend._scale.value < 2.0**30
    assert [r.loss for r in ours] == pytest.approx([r.loss for r in theirs], abs=1e-2)
    assert all(math.isfinite(r.grad_norm) for r in ours)


def test_a_scale_that_grows_in_a_step_leaves_its_gradients_alone(backend: str, open_: Open) -> None:
    engine, plain = open_(backend, precision="float16"), open_(backend, precision="float16")
    rows = encode(engine, examples(4))
    attach(engine)
    attach(plain)
    engine.backend._scale.growth_interval = 1
    before = engine.backend._scale.value
    for one in (engine, plain):
        train(one, rows, SPEC, last=1)
    assert (engine.backend._scale.value, plain.backend._scale.value) == (2 * before, before)
    ours, theirs = engine.backend.optimizer(), plain.backend.optimizer()
    for name in (name for name in theirs if name.endswith("lora_B.exp_avg")):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-6)
