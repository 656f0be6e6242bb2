"""The length of a run, its order of rows and its learning rate: pure functions of the recipe, so that a resumed run agrees."""

from __future__ import annotations

import math

import numpy as np

from mlxtune.recipe import TrainSpec


def total_steps(rows: int, spec: TrainSpec) -> int:
    """Optimizer steps of the run; `steps` wins over `epochs`."""
    if spec.steps is not None:
        return spec.steps
    assert spec.epochs is not None
    return math.ceil(spec.epochs * rows / spec.batch_size)


def rows_of_step(step: int, rows: int, spec: TrainSpec) -> np.ndarray:
    """[<= batch_size] int64 indices of the rows that step `step` (from 1) learns from.

    All epochs form one stream of seeded permutations that is cut into batches; only the very last batch may be smaller.
    """
    first, last = (step - 1) * spec.batch_size, step * spec.batch_size
    if spec.steps is None:
        assert spec.epochs is not None
        last = min(last, math.ceil(spec.epochs * rows))
    epochs = range(first // rows, (last - 1) // rows + 1)
    stream = np.concatenate([np.random.default_rng([spec.seed, epoch]).permutation(rows) for epoch in epochs])
    return stream[first - epochs[0] * rows : last - epochs[0] * rows]


def lr_at(step: int, total: int, spec: TrainSpec) -> float:
    """Learning rate of step `step` (from 1) of `total`: a linear rise, then cosine or linear to zero, or constant.

    Source: the schedules of transformers' `get_scheduler`. The rise is counted from the first step that is made, where theirs
    has rate 0; the fall starts one step later for it and does not reach 0, so every step learns.
    """
    # In whole steps, as TrainingArguments has it: the fall would start above the highest rate behind part of a step.
    warmup = math.ceil(spec.warmup * total) if spec.warmup < 1 else spec.warmup
    if step <= warmup:
        return spec.learning_rate * step / warmup
    progress = (step - 1 - warmup) / max(1.0, total - warmup)
    factor = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}[spec.schedule]
    return spec.learning_rate * max(0.0, factor)
