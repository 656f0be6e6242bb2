"""Rotary positions: angles of a token's place, and queries or keys turned by them.

Source: Su et al. 2021 (arXiv 2104.09864).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

Rotary = tuple[mx.array, mx.array]  # cos of every angle; -sin and sin, for the two halves of what is turned; see `rotate`


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
    """[..., dim / 2] -> [..., 1, dim / 2] and [..., 2, dim / 2]."""
    cos, sin = mx.cos(angles).astype(dtype), mx.sin(angles).astype(dtype)
    return cos[..., None, :], mx.stack([-sin, sin], axis=-2)


def turns_at(turns: Rotary, places: mx.array) -> Rotary:
    """Those of tokens at places [B, M] of the flattened [B * S]. turns: of [B, S, 1, dim / 2] angles."""
    cos, sin = (part.reshape(-1, *part.shape[-3:])[places] for part in turns)
    return cos, sin


@mx.custom_function
def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """x turned by the angles of its position; the two halves of the last axis are the pairs' members."""
    return _turned(x, cos, sin)


@rotate.vjp
def _turned_back(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """MLX's own way back through the halves copies each into an array of zeros. Angles get no gradient."""
    x, cos, sin = primals
    return _turned(cotangent, cos, sin[..., ::-1, :]).astype(x.dtype), mx.zeros_like(cos), mx.zeros_like(sin)


def _turned(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    # Halves change places by a step of -1, which copies nothing.
    halves = mx.unflatten(x, -1, (2, -1))
    return mx.flatten(halves * cos + halves[..., ::-1, :] * sin, -2)
