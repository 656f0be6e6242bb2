"""Qwen2.5-VL in MLX: a vision tower with window attention, a 2 x 2 merger, and the shared decoder with M-RoPE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxtune.backends.mlx.activations import gelu
from mlxtune.backends.mlx.attention import Visible, attention
from mlxtune.backends.mlx.decoder import Decoder, Mlp
from mlxtune.backends.mlx.model import Model
from mlxtune.backends.mlx.norm import RMSNorm
from mlxtune.backends.mlx.rotary import Rotary, inverse_frequencies, rotary, rotate
from mlxtune.families import ModelConfig
from mlxtune.families.qwen2_5_vl import Segments, vision_layout
from mlxtune.types import Pixels


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel: a matrix product of flat patches."""

    def __init__(self, hidden: int, patch: int, frames: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, hidden, (frames, patch, patch), bias=False)

    def __call__(self, patches: mx.array) -> mx.array:
        weight = self.proj.weight  # [hidden, t, h, w, 3]; the patches are flattened from [3, t, h, w]
        return patches @ weight.transpose(0, 4, 1, 2, 3).reshape(weight.shape[0], -1).T


class VisionAttention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, hidden * 3)
        self.proj = nn.Linear(hidden, hidden)

    def __call__(self, x: mx.array, turns: Rotary, segments: Segments) -> mx.array:
        """x: [patches, hidden]; a patch sees its own segment. All segments are one batch, padded to the longest."""
        qkv, (groups, longest) = self.qkv(x), segments.places.shape
        mask = None
        if not segments.valid.all():
            places = mx.array(segments.places.reshape(-1))
            qkv, turns = qkv[places], (turns[0][places], turns[1][places])
            mask = Visible.of(segments.valid[:, None])
        q, k, v = qkv.reshape(groups, longest, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)  # each [G, heads, M, dim]
        angles = [part.reshape(groups, 1, longest, *part.shape[-2:]) for part in turns]
        q, k = (rotate(t, *angles).astype(x.dtype) for t in (q, k))
        out = attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask).reshape(groups * longest, -1)
        return self.proj(out if mask is None else out[mx.array(segments.back)])


class VisionBlock(nn.Module):
    """norm, mlp: the parts in which the towers of Qwen differ."""

    def __init__(self, hidden: int, heads: int, *, norm: type[nn.RMSNorm | nn.LayerNorm], mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(hidden, eps=1e-6), norm(hidden, eps=1e-6)
        self.attn = VisionAttention(hidden, heads)
        self.mlp = mlp

    def __call__(self, x: mx.array, turns: Rotary, segments: Segments) -> mx.array:
        x = x + self.attn(self.norm1(x), turns, segments)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """norm: with its sizes set; the only part in which Qwen2-VL's differs."""

    def __init__(self, norm: nn.Module, hidden: int, out: int, unit: int) -> None:
        super().__init__()
        self.unit = unit
        self.ln_q = norm
        self.mlp = [nn.Linear(hidden * unit, hidden * unit), gelu, nn.Linear(hidden * unit, out)]

    def __call__(self, x: mx.array) -> mx.array:
        x = self.ln_q(x).reshape(x.shape[0] // self.unit, -1)
        for layer in self.mlp:
            x = layer(x)
        return x


def patch_frequencies(vision: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """[head_dim / 4] float32; rows and columns turn half of a head's pairs each."""
    theta = (vision.get("rope_parameters") or {}).get("rope_theta", 10_000.0)
    return inverse_frequencies(head_dim // 2, theta=theta)


def patch_rotary(places: np.ndarray, frequencies: np.ndarray) -> Rotary:
    """Of [P, head_dim / 2] angles, float32. places: [P, 2], row and column of each patch."""
    angles = (places[:, :, None] * frequencies).reshape(len(places), -1)  # [P, head_dim / 2]
    return rotary(mx.array(angles), mx.float32)


class VisionTower(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vision = config.vision
        hidden, heads = vision["hidden_size"], vision["num_heads"]
        self.patch, self.merge = vision.get("patch_size", 14), vision.get("spatial_merge_size", 2)
        self.window, self.full_blocks = vision["window_size"], set(vision["fullatt_block_indexes"])
        self.patch_embed = PatchEmbed(hidden, self.patch, vision.get("temporal_patch_size", 2))
        inner = vision["intermediate_size"]
        self.blocks = [
            VisionBlock(hidden, heads, norm=RMSNorm, mlp=Mlp(hidden, inner, bias=True)) for _ in range(vision["depth"])
        ]
        self.merger = PatchMerger(RMSNorm(hidden, eps=1e-6), hidden, vision["out_hidden_size"], self.merge**2)
        self._frequencies = patch_frequencies(vision, hidden // heads)

    def __call__(self, patches: mx.array, grids: Sequence[tuple[int, ...]]) -> mx.array:
        """patches: [P, 3 * t * h * w] of all pictures. Gives [P / 4, out_hidden], in the pictures' own order."""
        layout = vision_layout(grids, merge=self.merge, window=self.window // self.merge // self.patch)
        unit = self.merge**2
        order = (layout.order[:, None] * unit + np.arange(unit)).reshape(-1)
        x = self.patch_embed(patches[mx.array(order)])
        turns = patch_rotary(layout.places_2d[order], self._frequencies)
        for number, block in enumerate(self.blocks):
            x = block(x, turns, layout.pictures if number in self.full_blocks else layout.windows)
        return self.merger(x)[mx.array(np.argsort(layout.order))]


class Inner(nn.Module):
    def __init__(self, tower: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.visual, self.language_model = tower, decoder


class Qwen2_5_VL(Model):
    """The other Qwens are this one with another tower or decoder."""

    tower: type[nn.Module] = VisionTower

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, Inner(self.tower(config), self.decoder(config)))

    @staticmethod
    def decoder(config: ModelConfig) -> Decoder:
        return Decoder(config.text, attention_bias=True)

    @property
    def text(self) -> Decoder:
        return self.model.language_model

    def vision(self, pixels: Sequence[Pixels], dtype: mx.Dtype) -> mx.array:
        """[sum of tokens, hidden]: features of the pictures in order."""
        values = mx.array(np.concatenate([p.values for p in pixels])).astype(dtype)
        return self.model.visual(values, [p.grid for p in pixels])
