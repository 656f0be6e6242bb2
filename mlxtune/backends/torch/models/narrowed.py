"""The last layer of a text model, for the wanted rows alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mlxtune.backends.torch.attention import by_reach, in_blocks, narrowed
from mlxtune.backends.torch.rotary import rotate
from mlxtune.wanted_rows import WantedRows


def at(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[B, S, width] -> [..., width] at places [...] of the flattened [B * S]."""
    return x.flatten(0, 1)[places]


class Narrowed(nn.Module):
    """transformers' layer of a Llama-like text model, for the wanted rows alone: behind the last one nobody looks at another
    token. Its attention is written out, since transformers' has as many queries as keys."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, rows: WantedRows, **settings: Any) -> torch.Tensor:
        """x: [B, S, hidden]. Gives [N, hidden] at `rows`."""
        out = at(x, rows.places) + self._attended(self.layer.input_layernorm(x), rows, **settings)
        return out + self.layer.mlp(self.layer.post_attention_layernorm(out))

    def _attended(
        self,
        x: torch.Tensor,
        rows: WantedRows,
        *,
        attention_mask: torch.Tensor | None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        past_key_values: Any,
    ) -> torch.Tensor:
        own, turns = self.layer.self_attn, position_embeddings  # [B, S, head_dim] each
        projected = own.q_proj(at(x, rows.queries)), own.k_proj(x), own.v_proj(x)
        q, k, v = (part.unflatten(-1, (-1, own.head_dim)) for part in projected)
        if hasattr(own, "q_norm"):
            q, k = own.q_norm(q), own.k_norm(k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        q, k = rotate(q, *(at(part, rows.queries)[:, None] for part in turns)), rotate(k, *(part[:, None] for part in turns))
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, own.layer_idx)
        mask = narrowed(attention_mask, rows.queries, width=x.shape[1], keys=k.shape[2])
        out, _ = by_reach(own, q, k, v, in_blocks(mask, q.flatten(2)), scaling=own.scaling)
        return own.o_proj(at(out.flatten(2), rows.back))
