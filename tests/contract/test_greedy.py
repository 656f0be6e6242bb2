"""Greedy answers: in batches, one by one, and by transformers' own `generate`, token for token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from mlxtune.batching import collate
from mlxtune.engine import Engine
from mlxtune.generation import generate
from mlxtune.types import Encoded
from tests.helpers import oracle
from tests.helpers.rows import examples
from tests.helpers.training import attach, encode

Open = Callable[..., Engine]
NEW = 14


def prompts_of(engine: Engine) -> list[Encoded]:
    made = encode(engine, examples(10), answer=False)
    # Where every row's pictures fill as many places, or none, the questions alone make prompts differ in length.
    alike = len({len(prompt.image_rows) for prompt in made}) == 1
    assert len({len(prompt.input_ids) for prompt in made}) > (2 if alike else 4)
    return made


def answers(engine: Engine, prompts: Sequence[Encoded], *, batch_size: int) -> list[tuple[int, ...]]:
    return [answer.ids for answer in generate(engine, prompts, batch_size=batch_size, max_new_tokens=NEW)]


def test_answers_equal_those_of_transformers(engine: Engine, reference: Any) -> None:
    prompts = prompts_of(engine)
    alone = answers(engine, prompts, batch_size=1)
    assert max(map(len, alone)) == NEW and len(set(alone)) > 5
    for prompt, ours in zip(prompts, alone, strict=True):
        theirs = oracle.answer(reference, engine.processor, prompt, max_new_tokens=NEW)
        assert theirs[: len(ours)] == ours and set(theirs[len(ours) :]) <= engine.processor.stop_ids


@pytest.mark.parametrize("size", [3, 10])
def test_company_and_left_padding_leave_answers_alone(engine: Engine, size: int) -> None:
    prompts = prompts_of(engine)
    alone = answers(engine, prompts, batch_size=1)
    assert answers(engine, prompts, batch_size=size) == alone
    engine.keep_features()
    assert answers(engine, prompts, batch_size=size) == alone


def test_generation_continues_what_the_full_forward_says(engine: Engine, reference: Any) -> None:
    """Each new token is the likeliest one of a fresh forward over all before it: the cache forgets and mixes nothing."""
    attach(engine, random_b=True)
    row = encode(engine, examples(1), answer=False)[0]
    (ids,) = answers(engine, [row], batch_size=1)
    whole = np.r_[row.input_ids, ids].astype(np.int32)
    grids = [engine.processor.grid(image.size) for image in row.images]
    longer = Encoded(
        id=row.id,
        input_ids=whole,
        weights=np.repeat(np.float32([0, 1]), [len(row.input_ids), len(ids)]),
        positions=engine.processor.positions(whole, grids),
        image_rows=row.image_rows,
        images=row.images,
        prefix=row.prefix,
        crossed=row.crossed,
    )
    scores = engine.backend.logits(collate([longer], pad_id=engine.processor.pad_id, pictures=engine.pictures))[: len(ids)]
    assert tuple(scores.argmax(-1)) == ids


def test_an_answer_ends_at_its_stop_token_and_a_batch_with_its_last_row(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of(engine)[:4]
    free = answers(engine, prompts, batch_size=4)
    # Tokens of the free answers end them now: every row stops at another place.
    stops = frozenset(row[3 + 2 * i] for i, row in enumerate(free))
    cut = [next((place for place, token in enumerate(row) if token in stops), len(row)) for row in free]
    monkeypatch.setitem(vars(engine.processor), "stop_ids", stops)
    calls: list[int] = []
    decode = engine.backend.decode
    monkeypatch.setattr(engine.backend, "decode", lambda *arguments, **more: (calls.append(1), decode(*arguments, **more))[1])
    ended = generate(engine, prompts, batch_size=4, max_new_tokens=NEW)
    assert [answer.ids for answer in ended] == [row[:place] for row, place in zip(free, cut, strict=True)]
    assert {answer.finish for answer in ended} == {"stop"}
    assert len(calls) == max(cut) < NEW


def test_an_answer_that_never_stops_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(engine.processor), "stop_ids", frozenset())
    done: list[int] = []
    ended = generate(engine, prompts_of(engine)[:3], batch_size=2, max_new_tokens=5, progress=done.append)
    assert [(len(answer.ids), answer.finish) for answer in ended] == [(5, "length")] * 3
    assert done == [2, 3]
