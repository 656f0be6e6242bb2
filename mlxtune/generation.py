"""Greedy answers in batches. The loop is shared; a backend only reads prompts and appends one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from mlxtune.batching import collate
from mlxtune.engine import Engine
from mlxtune.types import Encoded


class Generation(NamedTuple):
    ids: tuple[int, ...]  # without the token that ended it
    finish: Literal["stop", "length"]


def generate(
    engine: Engine,
    prompts: Sequence[Encoded],
    *,
    batch_size: int,
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Generation]:
    """The likeliest answer to each prompt, in the prompts' order, token by token (greedy).

    Prompts of like length are answered together, and a batch ends when its last row has stopped. progress: called with
    the number of prompts answered so far.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].input_ids))
    answers: dict[int, Generation] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        for index, answer in zip(chosen, _answer([prompts[i] for i in chosen], engine, max_new_tokens), strict=True):
            answers[index] = answer
        progress(len(answers))
    return [answers[i] for i in range(len(prompts))]


def tokens(engine: Engine, prompts: Sequence[Encoded], *, max_new_tokens: int) -> Iterator[np.ndarray]:
    """The next token of each prompt, [B] int32, `max_new_tokens` times; it is the caller who stops."""
    batch = collate(prompts, pad_id=engine.processor.pad_id, pictures=engine.pictures, pad="left")
    state, following = engine.backend.prefill(batch, room=max_new_tokens)
    # Text goes on counting from the largest position on any axis, as M-RoPE has it; with plain positions it is the same.
    place = np.array([prompt.positions.max() for prompt in prompts], np.int32)
    yield following
    for _ in range(max_new_tokens - 1):
        place = place + 1
        following = engine.backend.decode(state, following, np.tile(place, (len(batch.positions), 1)))
        yield following


def _answer(prompts: Sequence[Encoded], engine: Engine, max_new_tokens: int) -> list[Generation]:
    stop_ids = engine.processor.stop_ids
    ids: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    for following in tokens(engine, prompts, max_new_tokens=max_new_tokens):
        for row in list(running):
            if int(following[row]) in stop_ids:
                running.discard(row)
            else:
                ids[row].append(int(following[row]))
        if not running:
            break
    return [Generation(tuple(row), "length" if number in running else "stop") for number, row in enumerate(ids)]
