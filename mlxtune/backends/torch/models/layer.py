"""A layer of a Llama-like text model, from the modules that transformers loads: RMSNorm, grouped-query attention, SwiGLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mlxtune.backends.torch.attention import Mask, by_reach, in_blocks, narrowed
from mlxtune.backends.torch.lora import together
from mlxtune.backends.torch.pointwise import rms_norm, swiglu
from mlxtune.backends.torch.rotary import rotate
from mlxtune.wanted_rows import WantedRows

Rotary = tuple[torch.Tensor, torch.Tensor]  # cos and sin of every token, [B, S, head_dim] each


def at(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[B, S, width] -> [..., width] at places [...] of the flattened [B * S]."""
    return x.flatten(0, 1)[places]


class Layer(nn.Module):
    """transformers' own comes to the same, with more passes over the tokens, and always for all of them: behind the last layer
    nobody looks at others than the wanted rows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, *, turns: Rotary, mask: Mask, cache: Any, rows: WantedRows | None = None) -> torch.Tensor:
        """x: [B, S, hidden]. mask: not cut into blocks where there are rows. Gives the same, or [N, hidden] at `rows`."""
        seen = self._attended(_normed(self.inner.input_layernorm, x), turns, mask, cache, rows)
        x = (x if rows is None else at(x, rows.places)) + seen
        mlp, normed = self.inner.mlp, _normed(self.inner.post_attention_layernorm, x)
        return x + mlp.down_proj(swiglu(*together(normed, mlp.gate_proj, mlp.up_proj)))

    def _attended(self, x: torch.Tensor, turns: Rotary, mask: Mask, cache: Any, rows: WantedRows | None) -> torch.Tensor:
        own = self.inner.self_attn
        if rows is None:
            projected, asking = together(x, own.q_proj, own.k_proj, own.v_proj), turns
        else:
            projected = [own.q_proj(at(x, rows.queries)), *together(x, own.k_proj, own.v_proj)]
            asking = tuple(at(part, rows.queries) for part in turns)
        q, k, v = (part.unflatten(-1, (-1, own.head_dim)) for part in projected)
        if hasattr(own, "q_norm"):
            q, k = _normed(own.q_norm, q), _normed(own.k_norm, k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        q, k = (rotate(part, cos[:, None], sin[:, None]) for part, (cos, sin) in ((q, asking), (k, turns)))
        if cache is not None:
            k, v = cache.update(k, v, own.layer_idx)
        if rows is not None:
            mask = in_blocks(narrowed(mask, rows.queries, width=x.shape[1], keys=k.shape[2]), q.flatten(2))
        out = by_reach(own, q, k, v, mask, scaling=own.scaling)[0].flatten(2)
        return own.o_proj(out if rows is None else at(out, rows.back))


def _normed(norm: Any, x: torch.Tensor) -> torch.Tensor:
    return rms_norm(x, norm.weight, norm.variance_epsilon)
