"""Attention: MLX's own kernel on a GPU. On its CPU that works on whole matrices of scores, masked or not; here it goes through
the queries some rows at a time, as far as they see, and keeps scores for the way back only where they are few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.backends.mlx.course import at
from mlxtune.backends.mlx.lanes import settled
from mlxtune.backends.mlx.untraced import untraced
from mlxtune.backends.mlx.vector import LN_2, LOG2_E, PARTS, by_parts, exp2_fused, row_highest, row_sums

_SCORES = 2**19  # of a block, in numbers; more leave the caches, fewer make more blocks
_KEPT = 2**20  # scores of a layer, 4 MiB of powers; a layer's other arrays for the way back are several times that
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
    """softmax(q k^T scale) v as an output projection takes it, [B, S, heads * D].

    q: [B, heads, S, D]. k, v: [B, kv_heads, T, D].
    """
    batch, _, queries, size = q.shape
    if not by_parts(q.dtype):
        allowed = mask.allowed if isinstance(mask, Visible) else mask
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=allowed)
        return out.swapaxes(1, 2).reshape(batch, queries, -1)
    kv_heads, keys = k.shape[1:3]
    if mask == "causal":
        mask = _causal(queries, keys) if queries > 1 else None
    bias = None if mask is None else ((mask.allowed.astype(mx.float32) - 1) * _HIDDEN)[..., None, :]
    # The heads of a group, which have their keys in common, stand one behind the other at each token: a block is one matrix.
    grouped = (q * (scale * LOG2_E)).reshape(batch, kv_heads, -1, queries, size).swapaxes(2, 3)
    group = grouped.shape[3]
    grouped = grouped.reshape(batch, kv_heads, -1, size)
    if queries > 1:
        # A product copies what has gaps between its rows, once for every block; one query is one block.
        k, v = mx.contiguous(k), mx.contiguous(v)
    if mask is None:  # then a row's heads are no different from another row's, and so divide into blocks that fit
        grouped, k, v = (x.reshape(1, -1, *x.shape[2:]) for x in (grouped, k, v))
    each = grouped.shape[0] * group * keys  # scores of a query in one head
    rows = min(queries, max(_SCORES // each, 32), 256 if mask is None else 128)
    heads = min(k.shape[1], max(_SCORES // (each * rows), 1))
    blocks = tuple(_blocks(queries, keys, mask, rows=rows))
    every = grouped.shape[0] * k.shape[1] * group * sum((end - start) * reach for start, end, reach in blocks)
    keep = heads == k.shape[1] and every <= _KEPT
    out = _blockwise(blocks, bias, group=group, heads=heads, keep=keep)(grouped, k, v)[0]
    return out.reshape(batch, kv_heads, queries, -1).swapaxes(1, 2).reshape(batch, queries, -1)


def narrowed(mask: Mask, queries: mx.array, *, width: int, keys: int) -> Mask:
    """Of some queries of each row, [B, M] places of the flattened [B * width]."""
    if mask is None or (isinstance(mask, Visible) and mask.allowed.shape[2] == 1):
        return mask
    if isinstance(mask, Visible):
        allowed = at(mx.broadcast_to(mask.allowed, (len(queries), 1, width, keys)), queries)
    else:
        allowed = mx.arange(keys) <= (queries % width + keys - width)[..., None]
    return Visible(allowed[:, None])


@lru_cache(maxsize=8)
def _causal_seen(queries: int, keys: int) -> np.ndarray:
    # In numpy: an array of MLX that is made while a step is traced must not outlive it.
    return np.tril(np.ones((1, 1, queries, keys), bool), keys - queries)


def _causal(queries: int, keys: int) -> Visible:
    return Visible(mx.array(_causal_seen(queries, keys)), tuple(range(keys - queries + 1, keys + 1)))


def _blocks(queries: int, keys: int, mask: Visible | None, *, rows: int) -> Iterator[Block]:
    for start in range(0, queries, rows):
        end = min(start + rows, queries)
        reach = keys if mask is None or mask.reach is None else mask.reach[min(end, len(mask.reach)) - 1]
        yield start, end, min(-(-reach // PARTS) * PARTS, keys)


def _blockwise(
    blocks: tuple[Block, ...], bias: mx.array | None, *, group: int, heads: int, keep: bool
) -> Callable[..., tuple[mx.array, ...]]:
    """(q, k, v) -> (out, ...), the rest for the way back; q and out [B, kv_heads, S * group, D], q scaled for powers of 2.

    heads: of the kv_heads, how many at once. Few heads and many queries make larger products than many heads and few queries;
    for the same reason the queries of a group, which have their keys in common, are multiplied with them in one product.
    keep: the powers of all scores, for the way back, which otherwise makes them again.
    Source: FlashAttention, Dao et al. 2022 (arXiv 2205.14135), without its tiling of the keys.
    """

    def of(block: Block, x: mx.array) -> mx.array:
        return x[:, :, block[0] * group : block[1] * group]

    def scores(block: Block, q: mx.array, k: mx.array) -> mx.array:
        """[B, heads, rows * group, reach] of a block's queries."""
        start, end, reach = block
        found = of(block, q) @ k[:, :, :reach].swapaxes(-1, -2)
        if bias is None:
            return found
        added = (bias if bias.shape[2] == 1 else bias[:, :, start:end])[..., :reach]
        return (found.reshape(*found.shape[:2], end - start, group, reach) + added).reshape(found.shape)

    def some_heads(*arrays: mx.array) -> Iterator[tuple[mx.array, ...]]:
        for first in range(0, arrays[0].shape[1], heads):
            yield tuple(array[:, first : first + heads] for array in arrays)

    @mx.custom_function
    def attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, ...]:
        return untraced(lambda *all_heads: _joined([forward(*some) for some in some_heads(*all_heads)]), q, k, v)

    def forward(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, ...]:
        """out; of each query's powers the sum; the powers of each block, or each query's highest score."""
        outs, totals, for_back = [], [], []
        for block in blocks:
            found = scores(block, q, k)
            highest = row_highest(found)
            powers = exp2_fused(found - highest)
            total = row_sums(powers)
            outs.append(settled((powers @ v[:, :, : block[2]]) / total))
            totals.append(total)
            for_back.append(powers if keep else highest)
        kept = for_back if keep else [mx.concatenate(for_back, axis=2)]
        return mx.concatenate(outs, axis=2), mx.concatenate(totals, axis=2), *kept

    @attend.vjp
    def vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array, mx.array]:
        out, total, *for_back = outputs
        d_out = mx.contiguous(cotangents[0]) / total
        arrays = *primals, d_out, row_sums(d_out * out), *for_back
        return untraced(lambda *all_heads: _joined([backward(*some) for some in some_heads(*all_heads)]), *arrays)

    def backward(
        q: mx.array, k: mx.array, v: mx.array, d_out: mx.array, carried: mx.array, *for_back: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        """d_out: over the sums. Gradients of keys and values stand upright, [B, heads, D, T], until they are complete: products
        of few rows are faster than those of few columns."""
        d_q, d_k, d_v = [], [mx.zeros_like(k.swapaxes(-1, -2))], [mx.zeros_like(v.swapaxes(-1, -2))]
        for number, block in reversed(tuple(enumerate(blocks))):
            part, d_part, reach = of(block, q), of(block, d_out), block[2]
            powers = for_back[number] if keep else exp2_fused(scores(block, q, k) - of(block, for_back[0]))
            d_powers = d_part @ v[:, :, :reach].swapaxes(-1, -2)
            d_scores = powers * (d_powers - of(block, carried))
            d_q.append(d_scores @ k[:, :, :reach])
            d_k = _plus(d_k, part.swapaxes(-1, -2) @ d_scores)
            d_v = _plus(d_v, d_part.swapaxes(-1, -2) @ powers)
        d_q, d_k, d_v = mx.concatenate(d_q[::-1], axis=2), *(mx.concatenate(parts, axis=3) for parts in (d_k, d_v))
        return d_q * LN_2, d_k.swapaxes(-1, -2) * LN_2, d_v.swapaxes(-1, -2)

    return attend


def _plus(pieces: list[mx.array], part: mx.array) -> list[mx.array]:
    """`part`, [B, heads, D, reach], added to the first of the pieces, [B, heads, D, some keys] side by side; what it does not
    reach of that becomes a piece of its own. Reaches go down: to add zeros behind them would be a pass over all keys a block.
    """
    (first, *others), reach = pieces, part.shape[3]
    cut = [first[..., reach:]] if reach < first.shape[3] else []
    return [first[..., :reach] + part, *cut, *others]


def _joined(heads: list[tuple[mx.array, ...]]) -> tuple[mx.array, ...]:
    return tuple(mx.concatenate(parts, axis=1) for parts in zip(*heads, strict=True))
