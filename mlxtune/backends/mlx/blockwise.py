"""Attention from matrix products, forward and back: through the queries some rows at a time, as far as they see.

Source: FlashAttention, Dao et al. 2022 (arXiv 2205.14135), without its tiling of the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxtune.backends.mlx.lanes import settled
from mlxtune.backends.mlx.untraced import untraced
from mlxtune.backends.mlx.vector import LN_2, LOG2_E, exp2_fused, row_highest, row_sums

Block = tuple[int, int, int]  # first query, last query + 1, keys that they reach


class Sizes(NamedTuple):
    """batch, kv_heads: as the blocks see them, where heads of all rows may stand side by side as those of one row.

    group: the query heads that have their keys in common. heads: of the kv_heads, how many are worked on at once.
    keep: the powers of all scores, for the way back, which otherwise makes them again.
    """

    batch: int
    kv_heads: int
    group: int
    heads: int
    keep: bool


def blockwise(
    blocks: tuple[Block, ...], bias: mx.array | None, sizes: Sizes, *, scale: float
) -> Callable[..., tuple[mx.array, ...]]:
    """(q, k, v) -> (out, ...), q and out as `attention` has them, k and v without gaps; the rest is for the way back.

    bias: see `Visible`; None where every query sees all keys. Few heads and many queries make larger products than many heads
    and few queries; for the same reason the heads of a group, which have their keys in common, stand one behind the other at
    each token: a block is one matrix.
    """
    group, keep = sizes.group, sizes.keep

    def grouped(x: mx.array, factors: mx.array) -> mx.array:
        """x, [B, S, heads, D], times factors, as [B, kv_heads, S * group, D] without gaps."""
        apart = x.reshape(*x.shape[:2], -1, group, x.shape[-1]).transpose(0, 2, 1, 3, 4) * factors
        return apart.reshape(sizes.batch, sizes.kv_heads, -1, x.shape[-1])

    def tokens_first(block: Block, x: mx.array) -> mx.array:
        """x of a block's queries, [B, heads, rows * group, D], as [B, rows, heads, group * D]."""
        return x.reshape(*x.shape[:2], block[1] - block[0], -1).swapaxes(1, 2)

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
        for first in range(0, arrays[0].shape[1], sizes.heads):
            yield tuple(array[:, first : first + sizes.heads] for array in arrays)

    @mx.custom_function
    def attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, ...]:
        return untraced(forward, q, k, v)

    def forward(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, ...]:
        """out; q scaled for powers of 2; of each query's powers the sum; the powers of each block, or each query's highest
        score."""
        # Factors, not one: with a number MLX would leave its result in the order of q, to be copied afterwards.
        asked = grouped(q.swapaxes(1, 2), mx.array(np.full(q.shape[-1], scale * LOG2_E, np.float32)))
        keys = asked.shape[:2] + k.shape[2:]
        found = [forward_some(*some) for some in some_heads(asked, k.reshape(keys), v.reshape(keys))]
        return _whole([out for out, *_ in found], len(q)), asked, *_joined([rest for _, *rest in found])

    def forward_some(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, ...]:
        outs, totals, for_back = [], [], []
        for block in blocks:
            found = scores(block, q, k)
            highest = row_highest(found)
            powers = exp2_fused(found - highest)
            total = row_sums(powers)
            outs.append(tokens_first(block, settled((powers @ v[:, :, : block[2]]) / total)))
            totals.append(total)
            for_back.append(powers if keep else highest)
        kept = for_back if keep else [mx.concatenate(for_back, axis=2)]
        return mx.concatenate(outs, axis=1), mx.concatenate(totals, axis=2), *kept

    @attend.vjp
    def vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        return untraced(back, *primals, cotangents[0], *outputs)

    def back(
        q: mx.array, k: mx.array, v: mx.array, d_out: mx.array, out: mx.array, asked: mx.array, total: mx.array, *kept: mx.array
    ) -> tuple[mx.array, ...]:
        batch, heads, queries, size = q.shape
        each = batch, queries, heads, size
        times = (scale / total).reshape(batch, -1, queries, group, 1)
        carried = grouped(row_sums((d_out * out).reshape(each)), times)
        keys = asked.shape[:2] + k.shape[2:]
        arrays = asked, k.reshape(keys), v.reshape(keys), grouped(d_out.reshape(each), times), carried
        found = [back_some(*some) for some in some_heads(*arrays, *kept)]
        d_k, d_v = _joined([rest for _, *rest in found])
        return _whole([d_q for d_q, *_ in found], batch).reshape(each).swapaxes(1, 2), d_k.reshape(k.shape), d_v.reshape(v.shape)

    def back_some(
        q: mx.array, k: mx.array, v: mx.array, d_out: mx.array, carried: mx.array, *for_back: mx.array
    ) -> tuple[mx.array, ...]:
        """d_out: times scale, over the sums. Gradients of keys and values stand upright, [B, heads, D, T], until they are
        complete: products of few rows are faster than those of few columns."""
        d_q, d_k, d_v = [], [mx.zeros_like(k.swapaxes(-1, -2))], [mx.zeros_like(v.swapaxes(-1, -2))]
        for number, block in reversed(tuple(enumerate(blocks))):
            part, d_part, reach = of(block, q), of(block, d_out), block[2]
            powers = for_back[number] if keep else exp2_fused(scores(block, q, k) - of(block, for_back[0]))
            d_powers = d_part @ v[:, :, :reach].swapaxes(-1, -2)
            d_scores = powers * (d_powers - of(block, carried))
            d_q.append(tokens_first(block, d_scores @ k[:, :, :reach]))
            d_k = _plus(d_k, part.swapaxes(-1, -2) @ d_scores)
            d_v = _plus(d_v, d_part.swapaxes(-1, -2) @ powers)
        d_q, d_k, d_v = mx.concatenate(d_q[::-1], axis=1), *(mx.concatenate(parts, axis=3) for parts in (d_k, d_v))
        return d_q, d_k.swapaxes(-1, -2) * (LN_2 / scale), d_v.swapaxes(-1, -2) * (1 / scale)

    return attend


def _whole(parts: list[mx.array], batch: int) -> mx.array:
    """[B, S, some heads, group * D], as the blocks see them, of all heads -> [batch, S, heads * D]."""
    x = mx.concatenate(parts, axis=2)
    if len(x) != batch:
        x = x.reshape(x.shape[1], batch, -1).swapaxes(0, 1)
    return x.reshape(*x.shape[:2], -1)


def _plus(pieces: list[mx.array], part: mx.array) -> list[mx.array]:
    """`part`, [B, heads, D, reach], added to the first of the pieces, [B, heads, D, some keys] side by side; what it does not
    reach of that becomes a piece of its own. Reaches go down: to add zeros behind them would be a pass over all keys a block.
    """
    (first, *others), reach = pieces, part.shape[3]
    cut = [first[..., reach:]] if reach < first.shape[3] else []
    return [first[..., :reach] + part, *cut, *others]


def _joined(heads: list[tuple[mx.array, ...]]) -> tuple[mx.array, ...]:
    return tuple(mx.concatenate(parts, axis=1) for parts in zip(*heads, strict=True))
