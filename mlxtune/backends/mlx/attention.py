"""Attention: MLX's own kernel on a GPU. On its CPU that works on whole matrices of scores, masked or not; here it goes through
the queries some rows at a time, as far as they see, and keeps no scores for the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.backends.mlx.lanes import settled
from mlxtune.backends.mlx.untraced import untraced
from mlxtune.backends.mlx.vector import LN_2, LOG2_E, by_parts, exp2_of_difference, fused

_SCORES = 2**18  # of a block, in numbers: what stays in a core's cache
_HIDDEN = 1e9  # taken from the score of a key that is not seen


@dataclass(frozen=True)
class Visible:
    """Who sees whom. allowed: [B or 1, 1, S or 1, T] bool. reach: [S or 1], the keys that a query and those before it look at."""

    allowed: mx.array
    reach: tuple[int, ...] | None = None

    @classmethod
    def of(cls, allowed: np.ndarray) -> Visible:
        """allowed: [B or 1, S or 1, T] bool; 1: the same for all queries."""
        return cls(mx.array(allowed)[:, None], reach_of(allowed))


def reach_of(allowed: np.ndarray) -> tuple[int, ...]:
    """`Visible.reach` of [B or 1, S or 1, T] bool."""
    seen = allowed.any(0)
    last = np.where(seen.any(-1), seen.shape[-1] - np.argmax(seen[:, ::-1], axis=-1), 0)
    return tuple(np.maximum.accumulate(last).tolist())


Mask = Visible | str | None  # "causal": every key up to the query's own, which are the last ones; None: all keys
Block = tuple[int, int, int]  # first query, last query + 1, keys that they reach


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None) -> mx.array:
    """softmax(q k^T scale) v, [B, heads, S, D]. q: [B, heads, S, D]. k, v: [B, kv_heads, T, D]."""
    if not by_parts(q.dtype):
        allowed = mask.allowed if isinstance(mask, Visible) else mask
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=allowed)
    queries, keys = q.shape[2], k.shape[2]
    if mask == "causal":
        mask = _causal(queries, keys) if queries > 1 else None
    bias = None if mask is None else ((mask.allowed.astype(mx.float32) - 1) * _HIDDEN)[:, :, None]
    if queries > 1:
        # A product copies what has gaps between its rows, once for every block; one query is one block.
        k, v = mx.contiguous(k), mx.contiguous(v)
    grouped = (q * (scale * LOG2_E)).reshape(q.shape[0], k.shape[1], -1, queries, q.shape[3])
    if mask is None:  # then a row's heads are no different from another row's, and so divide into blocks that fit
        grouped, k, v = (x.reshape(1, -1, *x.shape[2:]) for x in (grouped, k, v))
    each = grouped.shape[0] * grouped.shape[2] * keys  # scores of a query in one head
    rows = min(queries, max(_SCORES // each, 32), 256 if mask is None else 128)
    heads = min(k.shape[1], max(_SCORES // (each * rows), 1))
    blocks = tuple(_blocks(queries, keys, mask, rows=rows))
    return _blockwise(blocks, bias, heads=heads)(grouped, k, v)[0].reshape(q.shape)


@lru_cache(maxsize=8)
def _causal_seen(queries: int, keys: int) -> np.ndarray:
    # In numpy: an array of MLX that is made while a step is traced must not outlive it.
    return np.tril(np.ones((1, 1, queries, keys), bool), keys - queries)


def _causal(queries: int, keys: int) -> Visible:
    return Visible(mx.array(_causal_seen(queries, keys)), tuple(range(keys - queries + 1, keys + 1)))


def _blocks(queries: int, keys: int, mask: Visible | None, *, rows: int) -> Iterator[Block]:
    for start in range(0, queries, rows):
        end = min(start + rows, queries)
        yield start, end, keys if mask is None or mask.reach is None else mask.reach[min(end, len(mask.reach)) - 1]


def _blockwise(blocks: tuple[Block, ...], bias: mx.array | None, *, heads: int) -> Callable[..., tuple[mx.array, mx.array]]:
    """(q, k, v) -> (out, log2 of each query's sum); q and out [B, kv_heads, group, S, D], q scaled for powers of 2.

    heads: of the kv_heads, how many at once. Few heads and many queries make larger products than many heads and few queries;
    for the same reason the queries of a group, which have their keys in common, are multiplied with them in one product.
    Source: FlashAttention, Dao et al. 2022 (arXiv 2205.14135), without its tiling of the keys.
    """

    def scores(q: mx.array, k: mx.array, block: Block) -> mx.array:
        """q: `_of_group`. [B, heads, group * rows, reach]."""
        start, end, reach = block
        found = q @ k[:, :, :reach].swapaxes(-1, -2)
        if bias is None:
            return found
        added = (bias if bias.shape[-2] == 1 else bias[..., start:end, :])[..., :reach]
        return (_apart(found, end - start) + added).reshape(found.shape)

    def some_heads(*arrays: mx.array) -> Iterator[tuple[mx.array, ...]]:
        for first in range(0, arrays[0].shape[1], heads):
            yield tuple(array[:, first : first + heads] for array in arrays)

    @mx.custom_function
    def attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        return untraced(lambda *all_heads: _joined([forward(*some) for some in some_heads(*all_heads)]), q, k, v)

    def forward(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        outs, sums = [], []
        for block in blocks:
            start, end, reach = block
            found = scores(_of_group(q, block), k, block)
            highest = _highest(found)
            powers = _by_rows(exp2_of_difference, found, highest)
            total = powers.sum(-1, keepdims=True)
            outs.append(_apart(settled((powers @ v[:, :, :reach]) / total), end - start))
            sums.append(_apart(highest + mx.log2(total), end - start))
        return mx.concatenate(outs, axis=3), mx.concatenate(sums, axis=3)

    @attend.vjp
    def vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array, mx.array]:
        (d_out, _), (out, sums) = cotangents, outputs
        carried = (d_out * out).sum(-1, keepdims=True)
        arrays = *primals, mx.contiguous(d_out), carried, sums
        return untraced(lambda *all_heads: _joined([backward(*some) for some in some_heads(*all_heads)]), *arrays)

    def backward(
        q: mx.array, k: mx.array, v: mx.array, d_out: mx.array, carried: mx.array, sums: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        d_q, d_k, d_v = [], mx.zeros_like(k), mx.zeros_like(v)
        for block in blocks:
            start, end, reach = block
            part, d_part, carried_part, sums_part = (_of_group(array, block) for array in (q, d_out, carried, sums))
            shares = _by_rows(exp2_of_difference, scores(part, k, block), sums_part)
            d_shares = d_part @ v[:, :, :reach].swapaxes(-1, -2)
            d_scores = _by_rows(_scaled_difference, shares, d_shares, carried_part)
            d_q.append(_apart(d_scores @ k[:, :, :reach], end - start))
            rest = [(0, 0), (0, 0), (0, k.shape[2] - reach), (0, 0)]
            d_k = d_k + mx.pad(d_scores.swapaxes(-1, -2) @ part, rest)
            d_v = d_v + mx.pad(shares.swapaxes(-1, -2) @ d_part, rest)
        return mx.concatenate(d_q, axis=3) * LN_2, d_k * LN_2, d_v

    return attend


def _of_group(x: mx.array, block: Block) -> mx.array:
    """A block's rows, those of a group's heads one behind the other: [B, K, group, S, D] -> [B, K, group * rows, D]."""
    return x[:, :, :, block[0] : block[1]].reshape(*x.shape[:2], -1, x.shape[-1])


def _apart(x: mx.array, rows: int) -> mx.array:
    """The other way: [B, K, group * rows, D] -> [B, K, group, rows, D]."""
    return x.reshape(*x.shape[:2], -1, rows, x.shape[-1])


def _joined(heads: list[tuple[mx.array, ...]]) -> tuple[mx.array, ...]:
    return tuple(mx.concatenate(parts, axis=1) for parts in zip(*heads, strict=True))


def _highest(x: mx.array) -> mx.array:
    """[..., T] -> [..., 1]. Halves are compared first: MLX takes four times as long to go along a row."""
    while x.shape[-1] % 2 == 0 and x.shape[-1] > 32:
        half = x.shape[-1] // 2
        x = mx.maximum(x[..., :half], x[..., half:])
    return x.max(-1, keepdims=True)


def _by_rows(function: Callable[..., mx.array], *arrays: mx.array) -> mx.array:
    """Of arrays [..., T] or [..., 1], as matrices: g++ works a second on every number of axes, the first time."""
    return function(*(x.reshape(-1, x.shape[-1]) for x in arrays)).reshape(arrays[0].shape)


@fused
def _scaled_difference(scale: mx.array, x: mx.array, y: mx.array) -> mx.array:
    return scale * (x - y)
