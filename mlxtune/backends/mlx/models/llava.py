"""LLaVA in MLX: a CLIP tower that runs as far as features are taken from it, a projector, and the shared decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxtune.backends.mlx.decoder import Decoder
from mlxtune.backends.mlx.model import Model
from mlxtune.backends.mlx.models.idefics3 import ACTIVATIONS, Encoder, convolved
from mlxtune.errors import ModelError
from mlxtune.families import ModelConfig
from mlxtune.families.llava import filled, taken
from mlxtune.types import Pixels


class Embeddings(nn.Module):
    def __init__(self, vision: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, patch = vision["hidden_size"], vision["patch_size"]
        self.class_embedding = mx.zeros(hidden)
        self.patch_embedding = nn.Conv2d(3, hidden, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((vision["image_size"] // patch) ** 2 + 1, hidden)

    def __call__(self, pictures: mx.array) -> mx.array:
        """pictures: [P, 3, H, W]. Gives [P, 1 + patches, hidden]."""
        patches = convolved(pictures, self.patch_embedding.weight)
        whole = mx.broadcast_to(self.class_embedding, (patches.shape[0], 1, patches.shape[2]))
        return mx.concatenate([whole, patches], axis=1) + self.position_embedding.weight


class VisionTower(nn.Module):
    def __init__(self, vision: Mapping[str, Any]) -> None:
        super().__init__()
        eps = vision["layer_norm_eps"]
        self.embeddings = Embeddings(vision)
        self.pre_layrnorm = nn.LayerNorm(vision["hidden_size"], eps=eps)
        self.encoder = Encoder(vision)
        self.post_layernorm = nn.LayerNorm(vision["hidden_size"], eps=eps)  # published, and never run: features come from below

    def __call__(self, pictures: mx.array, levels: Sequence[int]) -> list[mx.array]:
        """[P, 1 + patches, hidden] behind so many layers, for each level."""
        states = [self.pre_layrnorm(self.embeddings(pictures))]
        for layer in self.encoder.layers[: max(levels)]:
            states.append(layer(states[-1]))
        return [states[level] for level in levels]


class Projector(nn.Module):
    def __init__(self, config: ModelConfig, *, levels: int) -> None:
        super().__init__()
        hidden, bias = config.text["hidden_size"], config.top.get("multimodal_projector_bias", True)
        self.linear_1 = nn.Linear(config.vision["hidden_size"] * levels, hidden, bias=bias)
        self.linear_2 = nn.Linear(hidden, hidden, bias=bias)
        self._activation = ACTIVATIONS[config.top.get("projector_hidden_act", "gelu")]

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_2(self._activation(self.linear_1(x)))


class Inner(nn.Module):
    def __init__(self, config: ModelConfig, *, levels: int) -> None:
        super().__init__()
        self.vision_tower = VisionTower(config.vision)
        self.multi_modal_projector = Projector(config, levels=levels)
        self.language_model = Decoder(config.text, attention_bias=bool(config.text.get("attention_bias", False)))


class Llava(Model):
    def __init__(self, config: ModelConfig) -> None:
        config = filled(config)
        _check_rope(config)
        self._levels, self._keeps_first = taken(config)
        super().__init__(config, Inner(config, levels=len(self._levels)))

    @property
    def text(self) -> Decoder:
        return self.model.language_model

    def vision(self, pixels: Sequence[Pixels], dtype: mx.Dtype) -> mx.array:
        """[sum of tokens, hidden]: features of the pictures in order."""
        pictures = mx.array(np.concatenate([p.values for p in pixels])).astype(dtype)
        states = self.model.vision_tower(pictures, self._levels)
        features = mx.concatenate([state[:, 0 if self._keeps_first else 1 :] for state in states], axis=-1)
        features = self.model.multi_modal_projector(features)
        return features.reshape(-1, features.shape[-1])


def _check_rope(config: ModelConfig) -> None:
    rope = config.text.get("rope_parameters") or config.text.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        raise ModelError(
            f"{config.folder}/config.json: rotary positions of type '{kind}' are not built for MLX. Use backend: torch"
        )
