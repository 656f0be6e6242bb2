"""Idefics3 (SmolVLM) in MLX: a SigLIP tower over tiles, pixel shuffle, and the shared decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxtune.backends.mlx.decoder import Decoder
from mlxtune.families import ModelConfig
from mlxtune.families.idefics3 import patch_places
from mlxtune.types import Pixels


class Embeddings(nn.Module):
    def __init__(self, vision: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, self.patch = vision["hidden_size"], vision["patch_size"]
        self.side = vision["image_size"] // self.patch
        self.patch_embedding = nn.Conv2d(3, hidden, self.patch, stride=self.patch)
        self.position_embedding = nn.Embedding(self.side**2, hidden)

    def __call__(self, tiles: mx.array) -> mx.array:
        """tiles: [T, 3, H, W]. The convolution's stride is its kernel, so it is a matrix product of flat patches."""
        count, patch = tiles.shape[2] // self.patch, self.patch
        patches = tiles[:, :, : count * patch, : count * patch].reshape(-1, 3, count, patch, count, patch)
        patches = patches.transpose(0, 2, 4, 3, 5, 1).reshape(tiles.shape[0], count * count, -1)
        weight = self.patch_embedding.weight
        x = patches @ weight.reshape(weight.shape[0], -1).T + self.patch_embedding.bias
        return x + self.position_embedding(mx.array(patch_places(count, self.side)))


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
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
        return self.out_proj(out.transpose(0, 2, 1, 3).reshape(x.shape))


class Mlp(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(nn.gelu_approx(self.fc1(x)))


class EncoderLayer(nn.Module):
    def __init__(self, vision: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, eps = vision["hidden_size"], vision.get("layer_norm_eps", 1e-6)
        self.self_attn = Attention(hidden, vision["num_attention_heads"])
        self.mlp = Mlp(hidden, vision["intermediate_size"])
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
        self.post_layernorm = nn.LayerNorm(vision["hidden_size"], eps=vision.get("layer_norm_eps", 1e-6))

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


class Model(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = Inner(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.text["hidden_size"], config.text["vocab_size"], bias=False)

    @property
    def text(self) -> Decoder:
        return self.model.text_model

    def vision(self, pixels: Sequence[Pixels], dtype: mx.Dtype) -> mx.array:
        """[sum of tokens, hidden]: features of the pictures in order, tile by tile."""
        tiles = mx.array(np.concatenate([p.values for p in pixels])).astype(dtype)
        features = self.model.connector(self.model.vision_model(tiles))
        return features.reshape(-1, features.shape[-1])
