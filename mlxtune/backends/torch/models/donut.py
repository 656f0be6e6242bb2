"""Donut: transformers' Swin encoder and mBART decoder; the decoder's layers are called one by one with our positions and mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache

from mlxtune.backends.torch.models.base import Inputs, TorchModel, from_transformers
from mlxtune.backends.torch.models.layer import at
from mlxtune.families.config import ModelConfig
from mlxtune.families.donut import parts_of
from mlxtune.types import Pixels


class Donut(TorchModel):
    architecture = "VisionEncoderDecoderModel"
    # transformers' Swin has one attention, and refuses to be asked for another.
    _attention: ClassVar[dict[str, str]] = {"encoder": "eager", "decoder": "sdpa"}

    @classmethod
    def build(cls, config: ModelConfig, *, dtype: torch.dtype, settings: dict[str, Any]) -> nn.Module:
        parts_of(config)
        return from_transformers(config.folder, cls.architecture, dtype=dtype, attn_implementation=cls._attention, **settings)

    @property
    def text(self) -> Any:
        return self.model.decoder.model.decoder

    @property
    def head(self) -> nn.Module:
        return self.model.decoder.lm_head

    def vision(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        features = self.model.encoder(self._values(pixels)).last_hidden_state
        if hasattr(self.model, "enc_to_dec_proj"):
            features = self.model.enc_to_dec_proj(features)
        return features.flatten(0, 1)

    def new_cache(self) -> Any:
        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def hidden(self, inputs: Inputs) -> torch.Tensor:
        text = self.text
        # `embed_positions` itself counts from the row's start, padding included; its table begins with two rows for no position.
        places = nn.functional.embedding(inputs.positions[0] + text.embed_positions.offset, text.embed_positions.weight)
        hidden = text.layernorm_embedding(text.embed_tokens(inputs.input_ids) + places)
        features = hidden  # after the prompt: its values are not read, the keys in the cache are
        if inputs.features is not None:
            features = inputs.features.to(hidden.dtype)[inputs.crossed_rows]
        mask = self.cut(inputs.mask, hidden)
        for layer in text.layers:
            hidden = self.through(layer, hidden, mask, features, past_key_values=inputs.cache)
        return text.layer_norm(hidden if inputs.rows is None else at(hidden, inputs.rows.places))
