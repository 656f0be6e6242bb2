"""Qwen2-VL in MLX: a vision tower whose patches see their whole picture, a 2 x 2 merger, and the shared decoder with M-RoPE."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.activations import gelu_quick
from mlxtune.backends.mlx.models.qwen2_5_vl import (
    PatchEmbed,
    PatchMerger,
    Qwen2_5_VL,
    VisionBlock,
    patch_frequencies,
    patch_rotary,
)
from mlxtune.families import ModelConfig
from mlxtune.families.qwen2_5_vl import patch_places, picture_segments


class VisionMlp(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(gelu_quick(self.fc1(x)))  # what transformers calls quick_gelu


class VisionTower(nn.Module):
    """`embed_dim` is the tower's width; what its configuration calls `hidden_size` is the language model's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vision = config.vision
        hidden, heads = vision["embed_dim"], vision["num_heads"]
        self.merge = vision.get("spatial_merge_size", 2)
        self.patch_embed = PatchEmbed(hidden, vision.get("patch_size", 14), vision.get("temporal_patch_size", 2))
        inner = int(hidden * vision["mlp_ratio"])
        self.blocks = [
            VisionBlock(hidden, heads, norm=nn.LayerNorm, mlp=VisionMlp(hidden, inner)) for _ in range(vision["depth"])
        ]
        self.merger = PatchMerger(nn.LayerNorm(hidden, eps=1e-6), hidden, vision["hidden_size"], self.merge**2)
        self._frequencies = patch_frequencies(vision, hidden // heads)

    def __call__(self, patches: mx.array, grids: Sequence[tuple[int, ...]]) -> mx.array:
        """patches: [P, 3 * t * h * w] of all pictures. Gives [P / 4, hidden], in the pictures' order."""
        x, segments = self.patch_embed(patches), picture_segments(grids)
        turns = patch_rotary(patch_places(grids, merge=self.merge), self._frequencies)
        for block in self.blocks:
            x = block(x, turns, segments)
        return self.merger(x)


class Qwen2VL(Qwen2_5_VL):
    """Qwen2.5-VL's forwards, over another tower."""

    tower = VisionTower
