"""What MLX's CPU build computes one number at a time, exp above all (14 to 30 ns each on x86), from arithmetic that a compiler
turns into vector code."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

from mlxtune.backends.mlx.untraced import untraced

LOG2_E, LN_2 = math.log2(math.e), math.log(2)
# Minimax polynomial of 2 ** x on [-0.5, 0.5], from the lowest power; relative error 1e-7. Source: Cephes, exp2f.
_POWERS = (1.0, 6.931472028550421e-1, 2.402264791363012e-1, 5.550332471162809e-2)
_POWERS += (9.618437357674640e-3, 1.339887440266574e-3, 1.535336188319500e-4)
_ROUNDING = 1.5 * 2**23


def by_parts(dtype: mx.Dtype) -> bool:
    """Whether functions of such arrays are better built from these parts than taken from MLX."""
    return dtype == mx.float32 and mx.default_device().type == mx.DeviceType.cpu


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled, where there is the compiler that MLX calls for its CPU. No gradient goes through it: it is for the inside of an
    `mx.custom_function`, forward and back, and fused there too."""
    return partial(untraced, mx.compile(function)) if shutil.which("g++") else function


def exp2(x: mx.array) -> mx.array:
    """2 ** x, and 0 below -126.5; x at most 127."""
    # Below -126.5 the shifted exponent is 0, and with it the result. A smallest number instead would make a hidden key's
    # gradient denormal: matrix products with those take Intel's processors five times as long.
    x = mx.maximum(x, -127.0)
    # A sum that large has no digits left behind the point; `mx.round` would be a call for each number.
    whole = (x + _ROUNDING) - _ROUNDING
    rest = x - whole
    square = rest * rest
    # Estrin's order: MLX fuses eleven operations one behind the other, Horner's order has more and takes four passes.
    low, middle, high = (_POWERS[n] + _POWERS[n + 1] * rest for n in (0, 2, 4))
    power = low + square * middle + square * square * (high + square * _POWERS[6])
    return power * ((whole.astype(mx.int32) + 127) << 23).view(mx.float32)


def sigmoid(x: mx.array) -> mx.array:
    return 1 / (1 + exp2(mx.minimum(x * -LOG2_E, 126.0)))


@fused
def exp2_of_difference(x: mx.array, y: mx.array) -> mx.array:
    return exp2(x - y)
