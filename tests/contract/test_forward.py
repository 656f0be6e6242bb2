"""One forward: the same logits as transformers, causal, and blind to padding and to the company of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.batching import collate
from mlxtune.engine import Engine, open_engine
from mlxtune.recipe import ModelSpec
from mlxtune.types import Batch, Encoded
from tests.helpers import models, oracle
from tests.helpers.families import FIXTURES
from tests.helpers.rows import example, examples, fitting


def encoded(engine: Engine, rows: Sequence[Any], *, everywhere: bool = False) -> list[Encoded]:
    """everywhere: score each place of a row, not the answer alone."""
    made = [engine.processor.encode(row, max_tokens=None, answer=True) for row in fitting(rows, engine.family)]
    return (
        [replace(row, weights=np.r_[0, np.ones(len(row.weights) - 1)].astype(np.float32)) for row in made] if everywhere else made
    )


def collated(engine: Engine, rows: Sequence[Encoded], **settings: Any) -> Batch:
    return collate(rows, pad_id=engine.processor.pad_id, pictures=engine.pictures, **settings)


def all_logits(engine: Engine, rows: Sequence[Encoded]) -> list[np.ndarray]:
    """For each row [S - 1, vocabulary]."""
    lengths = [len(row.input_ids) - 1 for row in rows]
    flat = engine.backend.logits(collated(engine, rows))
    return np.split(flat[: sum(lengths)], np.cumsum(lengths)[:-1])


def two_shapes() -> list[Any]:
    """Pictures of different shape and rows of different length, so that one is padded."""
    return [example(0), example(1, target="a much longer answer than the other row has")]


def assert_same_logits(engine: Engine, model: Any, rows: Sequence[Any]) -> None:
    batch = encoded(engine, rows, everywhere=True)
    expected = oracle.logits(model, engine.processor, batch)
    for row, ours, theirs in zip(batch, all_logits(engine, batch), expected, strict=True):
        assert np.ptp(ours) > 1
        np.testing.assert_allclose(ours, theirs[: len(row.input_ids) - 1], atol=1e-4, rtol=0)


CASES = {
    "two shapes": two_shapes(),
    "two pictures in a row": [example(8, pictures=2), example(3)],
    "with a row that has no picture": [example(6, pictures=0), example(2)],
    "no picture at all": [example(6, pictures=0)],
}


@pytest.mark.parametrize("rows", CASES.values(), ids=CASES)
def test_logits_equal_an_independent_implementation(engine: Engine, reference: Any, rows: Sequence[Any]) -> None:
    assert_same_logits(engine, reference, rows)


LAYOUTS = [(family, *layout) for family, fixture in FIXTURES.items() for layout in fixture.layouts]


@pytest.mark.parametrize(("kind", "tied", "nested"), LAYOUTS)
def test_every_published_layout_gives_the_same_logits(
    kind: str, backend: str, open_at: Any, tmp_path: Path, tied: bool, nested: bool
) -> None:
    folder = models.build(kind, tmp_path, seed=3, tied=tied, nested=nested)
    assert_same_logits(open_at(backend, folder), oracle.load(folder), two_shapes())


PUBLISHED = [(family, name) for family, fixture in FIXTURES.items() for name in fixture.assets]


@pytest.mark.parametrize(("kind", "name"), PUBLISHED, ids=[name for _, name in PUBLISHED])
def test_published_pictures_and_vocabularies(kind: str, name: str, backend: str, tmp_path: Path) -> None:
    """The tiles, patches and vocabulary of the published files; a loss over 150,000 tokens is as exact as over 500."""
    if not (models.ASSETS / name).is_dir():
        pytest.skip(f"the published files of {name} are not at {models.ASSETS}")
    pytest.importorskip("torch", reason="the random models are made with torch")
    folder = models.build(kind, tmp_path, tied=False, assets=models.ASSETS / name)
    spec = ModelSpec(path=str(folder), precision="float32", max_pixels=400_000)
    engine, reference = open_engine(folder, spec, backend=backend), oracle.load(folder)
    assert_same_logits(engine, reference, [example(0)])
    rows = encoded(engine, [example(1), example(2)])
    expected = oracle.loss(reference, engine.processor, rows)
    assert engine.backend.loss(collated(engine, rows)) == pytest.approx(expected, abs=1e-5)


def test_a_later_token_never_changes_an_earlier_logit(engine: Engine) -> None:
    (row,) = encoded(engine, [example(0, target="one two three four five six")], everywhere=True)
    (before,) = all_logits(engine, [row])
    # Within a prefix that sees itself both ways nothing is causal; what follows it is.
    text = np.setdiff1d(np.arange(row.prefix, len(row.input_ids)), row.image_rows)
    for place in text[[1, len(text) // 2, -8, -2]]:
        ids = row.input_ids.copy()
        ids[place] = row.input_ids[text[-3]] if ids[place] != row.input_ids[text[-3]] else row.input_ids[text[-4]]
        (after,) = all_logits(engine, [replace(row, input_ids=ids)])
        change = np.abs(after - before).max(-1)
        assert change[:place].max(initial=0) <= 1e-6, place
        assert change[place:].min() > 1e-4, place


def test_a_picture_changes_what_follows_it_and_nothing_before(engine: Engine) -> None:
    row = example(0)
    other = replace(row, images=(replace(example(4, question="").images[0]),))
    assert row.images[0].size == other.images[0].size
    ours, theirs = encoded(engine, [row, other], everywhere=True)
    (before,), (after,) = all_logits(engine, [ours]), all_logits(engine, [theirs])
    change, first = np.abs(after - before).max(-1), 0 if ours.prefix or ours.crossed else ours.image_rows[0]
    assert change[:first].max(initial=0) <= 1e-6
    assert change[first:].min() > 1e-4


def test_padding_and_company_leave_a_rows_loss_alone(engine: Engine) -> None:
    rows = encoded(engine, examples(9))
    alone = [engine.backend.loss(collated(engine, [row])) for row in rows]
    for chosen in ([0, 1], [1, 0], [2, 6, 8], range(9)):
        batch = collated(engine, [rows[i] for i in chosen])
        for number in chosen:  # only this row's weights are left
            kept = [row if i == number else replace(row, weights=row.weights * 0) for i, row in enumerate(rows)]
            lone = collated(engine, [kept[i] for i in chosen])
            assert lone.input_ids.shape == batch.input_ids.shape
            assert engine.backend.loss(lone) == pytest.approx(alone[number], abs=1e-5)


def test_a_batchs_loss_is_that_of_transformers(engine: Engine, reference: Any) -> None:
    rows = encoded(engine, examples(5))
    assert engine.backend.loss(collated(engine, rows)) == pytest.approx(oracle.loss(reference, engine.processor, rows), abs=1e-5)


def test_only_learned_tokens_reach_the_output_head(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collated(engine, encoded(engine, two_shapes()))
    seen: list[tuple[int, ...]] = []
    if engine.backend.name == "torch":
        head = engine.backend.model.head
        hook = head.register_forward_pre_hook(lambda module, arguments: seen.append(tuple(arguments[0].shape)))
        engine.backend.loss(batch)
        hook.remove()
    else:
        model = type(engine.backend.model)
        head = model.head
        monkeypatch.setattr(model, "head", lambda self, hidden: (seen.append(hidden.shape), head(self, hidden))[1])
        engine.backend.loss(batch)
    assert seen == [(len(batch.score_rows), 64)]
    assert len(batch.score_rows) < batch.input_ids.size / 2
