"""RMSNorm: MLX's own on a GPU; on its CPU from products, forward and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.vector import by_parts, row_sums


class RMSNorm(nn.RMSNorm):
    """Its weight is frozen."""

    def __call__(self, x: mx.array) -> mx.array:
        return _normed(self.weight, self.eps)(x)[0] if by_parts(x.dtype) else super().__call__(x)


def _normed(weight: mx.array, eps: float) -> Callable[[mx.array], tuple[mx.array, mx.array]]:
    @mx.custom_function
    def normed(x: mx.array) -> tuple[mx.array, mx.array]:
        """x over its root mean square, times the weight; and 1 over that root, for the way back."""
        over = mx.rsqrt(row_sums(x * x, 1 / x.shape[-1]) + eps)
        return x * over * weight, over

    @normed.vjp
    def back(x: mx.array, cotangents: Any, outputs: Any) -> mx.array:
        d_x, over = cotangents[0] * weight, outputs[1]
        shared = row_sums(d_x * x, -1 / x.shape[-1]) * (over * over)
        return (d_x + x * shared) * over

    return normed
