"""Sizes that published configurations leave out because they are those of transformers' classes.

transformers fills them in by itself; whoever builds modules from `config.json` needs them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlxtune.families.config import ModelConfig

LLAMA: Mapping[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
}
CLIP_VISION: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
IDEFICS3_VISION: Mapping[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


def with_defaults(config: ModelConfig, *, text: Mapping[str, Any], vision: Mapping[str, Any]) -> ModelConfig:
    """The configuration with what it does not say, or says as null, taken from `text` and `vision`."""
    return replace(config, text=_filled(config.text, text), vision=_filled(config.vision, vision))


def _filled(own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {**defaults, **{key: value for key, value in own.items() if value is not None}}
