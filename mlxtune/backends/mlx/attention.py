"""Attention: MLX's own kernel on a GPU; in blocks on its CPU, where that works on whole matrices of scores, masked or not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import mlx.core as mx
import numpy as np

from mlxtune.backends.mlx.blockwise import Block, Sizes, blockwise
from mlxtune.backends.mlx.course import at
from mlxtune.backends.mlx.vector import PARTS, by_parts

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

    @cached_property
    def bias(self) -> mx.array:
        """What is added to scores, [B or 1, 1, S or 1, 1, T]; all layers have it in common."""
        return ((self.allowed.astype(mx.float32) - 1) * _HIDDEN)[..., None, :]


def reach_of(allowed: np.ndarray) -> tuple[int, ...]:
    """`Visible.reach` of [B or 1, S or 1, T] bool."""
    seen = allowed.any(0)
    last = np.where(seen.any(-1), seen.shape[-1] - np.argmax(seen[:, ::-1], axis=-1), 0)
    return tuple(np.maximum.accumulate(last).tolist())


Mask = Visible | str | None  # "causal": every key up to the query's own, which are the last ones; None: all keys


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None) -> mx.array:
    """softmax(q k^T scale) v as an output projection takes it, [B, S, heads * D].

    q: [B, heads, S, D]. k, v: [B, kv_heads, T, D].
    """
    batch, heads, queries, _ = q.shape
    if not by_parts(q.dtype):
        allowed = mask.allowed if isinstance(mask, Visible) else mask
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=allowed)
        return out.swapaxes(1, 2).reshape(batch, queries, -1)
    kv_heads, keys = k.shape[1:3]
    if mask == "causal":
        mask = _causal(queries, keys) if queries > 1 else None
    if queries > 1:
        # A product copies what has gaps between its rows, once for every block; one query is one block.
        k, v = mx.contiguous(k), mx.contiguous(v)
    if mask is None:  # then a row's heads are no different from another row's, and so divide into blocks that fit
        batch, kv_heads = 1, batch * kv_heads
    group = q.shape[0] * heads // (batch * kv_heads)
    each = batch * group * keys  # scores of a query in one head
    rows = min(queries, max(_SCORES // each, 32), 256 if mask is None else 128)
    rows = math.ceil(queries / math.ceil(queries / rows))  # no block is much smaller than the others
    at_once = min(kv_heads, max(_SCORES // (each * rows), 1))
    blocks = tuple(_blocks(queries, keys, mask, rows=rows))
    every = batch * kv_heads * group * sum((end - start) * reach for start, end, reach in blocks)
    sizes = Sizes(batch, kv_heads, group, heads=at_once, keep=at_once == kv_heads and every <= _KEPT)
    return blockwise(blocks, None if mask is None else mask.bias, sizes, scale=scale)(q, k, v)[0]


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
