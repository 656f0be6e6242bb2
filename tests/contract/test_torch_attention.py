"""Attention that looks at as many keys as the queries reach, against torch's own of everything."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlxtune.batching import BUCKET, micro_batches
from mlxtune.engine import Engine
from tests.helpers.rows import examples
from tests.helpers.training import encode

torch = pytest.importorskip("torch")
attention = pytest.importorskip("mlxtune.backends.torch.attention")


def _random(*shape: int):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), requires_grad=True)


def _branches(queries: int, *, padded: int = 0):
    """A prefix of half the tokens and two questions behind it; padding on the left, or on the right where it is negative."""
    places = torch.arange(queries)
    branch = torch.where(places < queries // 2, 0, 1 + 2 * places // queries)
    seen = torch.ones((queries, queries), dtype=torch.bool).tril() & ((branch == 0) | (branch == branch[:, None]))
    valid = places >= padded if padded >= 0 else places < queries + padded
    return seen & (valid | torch.eye(queries, dtype=torch.bool))


MASKS = {
    "causal": lambda n: None,
    "questions": lambda n: _branches(n)[None, None],
    "padding": lambda n: torch.stack([_branches(n, padded=3), _branches(n, padded=-5)])[:, None],
    "whole": lambda n: torch.ones((1, 1, n, n), dtype=torch.bool),
}


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("queries", [16, 17, 50])
@pytest.mark.parametrize("kind", MASKS)
def test_values_and_gradients(kind: str, queries: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "ROWS", 16)
    q, k, v = _random(2, 4, queries, 8), _random(2, kv_heads, queries, 8), _random(2, kv_heads, queries, 8)
    mask, module = MASKS[kind](queries), SimpleNamespace(is_causal=True, num_key_value_groups=4 // kv_heads)
    cut = attention.in_blocks(mask, q.transpose(1, 2).flatten(2))
    assert (cut is mask) if queries == 16 else len(cut) == -(-queries // 16)
    found, _ = attention.by_reach(module, q, k, v, cut, scaling=0.3)
    allowed = torch.ones((queries, queries), dtype=torch.bool).tril() if mask is None else mask
    whole = (x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v))
    wanted = torch.nn.functional.scaled_dot_product_attention(q, *whole, attn_mask=allowed, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    outer = torch.randn_like(wanted)
    gradients = [torch.autograd.grad(out, (q, k, v), outer) for out in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_keys_beyond_the_reach_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "ROWS", 16)
    widths, real = [], attention._KERNEL
    monkeypatch.setattr(
        attention, "_KERNEL", lambda q, k, v, **settings: widths.append((q.shape[2], k.shape[2])) or real(q, k, v, **settings)
    )
    q, k, v = (_random(1, 2, 40, 8) for _ in range(3))
    for mask in (None, _branches(40)[None, None]):
        cut = attention.in_blocks(mask, q.transpose(1, 2).flatten(2))
        attention.by_reach(SimpleNamespace(is_causal=True), q, k, v, cut)
    assert widths == [(16, 16), (16, 32), (8, 40)] * 2


def test_a_torch_without_that_kernel_takes_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "ROWS", 16)
    monkeypatch.setattr(attention, "_KERNEL_BACK", None)
    mask = _branches(40)[None, None]
    assert attention.in_blocks(mask, _random(1, 40, 8)) is mask


@pytest.mark.parametrize("keys", [40, 45])
@pytest.mark.parametrize("kind", ["causal", "questions", "padding"])
def test_some_queries_of_each_row(kind: str, keys: int) -> None:
    q, k, v = _random(2, 4, 40, 8), _random(2, 2, keys, 8), _random(2, 2, keys, 8)
    allowed = MASKS[kind](keys)
    mask = None if allowed is None else allowed[:, :, -40:]
    queries = torch.tensor([[3, 17, 39], [79, 40, 40]])
    narrowed = attention.narrowed(mask, queries, width=40, keys=keys)
    some = torch.stack([q[row][:, places - 40 * row] for row, places in enumerate(queries)])
    module = SimpleNamespace(is_causal=True, num_key_value_groups=2)
    found, _ = attention.by_reach(module, some, k, v, narrowed)
    whole = torch.ones((40, keys), dtype=torch.bool).tril(keys - 40)[None, None] if mask is None else mask
    everything, _ = attention.by_reach(module, q, k, v, whole)
    wanted = everything.flatten(0, 1)[queries]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("queries", "keys"), [(20, 33), (20, 20)])
def test_all_keys_without_a_mask_where_nothing_is_causal(queries: int, keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-attention, which has no order of tokens."""
    monkeypatch.setattr(attention, "ROWS", 16)
    q, k, v = _random(1, 2, queries, 8), _random(1, 2, keys, 8), _random(1, 2, keys, 8)
    found, _ = attention.by_reach(SimpleNamespace(is_causal=False), q, k, v, None)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("backend", ["torch"])
def test_the_last_layer_has_fewer_queries(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine.family.name == "donut":
        pytest.skip("nearly all tokens of a Donut's row are learned, and its layers end as they began")
    asked: list[int] = []
    for module in ("layer", "moondream2"):
        place = f"mlxtune.backends.torch.models.{module}.by_reach"
        monkeypatch.setattr(
            place, lambda own, q, *rest, **how: asked.append(q.shape[2]) or attention.by_reach(own, q, *rest, **how)
        )
    engine.keep_features()
    rows = encode(engine, examples(2))
    (batch,) = micro_batches(rows, size=2, pad_id=engine.processor.pad_id, pictures=engine.pictures)
    asked.clear()
    engine.backend.loss(batch)
    assert batch.input_ids.shape[1] > BUCKET and asked[-1] == BUCKET
