"""Idefics3 (SmolVLM) in MLX: a SigLIP tower over tiles, pixel shuffle, and the shared decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxtune.backends.mlx.activations import gelu, gelu_quick, gelu_tanh
from mlxtune.backends.mlx.attention import attention
from mlxtune.backends.mlx.decoder import Decoder
from mlxtune.backends.mlx.model import Model
from mlxtune.families import ModelConfig
from mlxtune.families.defaults import IDEFICS3_VISION, LLAMA, with_defaults
from mlxtune.families.idefics3 import patch_places
from mlxtune.types import Pixels

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": gelu_quick,
}


class Embeddings(nn.Module):
    def __init__(self, vision: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, self.patch = vision["hidden_size"], vision["patch_size"]
        self.side = vision["image_size"] // self.patch
        self.patch_embedding = nn.Conv2d(3, hidden, self.patch, stride=self.patch)
        self.position_embedding = nn.Embedding(self.side**2, hidden)

    def __call__(self, tiles: mx.array) -> mx.array:
        """tiles: [T, 3, H, W]."""
        x = convolved(tiles, self.patch_embedding.weight) + self.patch_embedding.bias
        return x + self.position_embedding(mx.array(patch_places(tiles.shape[2] // self.patch, self.side)))


def convolved(tiles: mx.array, weight: mx.array) -> mx.array:
    """[T, 3, H, W], [out, p, p, 3] -> [T, patches, out]. The stride is the kernel, so it is a product with flat patches."""
    patch = weight.shape[1]
    rows, columns = tiles.shape[2] // patch, tiles.shape[3] // patch
    patches = tiles[:, :, : rows * patch, : columns * patch].reshape(-1, 3, rows, patch, columns, patch)
    patches = patches.transpose(0, 2, 4, 3, 5, 1).reshape(tiles.shape[0], rows * columns, -1)
    return patches @ weight.reshape(weight.shape[0], -1).T


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.v_proj, self.out_proj = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def __call__(self, x: mx.array) -> mx.array:
        q, k, v = (
            proj(x).reshape(*x.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attention(q, k, v, scale=q.shape[-1] ** -0.5)
        return self.out_proj(out)


class Mlp(nn.Module):
    def __init__(self, hidden: int, inner: int, activation: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self._activation = ACTIVATIONS[activation]

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(self._activation(self.fc1(x)))


class EncoderLayer(nn.Module):
    def __init__(self, vision: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, eps = vision["hidden_size"], vision["layer_norm_eps"]
        self.self_attn = Attention(hidden, vision["num_attention_heads"])
        self.mlp = Mlp(hidden, vision["intermediate_size"], vision["hidden_act"])
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(hidden, eps=eps), nn.LayerNorm(hidden, eps=eps)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    def __init__(self, vision: Mapping[str, Any]) -> None:
        super().__init__()
        self.layers = [EncoderLayer(vision) for _ in range(vision["num_hidden_layers"])]


class VisionModel(nn.Module):
    def __init__(self, vision: Mapping[str, Any]) -> None:
        super().__init__()
        self.embeddings = Embeddings(vision)
        self.encoder = Encoder(vision)
        self.post_layernorm = nn.LayerNorm(vision["hidden_size"], eps=vision["layer_norm_eps"])

    def __call__(self, tiles: mx.array) -> mx.array:
        x = self.embeddings(tiles)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x)


class Projection(nn.Module):
    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(size_in, size_out, bias=False)


class Connector(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.factor = config.top["scale_factor"]
        self.modality_projection = Projection(config.vision["hidden_size"] * self.factor**2, config.text["hidden_size"])

    def __call__(self, x: mx.array) -> mx.array:
        """Pixel shuffle: factor x factor neighbours become one token, then the projection."""
        tiles, patches, hidden = x.shape
        side, factor = int(patches**0.5), self.factor
        x = x.reshape(tiles, side // factor, factor, side // factor, factor, hidden).transpose(0, 1, 3, 2, 4, 5)
        return self.modality_projection.proj(x.reshape(tiles, patches // factor**2, -1))


class Inner(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vision_model = VisionModel(config.vision)
        self.connector = Connector(config)
        self.text_model = Decoder(config.text, attention_bias=bool(config.text.get("attention_bias", False)))


class Idefics3(Model):
    def __init__(self, config: ModelConfig) -> None:
        # SmolVLM2 publishes neither the depth of its tower nor all sizes of its layers.
        config = with_defaults(config, text={**LLAMA, "rms_norm_eps": 1e-5}, vision=IDEFICS3_VISION)
        super().__init__(config, Inner(config))

    @property
    def text(self) -> Decoder:
        return self.model.text_model

    def vision(self, pixels: Sequence[Pixels], dtype: mx.Dtype) -> mx.array:
        """[sum of tokens, hidden]: features of the pictures in order, tile by tile."""
        tiles = mx.array(np.concatenate([p.values for p in pixels])).astype(dtype)
        features = self.model.connector(self.model.vision_model(tiles))
        return features.reshape(-1, features.shape[-1])
