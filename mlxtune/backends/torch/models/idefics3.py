"""Idefics3 and SmolVLM: transformers' modules; every tile of a picture goes through the tower on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mlxtune.backends.torch.models.base import TorchModel
from mlxtune.types import Pixels


class Idefics3(TorchModel):
    architecture = "Idefics3ForConditionalGeneration"

    @property
    def text(self) -> Any:
        return self.model.model.text_model

    def vision(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        tiles = self._values(pixels)
        side = tiles.shape[-1] // self.model.config.vision_config.patch_size
        # Called below `get_image_features`, which drops tiles whose values are all zero and so shifts the others.
        whole = torch.ones((len(tiles), side, side), dtype=torch.bool, device=self.device)
        hidden = self.model.model.vision_model(pixel_values=tiles, patch_attention_mask=whole).last_hidden_state
        return self.model.model.connector(hidden).flatten(0, 1)
