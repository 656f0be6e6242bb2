"""The last layer asks for the wanted rows alone: the same as to ask for all and to keep those."""

from __future__ import annotations

import numpy as np
import pytest

from mlxtune.batching import BUCKET, micro_batches
from mlxtune.engine import Engine
from mlxtune.wanted_rows import WantedRows
from tests.helpers.rows import examples
from tests.helpers.training import encode

mx = pytest.importorskip("mlx.core")
attention = pytest.importorskip("mlxtune.backends.mlx.attention")
course = pytest.importorskip("mlxtune.backends.mlx.course")

BATCH, WIDTH = 3, 2 * BUCKET + 6


def _random(*shape: int):
    return mx.array(np.random.default_rng(shape).normal(size=shape).astype(np.float32))


def _places(kind: str) -> np.ndarray:
    random = np.random.default_rng(3)
    if kind == "last of each":
        return np.arange(1, BATCH + 1) * WIDTH - 1
    if kind == "none of the second":
        return np.array([0, 5, 2 * WIDTH, 2 * WIDTH + 7])
    if kind == "all":
        return np.arange(BATCH * WIDTH)
    return np.append(random.permutation(BATCH * WIDTH)[:60], [0] * 9)  # what fills up a batch points at the first


def _rows(kind: str) -> WantedRows:
    return WantedRows(*map(mx.array, WantedRows.of(_places(kind), batch=BATCH, width=WIDTH)))


PLACES = ("last of each", "none of the second", "all", "some, and filled up")


@pytest.mark.parametrize("kind", PLACES)
def test_rows_there_and_back(kind: str) -> None:
    rows, x = _rows(kind), _random(BATCH, WIDTH, 4)
    assert len(rows.queries) == BATCH and rows.queries.shape[1] % BUCKET == 0
    assert (np.array(rows.queries) // WIDTH == np.arange(BATCH)[:, None]).all(), "each row's own"
    for found in (course.at(course.at(x, rows.queries), rows.back), course.at(x, rows.places)):
        assert mx.array_equal(found, x.reshape(-1, 4)[mx.array(_places(kind))])


def _masks(keys: int) -> dict:
    random = np.random.default_rng(4).random
    each, one = (random((rows, WIDTH, keys)) < 0.7 for rows in (BATCH, 1))
    padded = random((BATCH, 1, keys)) < 0.7
    for allowed in (each, one, padded):
        allowed[..., 0] = True
    masks = {name: attention.Visible.of(allowed) for name, allowed in (("each", each), ("one", one), ("padded", padded))}
    return {"causal": "causal", "none": None, **masks}


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("keys", [WIDTH, WIDTH + 5])
@pytest.mark.parametrize("mask", ["causal", "none", "each", "one", "padded"])
@pytest.mark.parametrize("kind", PLACES)
def test_attention_of_some_queries(kind: str, mask: str, keys: int, dtype) -> None:
    q, k, v = (_random(BATCH, heads, tokens, 8).astype(dtype) for heads, tokens in ((4, WIDTH), (2, keys), (2, keys)))
    rows, seen = _rows(kind), _masks(keys)[mask]
    wanted = course.at(attention.attention(q, k, v, scale=0.3, mask=seen), rows.places)
    some = course.at(q.swapaxes(1, 2).reshape(BATCH, WIDTH, -1), rows.queries).reshape(BATCH, -1, 4, 8).swapaxes(1, 2)
    narrowed = attention.narrowed(seen, rows.queries, width=WIDTH, keys=keys)
    found = course.at(attention.attention(some, k, v, scale=0.3, mask=narrowed), rows.back)
    close = 1e-5 if dtype == mx.float32 else 2e-2
    np.testing.assert_allclose(*(np.array(x.astype(mx.float32)) for x in (found, wanted)), atol=close)


@pytest.mark.parametrize("backend", ["mlx"])
def test_the_last_layer_has_fewer_queries(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine.family.name == "donut":
        pytest.skip("nearly all tokens of a Donut's row are learned, and its layers end as they began")
    text = engine.backend.model.text
    last = (text.blocks if hasattr(text, "blocks") else text.layers)[-1]
    module = __import__(type(last).__module__, fromlist=["attention"])
    asked, own = [], module.attention
    monkeypatch.setattr(module, "attention", lambda q, *rest, **how: asked.append(q.shape[2]) or own(q, *rest, **how))
    rows = encode(engine, examples(2))
    engine.keep_features()
    (batch,) = micro_batches(rows, size=2, pad_id=engine.processor.pad_id, pictures=engine.pictures)
    asked.clear()
    engine.backend.loss(batch)
    width = batch.input_ids.shape[1]
    assert asked[:-1] and set(asked[:-1]) == {width} and asked[-1] == BUCKET
