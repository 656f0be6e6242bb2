"""LLaVA: transformers' modules; the CLIP tower runs as far as features are taken from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mlxtune.backends.torch.models.base import TorchModel
from mlxtune.families.llava import feature_levels
from mlxtune.types import Pixels


class Llava(TorchModel):
    architecture = "LlavaForConditionalGeneration"

    @property
    def text(self) -> Any:
        return self.model.model.language_model

    def vision(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        tower, config = self.model.model.vision_tower, self.model.config
        levels = feature_levels(config.vision_feature_layer, layers=len(tower.encoder.layers))
        first = 0 if config.vision_feature_select_strategy == "full" else 1
        states = [tower.pre_layrnorm(tower.embeddings(self._values(pixels)))]
        for layer in tower.encoder.layers[: max(levels)]:
            states.append(layer(states[-1], attention_mask=None))
        features = torch.cat([states[level][:, first:] for level in levels], dim=-1)
        return self.model.model.multi_modal_projector(features).flatten(0, 1)
