"""Qwen3-VL: transformers' modules; features of several depths are added behind the first layers of the text model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mlxtune.backends.torch.models.base import Inputs
from mlxtune.backends.torch.models.qwen2_5_vl import Qwen2_5_VL
from mlxtune.types import Pixels


class Qwen3VL(Qwen2_5_VL):
    architecture = "Qwen3VLForConditionalGeneration"

    def vision(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        """[sum of tokens, hidden * (1 + levels)]: the last features, then those of the earlier blocks, shallowest first."""
        grids = torch.tensor([p.grid for p in pixels], device=self.device)
        out = self.model.model.visual(self._values(pixels), grid_thw=grids)
        return torch.cat([out.pooler_output, *out.deepstack_features], dim=-1)

    def hidden(self, inputs: Inputs) -> torch.Tensor:
        text, hidden = self.text, self.embed(inputs)
        levels = _levels(inputs, hidden)
        assert len(levels) <= len(text.layers), "a level of features has no layer to be added behind"
        rotary = text.rotary_emb(hidden, self.rotary_positions(inputs.positions))
        for number, layer in enumerate(text.layers):
            how = {"attention_mask": inputs.mask, "position_embeddings": rotary, "past_key_values": inputs.cache}
            hidden = self.through(layer, hidden, **how)
            if number < len(levels):
                hidden = hidden.flatten(0, 1).index_add(0, inputs.image_rows, levels[number]).view_as(hidden)
        return text.norm(hidden)


def _levels(inputs: Inputs, hidden: torch.Tensor) -> list[torch.Tensor]:
    """[M, hidden] for each level beside the last features: what is added at the pictures' places."""
    if inputs.features is None:
        return []
    return list(inputs.features.to(hidden.dtype)[inputs.feature_rows].split(hidden.shape[-1], dim=-1)[1:])
