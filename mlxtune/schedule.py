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


def rows_of_step(step: int, rows: int, spec: TrainSpec, *, pictures: np.ndarray | None = None) -> np.ndarray:
    """[<= batch_size] int64 indices of the rows that step `step` (from 1) learns from.

    All epochs form one stream of seeded permutations that is cut into batches; only the very last batch may be smaller.
    pictures: [rows], the same number for rows about the same pictures; up to `rows_per_image` of them follow each other.
    """
    first, last = (step - 1) * spec.batch_size, step * spec.batch_size
    if spec.steps is None:
        last = min(last, _examples(rows, spec))
    return _stream(first, last, rows, spec, pictures)


def rows_used(rows: int, spec: TrainSpec, *, pictures: np.ndarray | None = None) -> np.ndarray:
    """[<= rows] int64 indices, rising, of the rows that any step of the run learns from."""
    length = _examples(rows, spec)
    return np.arange(rows) if length >= rows else np.sort(_stream(0, length, rows, spec, pictures))


def _examples(rows: int, spec: TrainSpec) -> int:
    """Examples of the whole run, those of several epochs counted again."""
    if spec.steps is not None:
        return spec.steps * spec.batch_size
    assert spec.epochs is not None
    return math.ceil(spec.epochs * rows)


def _stream(first: int, last: int, rows: int, spec: TrainSpec, pictures: np.ndarray | None) -> np.ndarray:
    """Part of the run's stream of rows, from the `first` example up to `last`, which is left out."""
    epochs = range(first // rows, (last - 1) // rows + 1)
    orders = (np.random.default_rng([spec.seed, epoch]).permutation(rows) for epoch in epochs)
    stream = np.concatenate([_together(order, pictures, spec) for order in orders])
    return stream[first - epochs[0] * rows : last - epochs[0] * rows]


def _together(order: np.ndarray, pictures: np.ndarray | None, spec: TrainSpec) -> np.ndarray:
    """The permutation with rows about one picture moved up to the first of them, so many at a time."""
    if pictures is None or spec.rows_per_image == 1:
        return order
    by_picture = np.argsort(pictures[order], kind="stable")  # places in `order`, picture by picture
    _, starts, sizes = np.unique(pictures[order][by_picture], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    heads = np.maximum.accumulate(np.where(rank % spec.rows_per_image == 0, np.arange(len(order)), 0))
    together = np.empty(len(order), np.int64)
    together[by_picture] = by_picture[heads]  # the place of the row that this one stands with
    return order[np.argsort(together, kind="stable")]


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
