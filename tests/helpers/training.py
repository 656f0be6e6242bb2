"""Training as the trainer does it, from the same pieces, without a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mlxtune.adapters import Adapter, new_adapter
from mlxtune.batching import micro_batches
from mlxtune.engine import Engine
from mlxtune.recipe import LoraSpec, TrainSpec
from mlxtune.schedule import lr_at, rows_of_step
from mlxtune.types import Encoded, Example, StepResult
from tests.helpers.rows import fitting

EVERYWHERE = ["attention", "mlp", "projector", "vision"]


def encode(engine: Engine, rows: Sequence[Example], *, answer: bool = True) -> list[Encoded]:
    return [engine.processor.encode(row, max_tokens=None, answer=answer) for row in fitting(rows, engine.family)]


def lively(adapter: Adapter, *, seed: int = 0) -> Adapter:
    """The adapter with a random B, so that it changes the model from the start."""
    rng = np.random.default_rng(seed)
    arrays = {
        name: (rng.standard_normal(array.shape) * 0.05).astype(np.float32) if name.endswith("lora_B") else array
        for name, array in adapter.arrays.items()
    }
    return replace(adapter, arrays=arrays)


def attach(
    engine: Engine,
    spec: LoraSpec | None = None,
    *,
    random_b: bool = False,
    weight_decay: float = 0.01,
    **savings: bool,
) -> Adapter:
    spec = spec or LoraSpec(rank=4, alpha=8)
    adapter = new_adapter(engine.backend.linears(), engine.family, spec, seed=7)
    adapter = lively(adapter) if random_b else adapter
    engine.backend.attach(adapter, weight_decay=weight_decay, **savings)
    return adapter


def train(
    engine: Engine, rows: Sequence[Encoded], spec: TrainSpec, *, first: int = 1, last: int | None = None
) -> list[StepResult]:
    """Steps `first` to `last` of the run that `spec` describes."""
    assert spec.steps is not None
    results = []
    for step in range(first, (last or spec.steps) + 1):
        chosen = [rows[i] for i in rows_of_step(step, len(rows), spec)]
        batches = micro_batches(chosen, size=spec.micro_batch_size, pad_id=engine.processor.pad_id, pictures=engine.pictures)
        lr = lr_at(step, spec.steps, spec)
        results.append(engine.backend.train_step(list(batches), lr=lr, clip=spec.clip, seed=spec.seed * 1_000_003 + step))
    return results


def mean_loss(engine: Engine, rows: Sequence[Encoded], *, size: int = 4) -> float:
    batches = micro_batches(rows, size=size, pad_id=engine.processor.pad_id, pictures=engine.pictures)
    return sum(engine.backend.loss(batch) for batch in batches)


def largest_difference(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    assert ours.keys() == theirs.keys() and ours
    return max(float(np.abs(np.asarray(ours[name], np.float64) - theirs[name]).max()) for name in ours)
