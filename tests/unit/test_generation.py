"""The greedy loop, on a backend in numpy whose answers are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.base import Likeliest
from mlxtune.generation import generate, tokens
from mlxtune.types import Batch, Encoded

STOP = 99


@dataclass
class Backend:
    """Goes on with answers[first token of the prompt]; behind its end it says 77. Keeps the positions it is given."""

    answers: dict[int, list[int]]
    axes: int = 1
    batches: list[list[int]] = field(default_factory=list)
    positions: list[list[list[int]]] = field(default_factory=list)
    rooms: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)  # rows that go on, at each selection

    def prefill(self, batch: Batch, *, room: int, top: int = 1) -> tuple[Any, Likeliest]:
        assert (batch.valid[:, -1]).all(), "every prompt ends in the last column"
        firsts = [int(ids[valid.argmax()]) for ids, valid in zip(batch.input_ids, batch.valid, strict=True)]
        self.batches.append(firsts)
        self.rooms.append(room)
        self.positions = []
        state = {"firsts": firsts, "said": 1}
        return state, self._next(state)

    def decode(self, state: Any, said: np.ndarray, positions: np.ndarray, *, top: int = 1) -> Likeliest:
        assert said.tolist() == self._next(state).ids[:, 0].tolist(), "each row is fed its own last token"
        assert positions.shape == (self.axes, len(said))
        self.positions.append(positions.tolist())
        state["said"] += 1
        return self._next(state)

    def select(self, state: Any, rows: np.ndarray) -> None:
        state["firsts"] = [state["firsts"][row] for row in rows]
        self.kept.append(len(rows))

    def _next(self, state: Any) -> Likeliest:
        given = [self.answers[first] + [77] * 50 for first in state["firsts"]]
        ids = np.array([[answer[state["said"] - 1]] for answer in given], np.int32)
        return Likeliest(ids, np.zeros(ids.shape, np.float32))


@dataclass
class Processor:
    pad_id: int = 0
    stop_ids: frozenset[int] = frozenset({STOP, 98})
    most_tokens: int | None = None


class NoPictures:
    def fill(self, images: Any) -> tuple[tuple[()], None]:
        return (), None


@dataclass
class Engine:
    backend: Backend
    processor: Processor = field(default_factory=Processor)
    pictures: NoPictures = field(default_factory=NoPictures)
    shares_prefixes: bool = True


def prompt(first: int, *, length: int, last_position: int | None = None, axes: int = 1) -> Encoded:
    positions = np.tile(np.arange(length, dtype=np.int32), (axes, 1))
    if last_position is not None:
        positions[0, -2] = last_position  # a picture may reach further on one axis than the text behind it
    return Encoded(
        id=str(first),
        input_ids=np.array([first] + [5] * (length - 1), np.int32),
        weights=np.zeros(length, np.float32),
        positions=positions,
        image_rows=np.zeros(0, np.int32),
        images=(),
    )


ANSWERS = {11: [1, 2, STOP], 12: [STOP], 13: [3, 98], 14: [4, 4, 4, 4, 4, 4], 15: [6, 7, 8, STOP]}
PROMPTS = [prompt(11, length=9), prompt(12, length=3), prompt(13, length=7), prompt(14, length=2), prompt(15, length=5)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 50])
def test_answers_come_in_the_order_of_the_prompts(batch_size: int) -> None:
    backend = Backend(ANSWERS)
    done: list[int] = []
    answers = generate(Engine(backend), PROMPTS, batch_size=batch_size, max_new_tokens=4, progress=done.append)  # type: ignore[arg-type]
    assert [answer.ids for answer in answers] == [(1, 2), (), (3,), (4, 4, 4, 4), (6, 7, 8)]
    assert [answer.finish for answer in answers] == ["stop", "stop", "stop", "length", "stop"]
    assert done[-1] == 5 and done == sorted(done) and len(done) == -(-5 // batch_size)
    assert sum(backend.batches, []) == [14, 12, 15, 13, 11], "prompts of like length together"
    assert set(backend.rooms) == {4}


@pytest.mark.parametrize(("limit", "ids", "finish"), [(1, (6,), "length"), (3, (6, 7, 8), "length"), (4, (6, 7, 8), "stop")])
def test_the_limit_counts_the_token_that_ends(limit: int, ids: tuple[int, ...], finish: str) -> None:
    (answer,) = generate(Engine(Backend(ANSWERS)), [PROMPTS[4]], batch_size=1, max_new_tokens=limit)  # type: ignore[arg-type]
    assert (answer.ids, answer.finish) == (ids, finish)


def test_a_batch_ends_with_its_last_row() -> None:
    backend = Backend(ANSWERS)
    generate(Engine(backend), [PROMPTS[0], PROMPTS[1]], batch_size=2, max_new_tokens=40)  # type: ignore[arg-type]
    assert len(backend.positions) == 2, "three tokens: one from the prompt, two decoded"


def test_rows_that_have_stopped_leave_the_batch() -> None:
    backend = Backend(ANSWERS)
    generate(Engine(backend), PROMPTS, batch_size=5, max_new_tokens=6)  # type: ignore[arg-type]
    # Stops come after 0, 1, 2 and 3 tokens, and never: three of five have stopped by the third token, then one of two.
    assert backend.kept == [2, 1]
    assert [len(row[0]) for row in backend.positions] == [5, 5, 2, 1, 1]


def test_positions_go_on_from_the_largest_of_each_prompt() -> None:
    backend = Backend(ANSWERS, axes=3)
    prompts = [prompt(14, length=4, axes=3), prompt(15, length=6, last_position=20, axes=3)]
    made = list(tokens(Engine(backend), prompts, max_new_tokens=3))  # type: ignore[arg-type]
    assert [step.tolist() for step in made] == [[4, 6], [4, 7], [4, 8]]
    assert backend.positions == [[[4, 21]] * 3, [[5, 22]] * 3]


def test_no_prompts() -> None:
    assert generate(Engine(Backend({})), [], batch_size=4, max_new_tokens=4) == []  # type: ignore[arg-type]
