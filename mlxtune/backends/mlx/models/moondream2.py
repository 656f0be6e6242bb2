"""Moondream 2 in MLX: a SigLIP tower over crops that become one grid, and a phi text model; both layouts.

Parameter names are those published in 2025; the layout of 2024 has the same modules under other names.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxtune.backends.mlx.activations import gelu_tanh
from mlxtune.backends.mlx.attention import Mask, attention, narrowed
from mlxtune.backends.mlx.cache import KVCache
from mlxtune.backends.mlx.course import Leg, at, legs_of
from mlxtune.backends.mlx.model import Model
from mlxtune.backends.mlx.rotary import Rotary, inverse_frequencies, rotary, rotate, turns_at
from mlxtune.families import ModelConfig
from mlxtune.families.moondream2_crops import Sizes, assembly, sizes
from mlxtune.types import Pixels
from mlxtune.wanted_rows import WantedRows

_THETA = 10_000.0


class Attention(nn.Module):
    """One projection for queries, keys and values."""

    def __init__(self, hidden: int, *, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, hidden // heads
        self.qkv = nn.Linear(hidden, (heads + 2 * kv_heads) * self.head_dim)
        self.proj = nn.Linear(hidden, hidden)

    def __call__(self, x: mx.array) -> mx.array:
        return self.proj(self.attended(x))

    def attended(
        self,
        x: mx.array,
        turns: Rotary | None = None,
        mask: Mask = None,
        cache: KVCache | None = None,
        rows: WantedRows | None = None,
    ) -> mx.array:
        """What the output projection takes: [B, S, heads * D], or [N, heads * D] of the wanted rows."""
        ends = [self.heads * self.head_dim, (self.heads + self.kv_heads) * self.head_dim]
        q, k, v = mx.split(self.qkv(x), ends, axis=-1)
        q, k, v = self._split(q if rows is None else at(q, rows.queries)), self._split(k), self._split(v)
        if turns is not None:
            q, k = _turned(q, turns if rows is None else turns_at(turns, rows.queries)), _turned(k, turns)
        q, k, v = (part.swapaxes(1, 2) for part in (q, k, v))
        if cache is not None:
            k, v = cache.append(k, v)
        if rows is not None:
            mask = narrowed(mask, rows.queries, width=x.shape[1], keys=k.shape[2])
        out = attention(q, k, v, scale=self.head_dim**-0.5, mask=mask)
        return out if rows is None else at(out, rows.back)

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], -1, self.head_dim)


def _turned(x: mx.array, turns: Rotary) -> mx.array:
    """phi turns the first dimensions of each head alone."""
    dim = 2 * turns[0].shape[-1]
    return mx.concatenate([rotate(x[..., :dim], *turns), x[..., dim:]], axis=-1)


class Mlp(nn.Module):
    def __init__(self, size_in: int, inner: int, size_out: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(size_in, inner), nn.Linear(inner, size_out)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(gelu_tanh(self.fc1(x)))


class TextBlock(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(s.hidden)
        self.attn = Attention(s.hidden, heads=s.heads, kv_heads=s.kv_heads)
        self.mlp = Mlp(s.hidden, s.inner, s.hidden)

    def __call__(self, x: mx.array, turns: Rotary, mask: Mask, cache: KVCache | None, rows: WantedRows | None) -> mx.array:
        """x: [B, S, hidden]. Gives the same, or [N, hidden] of the wanted rows."""
        normed = self.ln(x)
        seen = self.attn.attended(normed, turns, mask, cache, rows)
        if rows is not None:
            x, normed = at(x, rows.places), at(normed, rows.places)
        return x + self.attn.proj(seen) + self.mlp(normed)


class Text(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.wte = mx.zeros((s.vocabulary, s.hidden))
        self.blocks = [TextBlock(s) for _ in range(s.layers)]
        self.post_ln = nn.LayerNorm(s.hidden)
        self.lm_head = nn.Linear(s.hidden, s.vocabulary)
        self._frequencies = inverse_frequencies(s.rotary_dim, theta=_THETA)

    def embed_tokens(self, ids: mx.array) -> mx.array:
        return self.wte[ids]

    def legs(self, positions: mx.array, mask: Mask, caches: Sequence[KVCache] | None, rows: WantedRows | None) -> list[Leg]:
        """Of the blocks. positions: [1, B, S]. rows: see `Inputs`."""
        angles = positions[0].astype(mx.float32)[..., None] * mx.array(self._frequencies)
        turns = rotary(angles[:, :, None], self.post_ln.weight.dtype)  # of [B, S, 1, rotary_dim / 2] angles
        return legs_of(self.blocks, lambda block, x, cache, rows: block(x, turns, mask, cache, rows), caches, rows)

    @property
    def norm(self) -> nn.Module:
        return self.post_ln


class VisionBlock(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(s.vision_hidden), nn.LayerNorm(s.vision_hidden)
        self.attn = Attention(s.vision_hidden, heads=s.vision_heads, kv_heads=s.vision_heads)
        self.mlp = Mlp(s.vision_hidden, s.vision_inner, s.vision_hidden)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Vision(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self._sizes = s
        self.patch_emb = nn.Linear(3 * s.patch**2, s.vision_hidden)
        self.pos_emb = mx.zeros((1, s.side**2, s.vision_hidden))
        self.blocks = [VisionBlock(s) for _ in range(s.vision_layers)]
        self.post_ln = nn.LayerNorm(s.vision_hidden)
        self.proj_mlp = Mlp(s.views * s.vision_hidden, s.projector_inner, s.hidden)

    def __call__(self, crops: mx.array, pixels: Sequence[Pixels]) -> mx.array:
        """crops: [C, 3, crop, crop] of all pictures. Gives [sum of tokens, hidden]."""
        tower = mx.split(self.tower(crops), np.cumsum([len(p.values) for p in pixels])[:-1].tolist())
        whole = mx.concatenate([crops[0] for crops in tower])
        if self._sizes.views == 1:
            return self.proj_mlp(whole)
        cut = [self._pooled(crops[1:], p.grid) if len(crops) > 1 else crops[0] for crops, p in zip(tower, pixels, strict=True)]
        return self.proj_mlp(mx.concatenate([whole, mx.concatenate(cut)], axis=-1))

    def tower(self, crops: mx.array) -> mx.array:
        """[C, 3, crop, crop] -> [C, side * side, vision_hidden]."""
        side, patch = self._sizes.side, self._sizes.patch
        patches = crops.reshape(-1, 3, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5).reshape(len(crops), side**2, -1)
        x = self.patch_emb(patches) + self.pos_emb
        for block in self.blocks:
            x = block(x)
        return self.post_ln(x)

    def _pooled(self, crops: mx.array, tiling: tuple[int, ...]) -> mx.array:
        """[rows * columns, side * side, width] of one picture's crops -> [side * side, width]."""
        places, down, across = assembly(tiling, side=self._sizes.side, margin=self._sizes.margin)
        grid = crops.reshape(-1, crops.shape[-1])[mx.array(places)].reshape(down.shape[1], across.shape[1], -1)
        rows = (mx.array(down).astype(grid.dtype) @ grid.reshape(len(grid), -1)).reshape(len(down), *grid.shape[1:])
        return (mx.array(across).astype(grid.dtype) @ rows).reshape(-1, grid.shape[-1])


class Inner(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.text, self.vision = Text(s), Vision(s)


class Moondream2(Model):
    def __init__(self, config: ModelConfig) -> None:
        nn.Module.__init__(self)  # the output head lies in the text model, and is never tied
        self.model = Inner(sizes(config))

    @property
    def text(self) -> Text:
        return self.model.text

    def head(self, hidden: mx.array) -> mx.array:
        return self.text.lm_head(hidden)

    def new_caches(self, room: int) -> list[KVCache]:
        return [KVCache(room) for _ in self.text.blocks]

    def vision(self, pixels: Sequence[Pixels], dtype: mx.Dtype) -> mx.array:
        return self.model.vision(mx.array(np.concatenate([p.values for p in pixels])).astype(dtype), pixels)
