"""Several pictures in one row: in one question, between words, in later turns, the same again; beside rows with other numbers.

Families whose rows have one picture are skipped here by name; tests/unit/test_families.py sees them refuse more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.batching import collate
from mlxtune.engine import Engine
from mlxtune.errors import RecipeError
from mlxtune.families import FAMILIES, load_processor
from mlxtune.generation import generate
from mlxtune.images import ImageRef
from mlxtune.recipe import LoraSpec, TrainSpec
from mlxtune.types import Encoded, Example
from tests.helpers import models, oracle
from tests.helpers.families import FIXTURES
from tests.helpers.rows import picture
from tests.helpers.training import EVERYWHERE, attach, largest_difference, mean_loss, train

Open = Callable[..., Engine]
SHAPES = ((160, 100), (70, 120), (200, 60))  # width, height
REAL_SHAPES = ((850, 600), (300, 620), (700, 90))
FIRST, SECOND, THIRD = (picture(10 + number, size) for number, size in enumerate(SHAPES))
IMAGE = {"type": "image"}
SPEC = TrainSpec(steps=6, batch_size=8, micro_batch_size=4, learning_rate=5e-4, warmup=0.0, weight_decay=0.0, clip=1.0)
LORA = LoraSpec(rank=4, alpha=8, sites=EVERYWHERE)


def said(role: str, *parts: Any) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]}


def row(name: str, images: Sequence[ImageRef], *turns: dict[str, Any], target: str = "the blue one") -> Example:
    return Example(id=name, messages=list(turns), question=name, target=target, references=(target,), images=tuple(images))


ROWS = {
    "three of different shapes": row("three", (FIRST, SECOND, THIRD), said("user", IMAGE, IMAGE, IMAGE, "Which is taller?")),
    "one": row("one", (SECOND,), said("user", IMAGE, "Is it blue?"), target="A"),
    "none": row("none", (), said("user", "What do you see?"), target="nothing at all, to be honest"),
    "the same twice in a row": row("same", (FIRST, FIRST), said("user", IMAGE, IMAGE, "What changed?"), target="42"),
    "the same again later": row("again", (THIRD, FIRST, THIRD), said("user", IMAGE, IMAGE, IMAGE, "Which are equal?")),
    "between words": row(
        "between", (SECOND, THIRD), said("user", "Left: ", IMAGE, " and right: ", IMAGE, " differ how?"), target="in height"
    ),
    "in several turns": row(
        "turns",
        (FIRST, THIRD, SECOND),
        said("user", IMAGE, IMAGE, "Which is wider?"),
        said("assistant", "the second one"),
        said("user", "And beside this one", IMAGE, "?"),
        target="still the second",
    ),
    "the same in two turns": row(
        "twice",
        (SECOND, SECOND),
        said("user", IMAGE, "What is it?"),
        said("assistant", "a chart"),
        said("user", IMAGE, "And this?"),
        target="the very same chart",
    ),
}
SEEN = {name: made for name, made in ROWS.items() if len(made.images) > 1}


@pytest.fixture(scope="session", autouse=True)
def takes_several(family: str) -> None:
    most = FAMILIES[family].pictures[1]
    if most is not None and most < 3:
        pytest.skip(f"a row of {family} has {most} picture at most")


def encoded(engine: Engine, rows: Sequence[Example], *, answer: bool = True) -> list[Encoded]:
    return [engine.processor.encode(made, max_tokens=None, answer=answer) for made in rows]


def everywhere(rows: Sequence[Encoded]) -> list[Encoded]:
    """Rows of which each place is scored, not the answers alone."""
    return [replace(made, weights=np.r_[0, np.ones(len(made.weights) - 1)].astype(np.float32)) for made in rows]


def small_pictures(folder: Path) -> int | None:
    """A value of model.max_pixels; None where the family has one size for all pictures, and refuses another."""
    try:
        load_processor(folder, max_pixels=100_000)
    except RecipeError:
        return None
    return 100_000


def all_logits(engine: Engine, rows: Sequence[Encoded]) -> list[np.ndarray]:
    """For each row [S - 1, vocabulary]."""
    lengths = [len(made.input_ids) - 1 for made in rows]
    batch = collate(everywhere(rows), pad_id=engine.processor.pad_id, pictures=engine.pictures)
    return np.split(engine.backend.logits(batch)[: sum(lengths)], np.cumsum(lengths)[:-1])


def named_apart(made: Example) -> Example:
    """The same pixels, no two of them under one name: nothing can be computed once for both."""
    return replace(made, images=tuple(replace(image, key=f"{made.id} {n}") for n, image in enumerate(made.images)))


# -- forward ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEEN)
def test_logits_equal_an_independent_implementation(engine: Engine, reference: Any, name: str) -> None:
    rows = encoded(engine, [ROWS[name]])
    (ours,), (theirs,) = all_logits(engine, rows), oracle.logits(reference, engine.processor, rows)
    np.testing.assert_allclose(ours, theirs[: len(ours)], atol=1e-4, rtol=0)


def test_three_pictures_through_published_files(family: str, backend: str, open_at: Open, tmp_path: Path) -> None:
    """The true tokenizers, templates, resolutions and vocabularies, one folder after the other."""
    names = [name for name in FIXTURES[family].assets if (models.ASSETS / name).is_dir()]
    if not names:
        pytest.skip(f"no published files of {family} are at {models.ASSETS}")
    for name in names:
        folder = models.build(family, tmp_path / name, tied=False, assets=models.ASSETS / name)
        engine, reference = open_at(backend, folder, max_pixels=small_pictures(folder)), oracle.load(folder)
        images = tuple(picture(number, size) for number, size in enumerate(REAL_SHAPES))
        (made,) = encoded(engine, [replace(ROWS["in several turns"], images=images)])
        places = np.flatnonzero(made.weights)  # of the answers alone: all places times 150,000 tokens are a gigabyte
        batch = collate([made], pad_id=engine.processor.pad_id, pictures=engine.pictures)
        theirs = oracle.logits(reference, engine.processor, [made])[0, places - 1]
        np.testing.assert_allclose(engine.backend.logits(batch)[: len(places)], theirs, atol=1e-4, rtol=0, err_msg=name)


@pytest.mark.parametrize("stored", [False, True], ids=["pixels", "stored features"])
def test_a_batch_of_all_of_them_says_what_each_row_says_alone(engine: Engine, reference: Any, stored: bool) -> None:
    rows = encoded(engine, list(ROWS.values()))
    assert sorted(len(made.images) for made in rows) == [0, 1, 2, 2, 2, 3, 3, 3]
    alone = [oracle.logits(reference, engine.processor, [made])[0] for made in rows]
    if stored:
        engine.keep_features()
    for order in (range(8), [6, 2, 0, 4], [3, 5, 1]):
        for number, ours in zip(order, all_logits(engine, [rows[i] for i in order]), strict=True):
            np.testing.assert_allclose(ours, alone[number][: len(ours)], atol=1e-4, rtol=0)


def test_each_picture_stands_in_its_own_place(engine: Engine) -> None:
    """Another picture changes what follows its place, and nothing before: no picture takes the place of its neighbour."""
    made = ROWS["three of different shapes"]
    (plain,) = encoded(engine, [made])
    lengths = [engine.processor.pixels(image).tokens for image in made.images]
    firsts = plain.image_rows[np.cumsum([0, *lengths[:-1]])]
    (before,) = all_logits(engine, [plain])
    for number, first in enumerate(firsts):
        images = [*made.images]
        images[number] = picture(50 + number, SHAPES[number])
        (after,) = all_logits(engine, encoded(engine, [replace(made, images=tuple(images))]))
        change = np.abs(after - before).max(-1)
        assert change[:first].max() <= 1e-6, number
        assert change[first:].min() > 1e-4, number


def test_a_picture_that_comes_again_is_computed_once(engine: Engine) -> None:
    rows = encoded(engine, [ROWS["the same twice in a row"], ROWS["the same again later"], ROWS["in several turns"]])
    batch = collate(rows, pad_id=engine.processor.pad_id, pictures=engine.pictures)
    assert len(batch.pixels) == 3 and len(batch.image_rows) == sum(len(made.image_rows) for made in rows)
    apart = encoded(engine, [named_apart(ROWS["the same again later"])])
    assert len(collate(apart, pad_id=engine.processor.pad_id, pictures=engine.pictures).pixels) == 3
    np.testing.assert_allclose(all_logits(engine, apart)[0], all_logits(engine, rows)[1], atol=1e-5)


# -- training ---------------------------------------------------------------------------------------------------------


def trained(engine: Engine, rows: Sequence[Example], spec: TrainSpec = SPEC, lora: LoraSpec = LORA) -> tuple[Any, Any]:
    attach(engine, lora, random_b=True, weight_decay=0.0)
    return train(engine, encoded(engine, rows), spec), engine.backend.adapter()


def assert_same_run(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    (mine, adapter), (yours, other) = ours, theirs
    assert [r.loss for r in mine] == pytest.approx([r.loss for r in yours], abs=1e-4)
    assert [r.grad_norm for r in mine] == pytest.approx([r.grad_norm for r in yours], rel=1e-3)
    assert largest_difference(adapter, other) <= 1e-4


def test_both_backends_train_on_them_alike(both: tuple[str, str], open_: Open) -> None:
    ours, theirs = (trained(open_(name), list(ROWS.values())) for name in both)
    assert_same_run(ours, theirs)
    assert ours[0][-1].loss < ours[0][0].loss - 0.05


def test_gradients_do_not_depend_on_how_the_rows_are_cut(backend: str, open_: Open) -> None:
    def cut(size: int) -> tuple[Any, Any]:
        # A recipe's usual rate: AdamW makes steps of rounding where gradients vanish.
        spec = SPEC.model_copy(update={"steps": 2, "micro_batch_size": size, "learning_rate": 1e-4})
        return trained(open_(backend), list(ROWS.values()), spec)

    assert_same_run(cut(1), cut(8))


def test_a_picture_that_comes_again_gives_the_gradient_of_both_places(backend: str, open_: Open) -> None:
    """The tower runs once for equal pictures: each place must add its part, as if it had run for each."""
    again = [ROWS["the same twice in a row"], ROWS["the same again later"]]
    spec = SPEC.model_copy(update={"steps": 2, "batch_size": 2, "micro_batch_size": 2, "learning_rate": 1e-4})
    assert_same_run(trained(open_(backend), again, spec), trained(open_(backend), list(map(named_apart, again)), spec))


def test_stored_features_train_like_pixels(backend: str, open_: Open) -> None:
    stored, fresh = open_(backend), open_(backend)
    stored.keep_features()
    text = LoraSpec(rank=4, alpha=8)
    assert_same_run(trained(stored, list(ROWS.values()), lora=text), trained(fresh, list(ROWS.values()), lora=text))


def test_the_loss_of_later_turns_is_learned(engine: Engine, reference: Any) -> None:
    rows = encoded(engine, [ROWS["in several turns"]])
    edges = np.flatnonzero(np.diff(rows[0].weights, prepend=0, append=0)).reshape(-1, 2)
    answers = [engine.processor.decode(rows[0].input_ids[start:end].tolist()) for start, end in edges]
    assert answers == ["the second one", "still the second"]
    assert mean_loss(engine, rows) == pytest.approx(oracle.loss(reference, engine.processor, rows), abs=1e-5)


# -- generation -------------------------------------------------------------------------------------------------------


def test_answers_equal_those_of_an_independent_implementation(engine: Engine, reference: Any) -> None:
    prompts = encoded(engine, list(ROWS.values()), answer=False)

    def answers(size: int) -> list[tuple[int, ...]]:
        return [answer.ids for answer in generate(engine, prompts, batch_size=size, max_new_tokens=10)]

    alone = answers(1)
    assert max(map(len, alone)) == 10 and len(set(alone)) == len(alone)
    for prompt, ours in zip(prompts, alone, strict=True):
        theirs = oracle.answer(reference, engine.processor, prompt, max_new_tokens=10)
        assert theirs[: len(ours)] == ours and set(theirs[len(ours) :]) <= engine.processor.stop_ids
    assert answers(8) == answers(3) == alone
    engine.keep_features()
    assert answers(8) == answers(3) == alone
