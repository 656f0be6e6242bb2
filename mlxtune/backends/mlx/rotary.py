"""Rotary positions: angles of a token's place, and queries or keys turned by them.

Source: Su et al. 2021 (arXiv 2104.09864).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.backends.mlx.course import at

Rotary = tuple[mx.array, mx.array]  # cos and sin of every angle, the first half of the sines negative; see `rotate`


def inverse_frequencies(dim: int, *, theta: float) -> np.ndarray:
    """[dim / 2] float32."""
    return (1.0 / (theta ** (np.arange(0, dim, 2, dtype=np.float32) / dim))).astype(np.float32)


def frequency_axes(frequencies: int, section: list[int] | None, *, interleaved: bool = False) -> np.ndarray:
    """Which position axis turns each frequency: [head_dim / 2] int32. M-RoPE shares them out, time first.

    interleaved: the axes take turns, and time takes what the others leave. Source: `recomposition_frequencies` of
    transformers' Qwen3-VL.
    """
    if not section:
        return np.zeros(frequencies, np.int32)
    if interleaved:
        places = np.arange(frequencies, dtype=np.int32)
        axes = places % len(section)
        return np.where(places < np.array(section)[axes] * len(section), axes, 0).astype(np.int32)
    return np.repeat(np.arange(len(section), dtype=np.int32), section)


def rotary(angles: mx.array, dtype: mx.Dtype) -> Rotary:
    """[..., dim / 2] -> two of [..., dim]."""
    cos, sin = mx.cos(angles).astype(dtype), mx.sin(angles).astype(dtype)
    return mx.concatenate([cos, cos], axis=-1), mx.concatenate([-sin, sin], axis=-1)


def turns_at(turns: Rotary, places: mx.array) -> Rotary:
    """Those of tokens at places [B, M] of the flattened [B * S]. turns: [B, 1, S, dim] each."""
    cos, sin = (at(part, places)[:, None] for part in turns)
    return cos, sin


@mx.custom_function
def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """x turned by the angles of its position; the two halves of the last axis are the pairs' members."""
    return _turned(x, cos, sin)


@rotate.vjp
def _turned_back(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """MLX's own way back through the halves copies each into an array of zeros. Angles get no gradient."""
    x, cos, sin = primals
    return _turned(cotangent, cos, -sin).astype(x.dtype), mx.zeros_like(cos), mx.zeros_like(sin)


def _turned(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    half = x.shape[-1] // 2
    return x * cos + mx.concatenate([x[..., half:], x[..., :half]], axis=-1) * sin
