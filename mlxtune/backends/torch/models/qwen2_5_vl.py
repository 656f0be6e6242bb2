"""Qwen2.5-VL: transformers' modules, whose rotary embedding takes all three axes of positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mlxtune.backends.torch.models.base import TorchModel
from mlxtune.types import Pixels


class Qwen2_5_VL(TorchModel):
    architecture = "Qwen2_5_VLForConditionalGeneration"

    @property
    def text(self) -> Any:
        return self.model.model.language_model

    def vision(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        grids = torch.tensor([p.grid for p in pixels], device=self.device)
        return self.model.model.visual(self._values(pixels), grid_thw=grids).pooler_output

    def rotary_positions(self, positions: torch.Tensor) -> torch.Tensor:
        return positions
