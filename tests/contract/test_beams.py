"""Beam search: the answers and scores of transformers' `generate(num_beams=…)`, token for token, in whatever company."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlxtune.beam_search import beam_search, width
from mlxtune.engine import Engine
from mlxtune.generation import Course, generate
from mlxtune.types import Encoded
from tests.helpers import oracle
from tests.helpers.families import FIXTURES, donut
from tests.helpers.rows import examples
from tests.helpers.training import attach, encode

Open = Callable[..., Engine]
NEW = 10
Found = tuple[tuple[int, ...], float]


@pytest.fixture(scope="session")
def has_an_oracle(family: str) -> None:
    if FIXTURES[family].answer not in (None, donut.answer):
        pytest.skip(f"the independent implementation of {family} has no beam search")


def theirs(model: Any, engine: Engine, prompt: Encoded, *, beams: int) -> Found:
    """Ids without the token that ended them, and their score."""
    if engine.family.name == "donut":
        ids, score = donut.generated(model, engine.processor, prompt, max_new_tokens=NEW, num_beams=beams)
    else:
        stop = sorted(engine.processor.stop_ids)
        settings = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": stop, "pad_token_id": engine.processor.pad_id}
        settings |= {"num_beams": beams, "return_dict_in_generate": True, "output_scores": True, "repetition_penalty": None}
        out = model.generate(**oracle.inputs(engine.processor, [prompt]), **settings)
        ids, score = tuple(out.sequences[0, len(prompt.input_ids) :].tolist()), float(out.sequences_scores[0])
    return ids[:-1] if ids[-1] in engine.processor.stop_ids else ids, score


def ours(engine: Engine, prompts: list[Encoded], *, beams: int) -> list[Found]:
    stop_ids = engine.processor.stop_ids
    course = Course(engine, prompts, max_new_tokens=NEW, top=width(beams, stop_ids))
    found = beam_search(course, beams=beams, stop_ids=stop_ids, max_new_tokens=NEW)
    return [(beam.ids, beam.score) for beam in found]


def assert_same(found: list[Found], expected: list[Found]) -> None:
    assert [ids for ids, _ in found] == [ids for ids, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-5)


def with_stops(engine: Engine, prompts: list[Encoded], monkeypatch: pytest.MonkeyPatch, *, count: int) -> None:
    """Tokens that the free answers hold end them now: at several places, and more than one of them."""
    free = generate(engine, prompts, batch_size=len(prompts), max_new_tokens=NEW, num_beams=4)
    said = [token for number, answer in enumerate(free) for token in answer.ids[2 + number % 5 :][:1]]
    monkeypatch.setitem(vars(engine.processor), "stop_ids", frozenset(list(dict.fromkeys(said))[:count]))


@pytest.mark.usefixtures("has_an_oracle")
@pytest.mark.parametrize("stops", [0, 1, 3])
def test_answers_and_scores_are_those_of_transformers(
    engine: Engine, reference: Any, stops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = encode(engine, examples(6), answer=False)
    if stops:
        with_stops(engine, prompts, monkeypatch, count=stops)
    expected = [theirs(reference, engine, prompt, beams=4) for prompt in prompts]
    assert_same(ours(engine, prompts, beams=4), expected)
    assert_same([found for prompt in prompts for found in ours(engine, [prompt], beams=4)], expected)
    if stops == 3:
        assert any(len(ids) < NEW for ids, _ in expected), "some answers must end early"


@pytest.mark.usefixtures("has_an_oracle")
@pytest.mark.parametrize("beams", [2, 7])
def test_other_numbers_of_beams(engine: Engine, reference: Any, beams: int) -> None:
    prompts = encode(engine, examples(3), answer=False)
    assert_same(ours(engine, prompts, beams=beams), [theirs(reference, engine, prompt, beams=beams) for prompt in prompts])


def test_generate_reaches_it_in_batches_with_stored_features_and_an_adapter(engine: Engine) -> None:
    attach(engine, random_b=True)
    prompts = encode(engine, examples(7), answer=False)
    expected = [ids for prompt in prompts for ids, _ in ours(engine, [prompt], beams=4)]

    def answers(**settings: int) -> list[tuple[int, ...]]:
        return [answer.ids for answer in generate(engine, prompts, max_new_tokens=NEW, **settings)]

    assert answers(batch_size=3, num_beams=4) == expected
    engine.keep_features()
    assert answers(batch_size=7, num_beams=4) == expected
    assert answers(batch_size=3, num_beams=1) == answers(batch_size=3) != expected


def test_both_backends_find_the_same(both: tuple[str, str], open_: Open) -> None:
    one, other = (ours(engine, encode(engine, examples(5), answer=False), beams=4) for engine in map(open_, both))
    assert_same(one, other)
