"""What MLX's CPU build computes one number at a time, exp above all (14 to 30 ns each on x86), from arithmetic that a compiler
turns into vector code."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.backends.mlx.untraced import untraced

LOG2_E, LN_2 = math.log2(math.e), math.log(2)
# Minimax polynomial of 2 ** x on [-0.5, 0.5], from the lowest power; relative error 1e-7. Source: Cephes, exp2f.
_POWERS = (1.0, 6.931472028550421e-1, 2.402264791363012e-1, 5.550332471162809e-2)
_POWERS += (9.618437357674640e-3, 1.339887440266574e-3, 1.535336188319500e-4)
_ROUNDING = 1.5 * 2**23
_ROUNDING_BITS = int(np.float32(_ROUNDING).view(np.int32))
PARTS = 16  # of a row; see `row_highest`


def by_parts(dtype: mx.Dtype) -> bool:
    """Whether functions of such arrays are better built from these parts than taken from MLX."""
    return dtype == mx.float32 and mx.default_device().type == mx.DeviceType.cpu


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled, where there is the compiler that MLX calls for its CPU. No gradient goes through it: it is for the inside of an
    `mx.custom_function`, forward and back, and fused there too."""
    return partial(untraced, mx.compile(function)) if shutil.which("g++") else function


def sigmoid(x: mx.array) -> mx.array:
    """x from -1e12 to 1e12; not below 1e-38, where numbers are denormal."""
    return 1 / (1 + exp2(x * -LOG2_E, most=125))


def exp2(x: mx.array, *, most: int = 127) -> mx.array:
    """2 ** x, and 0 below -126.5; x from -1e13 to 127. most: what its exponent is bounded by, where x may be larger."""
    # A sum that large has no digits left behind the point, and its last bits are the whole number.
    whole = x + _ROUNDING
    rest = x - (whole - _ROUNDING)
    square = rest * rest
    # Estrin's order: MLX fuses eleven operations one behind the other, Horner's order has more and takes four passes.
    low, middle, high = (_POWERS[n] + _POWERS[n + 1] * rest for n in (0, 2, 4))
    power = low + square * middle + square * square * (high + square * _POWERS[6])
    # Bounded as bits: g++ makes no vector code of a float `maximum`, which looks for NaN. An exponent of 0 is the number 0. A
    # smallest number instead would make a hidden key's gradient denormal: matrix products with those take Intel's processors
    # five times as long.
    lowest = _ROUNDING_BITS - 127
    exponent = mx.minimum(mx.maximum(whole.view(mx.int32), lowest), _ROUNDING_BITS + most) - lowest
    return power * (exponent << 23).view(mx.float32)


exp2_fused = fused(exp2)


def row_sums(x: mx.array, times: float = 1.0) -> mx.array:
    """[..., N] float32 -> [..., 1], times a number. MLX's own sum goes number by number, ten times as long as a product."""
    return x @ mx.array(np.full((x.shape[-1], 1), times, np.float32))  # of numpy: no operation of its own


def row_highest(x: mx.array) -> mx.array:
    """[..., N] -> [..., 1]; over rows of parts first, which a compiler turns into vector code."""
    parts = x if x.shape[-1] % PARTS else x.reshape(*x.shape[:-1], PARTS, -1).max(-2)
    return parts.max(-1, keepdims=True)
