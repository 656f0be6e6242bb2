"""Savings inside a step: checkpointing and adapters of the last layers alone change what is computed, never what comes out."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import pytest

from mlxtune.batching import micro_batches
from mlxtune.engine import Engine
from mlxtune.recipe import LoraSpec, TrainSpec
from mlxtune.types import Arrays, StepResult
from tests.helpers.mlx_memory import LENGTH, WIDTH, checkpointed_peak
from tests.helpers.rows import examples
from tests.helpers.training import EVERYWHERE, attach, encode, largest_difference, train

Open = Callable[..., Engine]
SPEC = TrainSpec(steps=3, batch_size=8, micro_batch_size=4, learning_rate=1e-4, warmup=0.0)


def run(engine: Engine, lora: LoraSpec, **savings: bool) -> tuple[list[StepResult], Arrays]:
    attach(engine, lora, random_b=True, **savings)
    return train(engine, encode(engine, examples(8)), SPEC), engine.backend.adapter()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_changes_no_number(backend: str, open_: Open, dropout: float) -> None:
    lora = LoraSpec(rank=4, alpha=8, sites=EVERYWHERE, dropout=dropout)
    (kept, adapter), (again, same) = (run(open_(backend), lora, checkpointing=on) for on in (False, True))
    assert [r.loss for r in again] == pytest.approx([r.loss for r in kept], abs=1e-5)
    assert [r.grad_norm for r in again] == pytest.approx([r.grad_norm for r in kept], rel=1e-4)
    assert largest_difference(same, adapter) <= 1e-5


@pytest.mark.parametrize("savings", [{}, {"checkpointing": True}], ids=["alone", "checkpointing"])
def test_compiling_changes_no_number(
    backend: str, family: str, open_: Open, savings: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "torch":
        if family != "qwen2_5_vl" or not savings:
            pytest.skip("torch's compiler takes its time: one family stands for the others, and the command for a step alone")
        # Otherwise g++ works for a minute. The command has it do so, in test_speed_switches.
        torch = pytest.importorskip("torch")
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    lora = LoraSpec(rank=4, alpha=8, dropout=0.2 if backend == "mlx" else 0.0)  # torch's compiler draws other numbers
    found = []
    for compiled in (False, True):
        engine = open_(backend)
        engine.keep_features()
        found.append(run(engine, lora, compiled=compiled, **savings))
    (plain, adapter), (fused, same) = found
    assert [r.loss for r in fused] == pytest.approx([r.loss for r in plain], abs=1e-5)
    assert [r.grad_norm for r in fused] == pytest.approx([r.grad_norm for r in plain], rel=1e-4)
    assert largest_difference(same, adapter) <= 1e-5


def test_a_checkpointed_layer_runs_again_on_the_way_back(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    layers = _layers(engine)
    attach(engine, checkpointing=True)
    if engine.backend.name == "torch":
        for number, layer in enumerate(layers):
            _last_product(layer).register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    else:
        kind = type(layers[0])
        own = kind.__call__

        def counted(layer, *arguments):
            number = next((n for n, one in enumerate(layers) if one is layer), None)
            return (calls.append(number), own(layer, *arguments))[1]

        monkeypatch.setattr(kind, "__call__", counted)
    train(engine, encode(engine, examples(1)), SPEC.model_copy(update={"steps": 1, "batch_size": 1, "micro_batch_size": 1}))
    assert sorted(c for c in calls if c is not None) == sorted([*range(len(layers))] * 2)


def _layers(engine: Engine) -> list:
    text = engine.backend.model.text
    return list(text.blocks if hasattr(text, "blocks") else text.layers)


def _last_product(layer: Any) -> Any:
    """Of a layer in torch: what is called for the tokens that go on, and for those alone."""
    mlp = getattr(layer, "mlp", layer)
    return mlp.down_proj if hasattr(mlp, "down_proj") else mlp.fc2


def test_behind_the_last_attention_learned_rows_alone_go_on(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine.family.name == "donut":
        pytest.skip("nearly all tokens of a Donut's row are learned, and its layers end as they began")
    seen: list[int] = []
    layers = _layers(engine)
    if engine.backend.name == "torch":
        for layer in layers:
            _last_product(layer).register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:-1].numel()))
    else:
        mlps = [layer.mlp for layer in layers]
        kind = type(mlps[0])
        own = kind.__call__

        def watched(mlp, x):
            if any(mlp is one for one in mlps):
                seen.append(x.size // x.shape[-1])
            return own(mlp, x)

        monkeypatch.setattr(kind, "__call__", watched)
    rows = encode(engine, examples(2))
    (batch,) = micro_batches(rows, size=2, pad_id=engine.processor.pad_id, pictures=engine.pictures)
    engine.backend.loss(batch)
    assert 0 < len(batch.labels) < batch.input_ids.size
    assert seen == [*[batch.input_ids.size] * (len(layers) - 1), len(batch.labels)]


def test_adapters_of_the_last_layers_send_no_gradient_below_them(
    backend: str, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_(backend)
    engine.keep_features()
    layers = _layers(engine)
    attach(engine, LoraSpec(rank=4, alpha=8, layers=1), random_b=True)
    numbers = {int(re.fullmatch(engine.family.layer, name.rpartition(".")[0])[1]) for name in engine.backend.adapter()}
    assert numbers == {len(layers) - 1}
    reached = _gradient_counters(engine, layers, monkeypatch)
    train(engine, encode(engine, examples(2)), SPEC.model_copy(update={"steps": 1, "batch_size": 2, "micro_batch_size": 2}))
    assert reached == {len(layers) - 1}


def _gradient_counters(engine: Engine, layers: list, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers of the layers whose output, in torch that of their last product, a gradient has come to."""
    reached: set[int] = set()
    if engine.backend.name == "torch":

        def hook(number: int) -> Callable[..., None]:
            def watch(module, given, made) -> None:
                out = made[0] if isinstance(made, tuple) else made
                if out.requires_grad:
                    out.register_hook(lambda gradient: reached.add(number))

            return watch

        for number, layer in enumerate(layers):
            _last_product(layer).register_forward_hook(hook(number))
        return reached
    mx = pytest.importorskip("mlx.core")
    kind = type(layers[0])
    own = kind.__call__

    def watched(layer, *arguments):
        number = next(n for n, one in enumerate(layers) if one is layer)

        @mx.custom_function
        def through(x):
            return x * 1.0

        @through.vjp
        def back(primal, cotangent, out):
            reached.add(number)
            return cotangent

        return through(own(layer, *arguments))

    monkeypatch.setattr(kind, "__call__", watched)
    return reached


def test_checkpointed_memory_stays_flat_in_depth() -> None:
    """Of MLX, whose own `mx.checkpoint` saves nothing: it computes again what all layers hold before any is done."""
    pytest.importorskip("mlx.core")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        few, many = pool.map(checkpointed_peak, (4, 20))
    inputs = 16 * LENGTH * WIDTH * 4  # of the layers that one has more than the other
    assert 0 < few < many <= few + 3 * inputs  # what is freed while the next layer runs moves the peak by half of them
