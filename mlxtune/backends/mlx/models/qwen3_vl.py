"""Qwen3-VL in MLX: a vision tower with learned and rotary positions, mergers at several depths, and the shared decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.activations import gelu, gelu_tanh
from mlxtune.backends.mlx.course import Course, Leg
from mlxtune.backends.mlx.decoder import Decoder
from mlxtune.backends.mlx.model import Inputs, placed
from mlxtune.backends.mlx.models.qwen2_5_vl import Qwen2_5_VL, VisionBlock, patch_frequencies, patch_rotary
from mlxtune.families import ModelConfig
from mlxtune.families.qwen2_5_vl import patch_places, picture_segments
from mlxtune.families.qwen3_vl import stretched_positions


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel: a matrix product of flat patches."""

    def __init__(self, hidden: int, patch: int, frames: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, hidden, (frames, patch, patch))

    def __call__(self, patches: mx.array) -> mx.array:
        weight = self.proj.weight  # [hidden, t, h, w, 3]; the patches are flattened from [3, t, h, w]
        return patches @ weight.transpose(0, 4, 1, 2, 3).reshape(weight.shape[0], -1).T + self.proj.bias


class VisionMlp(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.linear_fc1, self.linear_fc2 = nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_fc2(gelu_tanh(self.linear_fc1(x)))


class PatchMerger(nn.Module):
    """merged_norm: whether the norm sees the patches of a token as one row (earlier blocks) or each its own (the last)."""

    def __init__(self, hidden: int, out: int, unit: int, *, merged_norm: bool) -> None:
        super().__init__()
        self.width, self.merged_norm = hidden * unit, merged_norm
        self.norm = nn.LayerNorm(self.width if merged_norm else hidden, eps=1e-6)
        self.linear_fc1, self.linear_fc2 = nn.Linear(self.width, self.width), nn.Linear(self.width, out)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.norm(x.reshape(-1, self.width) if self.merged_norm else x).reshape(-1, self.width)
        return self.linear_fc2(gelu(self.linear_fc1(x)))


class VisionTower(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vision = config.vision
        hidden, heads, out = vision["hidden_size"], vision["num_heads"], vision["out_hidden_size"]
        self.merge, self.side = vision["spatial_merge_size"], math.isqrt(vision["num_position_embeddings"])
        self.levels = list(vision["deepstack_visual_indexes"])
        self.patch_embed = PatchEmbed(hidden, vision["patch_size"], vision["temporal_patch_size"])
        self.pos_embed = nn.Embedding(vision["num_position_embeddings"], hidden)
        inner = vision["intermediate_size"]
        self.blocks = [
            VisionBlock(hidden, heads, norm=nn.LayerNorm, mlp=VisionMlp(hidden, inner)) for _ in range(vision["depth"])
        ]
        self.merger = PatchMerger(hidden, out, self.merge**2, merged_norm=False)
        self.deepstack_merger_list = [PatchMerger(hidden, out, self.merge**2, merged_norm=True) for _ in self.levels]
        self._frequencies = patch_frequencies(vision, hidden // heads)

    def __call__(self, patches: mx.array, grids: Sequence[tuple[int, ...]]) -> mx.array:
        """patches: [P, 3 * t * h * w] of all pictures. Gives [P / 4, out * (1 + levels)], the last features first."""
        rows, weights = (mx.array(part) for part in stretched_positions(grids, merge=self.merge, side=self.side))
        learned = (self.pos_embed(rows) * weights[..., None]).sum(1)  # [P, hidden] float32
        x = self.patch_embed(patches) + learned.astype(patches.dtype)
        turns = patch_rotary(patch_places(grids, merge=self.merge), self._frequencies)
        segments, earlier = picture_segments(grids), []
        for number, block in enumerate(self.blocks):
            x = block(x, turns, segments)
            if number in self.levels:
                earlier.append(self.deepstack_merger_list[self.levels.index(number)](x))
        return mx.concatenate([self.merger(x), *earlier], axis=-1)


class Qwen3VL(Qwen2_5_VL):
    tower = VisionTower

    @staticmethod
    def decoder(config: ModelConfig) -> Decoder:
        # What transformers takes where the file is silent; without sections, positions would have one axis.
        text = {**config.text, "mrope_section": config.text["mrope_section"] or [24, 20, 20]}
        return Decoder(text, attention_bias=False, head_norms=True, interleaved=True)

    def course(self, inputs: Inputs) -> Course:
        plain = super().course(inputs)
        width = self.text.embed_tokens.weight.shape[-1]
        levels = 0 if inputs.features is None else inputs.features.shape[-1] // width - 1
        assert levels < len(plain.legs), "a level of features has no layer to be added behind"

        def deeper(leg: Leg, level: int) -> Leg:
            def run(x: mx.array, features: mx.array) -> mx.array:
                return leg.run(x, features) + placed(inputs, features, width=width, level=level)[0].astype(x.dtype)

            return Leg(leg.layer, run)

        first = [deeper(leg, level) for level, leg in enumerate(plain.legs[:levels], start=1)]
        return replace(plain, legs=[*first, *plain.legs[levels:]])
