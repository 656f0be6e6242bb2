"""Attention of the text models. On a CPU, torch's kernel computes every query with every key, those that are hidden too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

BY_REACH = "mlxtune_by_reach"
ROWS = 256  # queries at once; fewer look at fewer hidden keys, but each part of the keys' gradients is added up apart


def by_reach(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    is_causal: bool | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' `sdpa`; on a CPU some queries at a time, each time with no key behind the last that they look at.

    query: [B, heads, S, D]. key, value: [B, kv_heads, T, D]. attention_mask: [B or 1, 1, S, T] bool; None: causal, or all keys.
    Gives [B, S, heads, D].
    """
    queries, keys = query.shape[2], key.shape[2]
    whole = query.device.type != "cpu" or queries <= ROWS or torch.compiler.is_compiling()
    causal = module.is_causal if is_causal is None else is_causal
    if whole or (attention_mask is None and (queries != keys or not causal)):
        return sdpa_attention_forward(module, query, key, value, attention_mask, is_causal=causal, **settings)
    key, value = (repeat_kv(x, query.shape[1] // x.shape[1]) for x in (key, value))
    found = [
        scaled_dot_product_attention(
            query[:, :, start:end], key[:, :, :reach], value[:, :, :reach], attn_mask=allowed, scale=settings.get("scaling")
        )
        for start, end, reach, allowed in _blocks(queries, attention_mask)
    ]
    return torch.cat(found, dim=2).transpose(1, 2), None


def _blocks(queries: int, mask: torch.Tensor | None) -> Iterator[tuple[int, int, int, torch.Tensor]]:
    """First query, last query + 1, keys that they reach, and who of them sees whom."""
    for start in range(0, queries, ROWS):
        end = min(start + ROWS, queries)
        if mask is None:
            yield start, end, end, torch.ones((end - start, end), dtype=torch.bool).tril(start)
        else:
            rows = mask[:, :, start:end]
            seen = rows.flatten(0, 2).any(0).nonzero()
            reach = int(seen[-1]) + 1 if len(seen) else 1
            yield start, end, reach, rows[..., :reach]


AttentionInterface.register(BY_REACH, by_reach)
