"""Answers in batches, greedy or by beams. The loop is shared; a backend only reads prompts and appends one token at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mlxtune.backends.base import Likeliest
from mlxtune.batching import collate
from mlxtune.beam_search import beam_search, width
from mlxtune.engine import Engine
from mlxtune.errors import DataError
from mlxtune.packing import split_prompts
from mlxtune.types import Batch, Encoded


@dataclass(frozen=True)
class Generation:
    ids: tuple[int, ...]  # without the token that ended it
    finish: Literal["stop", "length"]
    first_token_s: float = field(default=0.0, compare=False)  # from the start of its batch to its first token


def generate(
    engine: Engine,
    prompts: Sequence[Encoded],
    *,
    batch_size: int,
    max_new_tokens: int,
    num_beams: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Generation]:
    """The likeliest answer to each prompt, in the prompts' order: token by token (greedy), or the best of several beams.

    Prompts of like length are answered together, those about one picture next to each other, so that it is read once for them.
    Rows that have stopped leave the batch. num_beams: rows that a prompt has in its batch while it is answered. progress: called
    with the number of prompts answered so far. Errors: DataError where an answer could outgrow the model's positions.
    """
    answers: dict[int, Generation] = {}
    for chosen in _batches(prompts, batch_size):
        asked = [prompts[i] for i in chosen]
        found = _answer(asked, engine, max_new_tokens) if num_beams == 1 else _search(asked, engine, max_new_tokens, num_beams)
        answers |= dict(zip(chosen, found, strict=True))
        progress(len(answers))
    return [answers[i] for i in range(len(prompts))]


def tokens(engine: Engine, prompts: Sequence[Encoded], *, max_new_tokens: int) -> Iterator[np.ndarray]:
    """The next token of each prompt, [B] int32, `max_new_tokens` times; it is the caller who stops."""
    course = Course(engine, prompts, max_new_tokens=max_new_tokens)
    yield course.following.ids[:, 0]
    for _ in range(max_new_tokens - 1):
        yield course.go_on().ids[:, 0]


class Course:
    """Prompts that have been read, and the tokens that follow them. following: the likeliest next tokens of each row."""

    def __init__(self, engine: Engine, prompts: Sequence[Encoded], *, max_new_tokens: int, top: int = 1) -> None:
        _check_length(engine, prompts, max_new_tokens)
        self._backend, self._top = engine.backend, top
        # Text goes on counting from the largest position on any axis, as M-RoPE has it; with plain positions it is the same.
        self._places = np.array([prompt.positions.max() for prompt in prompts], np.int32)
        self._axes = len(prompts[0].positions)
        self._state, self.following = _read(engine, prompts, room=max_new_tokens, top=top)

    def go_on(self, tokens: np.ndarray | None = None) -> Likeliest:
        """Appends a token to each row, [B] int32; by default its likeliest one."""
        self._places = self._places + 1
        positions = np.tile(self._places, (self._axes, 1))
        tokens = self.following.ids[:, 0] if tokens is None else tokens
        self.following = self._backend.decode(self._state, tokens, positions, top=self._top)
        return self.following

    def keep(self, rows: np.ndarray) -> None:
        """From now on the rows are these, [R] int; the others end here, and one may come several times."""
        self._backend.select(self._state, rows)
        self._places = self._places[rows]
        self.following = Likeliest(*(array[rows] for array in self.following))


def _batches(prompts: Sequence[Encoded], size: int) -> Iterator[list[int]]:
    """Short prompts first; those about the same pictures together, and in one batch where they fit into one."""
    groups: dict[Hashable, list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(tuple(image.identity for image in prompt.images) or number, []).append(number)
    batch: list[int] = []
    for group in sorted(groups.values(), key=lambda group: max(len(prompts[i].input_ids) for i in group)):
        if len(batch) + len(group) > size:
            yield from _cut(batch, size)
            batch = []
        batch += group
    yield from _cut(batch, size)


def _cut(numbers: list[int], size: int) -> Iterator[list[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def _read(engine: Engine, prompts: Sequence[Encoded], *, room: int, top: int) -> tuple[Any, Likeliest]:
    split = split_prompts(prompts) if engine.shares_prefixes else None
    if split is None:
        return engine.backend.prefill(_left(engine, prompts), room=room, top=top)
    rests = _left(engine, split.rests)
    state, _ = engine.backend.prefill(_left(engine, split.prefixes), room=room + rests.input_ids.shape[1])
    engine.backend.select(state, split.prefix_of)
    return engine.backend.prefill(rests, room=room, top=top, after=state)


def _left(engine: Engine, rows: Sequence[Encoded]) -> Batch:
    return collate(rows, pad_id=engine.processor.pad_id, pictures=engine.pictures, pad="left")


def _answer(prompts: Sequence[Encoded], engine: Engine, max_new_tokens: int) -> list[Generation]:
    stop_ids = np.array(sorted(engine.processor.stop_ids))
    ids: list[list[int]] = [[] for _ in prompts]
    begin = time.perf_counter()
    course = Course(engine, prompts, max_new_tokens=max_new_tokens)
    first_token_s = time.perf_counter() - begin
    rows, running = np.arange(len(prompts)), np.ones(len(prompts), bool)  # which prompt a row of the batch answers; goes it on?
    for number in range(max_new_tokens):
        following = course.following.ids[:, 0]
        running &= ~np.isin(following, stop_ids)
        for row, token in zip(rows[running], following[running], strict=True):
            ids[row].append(int(token))
        if not running.any() or number == max_new_tokens - 1:
            break
        # Each change of shape costs something, so rows leave when at least half of them have stopped.
        if running.sum() * 2 <= len(running):
            course.keep(np.flatnonzero(running))
            rows, running = rows[running], running[running]
        course.go_on()
    unfinished = set(rows[running].tolist())
    ends = ["length" if number in unfinished else "stop" for number in range(len(ids))]
    return [Generation(tuple(row), end, first_token_s) for row, end in zip(ids, ends, strict=True)]


def _search(prompts: Sequence[Encoded], engine: Engine, max_new_tokens: int, beams: int) -> list[Generation]:
    stop_ids = engine.processor.stop_ids
    begin = time.perf_counter()
    course = Course(engine, prompts, max_new_tokens=max_new_tokens, top=width(beams, stop_ids))
    first_token_s = time.perf_counter() - begin
    found = beam_search(course, beams=beams, stop_ids=stop_ids, max_new_tokens=max_new_tokens)
    return [Generation(beam.ids, "stop" if beam.stopped else "length", first_token_s) for beam in found]


def _check_length(engine: Engine, prompts: Sequence[Encoded], max_new_tokens: int) -> None:
    limit, longest = engine.processor.most_tokens, max(prompts, key=lambda prompt: len(prompt.input_ids))
    if limit is not None and len(longest.input_ids) + max_new_tokens > limit:
        raise DataError(
            f"{longest.id}: {len(longest.input_ids)} tokens and an answer of up to {max_new_tokens}, but this model has "
            f"positions for {limit}. Lower evaluate.max_new_tokens, or remove the row"
        )
