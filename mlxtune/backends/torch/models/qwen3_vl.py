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

    def deepened(self, hidden: torch.Tensor, number: int, inputs: Inputs) -> torch.Tensor:
        """Behind the first layers, each its level of the features at the pictures' places."""
        if inputs.features is None:
            return hidden
        width = hidden.shape[-1]
        begin, levels = (number + 1) * width, inputs.features.shape[-1] // width - 1
        assert levels < len(self.text.layers), "a level of features has no layer to be added behind"
        if number >= levels:
            return hidden
        added = inputs.features[:, begin : begin + width].to(hidden.dtype)[inputs.feature_rows]
        return hidden.flatten(0, 1).index_add(0, inputs.image_rows, added).view_as(hidden)
