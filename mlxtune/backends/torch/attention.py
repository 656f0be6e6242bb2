"""Attention of the text models. On a CPU, torch's kernel computes every query with every key, those that are hidden too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

BY_REACH = "mlxtune_by_reach"
ROWS = 128  # queries at once; fewer look at fewer hidden keys, but each block costs a call, and a sum of the keys' gradients

# What torch's `scaled_dot_product_attention` comes to on a CPU: called by name, so that gradients of a block's keys go straight
# into those of all keys. No promise of theirs: a torch without them takes its own way.
_KERNEL, _KERNEL_BACK = (
    getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention_for_cpu{way}", None) for way in ("", "_backward")
)


class Block(NamedTuple):
    """Some queries, start to end, that look at none of the keys from `reach` on."""

    start: int
    end: int
    reach: int
    bias: torch.Tensor  # [B or 1, 1, end - start, reach]; 0 where a query sees a key, otherwise -inf


Mask = torch.Tensor | Sequence[Block] | None  # [B or 1, 1, S, T] bool, or cut into blocks; None: causal


def in_blocks(mask: torch.Tensor | None, x: torch.Tensor) -> Mask:
    """The same mask, cut once for all layers where that pays. x: [B, S, hidden], what the first layer gets."""
    if x.device.type != "cpu" or x.shape[1] <= ROWS or None in (_KERNEL, _KERNEL_BACK):
        return mask
    if mask is None:
        mask = torch.ones((1, 1, x.shape[1], x.shape[1]), dtype=torch.bool).tril()
    return tuple(_blocks(mask, x.dtype))


def _blocks(mask: torch.Tensor, dtype: torch.dtype) -> Iterator[Block]:
    for start in range(0, mask.shape[2], ROWS):
        rows = mask[:, :, start : start + ROWS]
        seen = rows.flatten(0, 2).any(0).nonzero()
        reach = int(seen[-1]) + 1 if len(seen) else 1
        bias = torch.zeros((*rows.shape[:3], reach), dtype=dtype).masked_fill_(~rows[..., :reach], -torch.inf)
        yield Block(start, start + rows.shape[2], reach, bias)


def narrowed(mask: torch.Tensor | None, queries: torch.Tensor, *, width: int, keys: int) -> torch.Tensor:
    """[B, 1, M, T] of some queries of each row, [B, M] places of the flattened [B * width]."""
    if mask is None:
        return (torch.arange(keys, device=queries.device) <= (queries % width + keys - width)[..., None])[:, None]
    whole = mask.expand(len(queries), -1, width, keys)
    return whole.flatten(0, 2)[queries][:, None]


def by_reach(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Mask,
    is_causal: bool | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' `sdpa`; block by block where the mask is cut into blocks.

    query: [B, heads, S, D]. key, value: [B, kv_heads, T, D]. Gives [B, S, heads, D].
    """
    if attention_mask is None or isinstance(attention_mask, torch.Tensor):
        causal = module.is_causal if is_causal is None else is_causal
        return sdpa_attention_forward(module, query, key, value, attention_mask, is_causal=causal, **settings)
    queries, kv_heads, scale = query.shape[2], key.shape[1], settings.get("scaling") or query.shape[-1] ** -0.5
    # The heads of a group, which have their keys in common, stand one behind the other at each token.
    grouped = query.unflatten(1, (kv_heads, -1)).transpose(2, 3).flatten(2, 3)
    out = _Blockwise.apply(grouped, key, value, attention_mask, scale)
    return out.unflatten(2, (queries, -1)).transpose(1, 2).flatten(2, 3), None


class _Blockwise(torch.autograd.Function):
    """q and out: [B, kv_heads, S * group, D]."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, blocks: Sequence[Block], scale: float
    ) -> torch.Tensor:
        out, sums = torch.empty_like(q), []
        for block in blocks:
            rows, bias = _of(q, block, blocks)
            found, total = _KERNEL(q[:, :, rows], k[:, :, : block.reach], v[:, :, : block.reach], attn_mask=bias, scale=scale)
            out[:, :, rows] = found
            sums.append(total)
        ctx.save_for_backward(q, k, v, out, *sums)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, *sums = ctx.saved_tensors
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block, total in zip(ctx.blocks, sums, strict=True):
            rows, bias = _of(q, block, ctx.blocks)
            seen = slice(block.reach)
            arrays = d_out[:, :, rows], q[:, :, rows], k[:, :, seen], v[:, :, seen], out[:, :, rows], total
            d_q[:, :, rows], d_keys, d_values = _KERNEL_BACK(*arrays, 0.0, False, attn_mask=bias, scale=ctx.scale)
            d_k[:, :, seen] += d_keys
            d_v[:, :, seen] += d_values
        return d_q, d_k, d_v, None, None


def _of(q: torch.Tensor, block: Block, blocks: Sequence[Block]) -> tuple[slice, torch.Tensor]:
    """Where a block's queries stand in q, and their bias, once for each of a group."""
    group = q.shape[2] // blocks[-1].end
    bias = block.bias[:, :, :, None].expand(-1, -1, -1, group, -1).flatten(2, 3)
    return slice(block.start * group, block.end * group), bias


AttentionInterface.register(BY_REACH, by_reach)
