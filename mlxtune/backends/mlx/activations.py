"""Activations: MLX's own on a GPU, and on its CPU the same from `vector`."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.lanes import settled
from mlxtune.backends.mlx.vector import LOG2_E, by_parts, exp2, fused, sigmoid


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up."""
    return settled(_swiglu(gate, up)) if by_parts(gate.dtype) else nn.silu(gate) * up


def gelu(x: mx.array) -> mx.array:
    """x Phi(x), where Phi is the normal distribution. Source: Hendrycks and Gimpel 2016 (arXiv 1606.08415)."""
    return settled(_gelu_erf(x)) if by_parts(x.dtype) else nn.gelu(x)


def gelu_tanh(x: mx.array) -> mx.array:
    """Its approximation by tanh. Source: as above."""
    return settled(_gelu_sigmoid(x, 2 * math.sqrt(2 / math.pi), 0.044715)) if by_parts(x.dtype) else nn.gelu_approx(x)


def gelu_quick(x: mx.array) -> mx.array:
    """x sigmoid(1.702 x). Source: as above."""
    return settled(_gelu_sigmoid(x, 1.702, 0.0)) if by_parts(x.dtype) else nn.gelu_fast_approx(x)


@mx.custom_function
def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return _swiglu_forward(gate, up)


@_swiglu.vjp
def _swiglu_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    return _swiglu_backward(*primals, cotangent)


@fused
def _swiglu_forward(gate: mx.array, up: mx.array) -> mx.array:
    return gate * sigmoid(gate) * up


@fused
def _swiglu_backward(gate: mx.array, up: mx.array, d_out: mx.array) -> tuple[mx.array, mx.array]:
    share = sigmoid(gate)
    return d_out * up * share * (1 + gate * (1 - share)), d_out * gate * share


def _gelu_sigmoid(x: mx.array, slope: float, cubic: float) -> mx.array:
    """x sigmoid(slope (x + cubic x^3))."""

    @mx.custom_function
    def gelu(x: mx.array) -> mx.array:
        return _gelu_sigmoid_forward(x, slope, cubic)

    @gelu.vjp
    def backward(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return _gelu_sigmoid_backward(x, cotangent, slope, cubic)

    return gelu(x)


@fused
def _gelu_sigmoid_forward(x: mx.array, slope: float, cubic: float) -> mx.array:
    return x * sigmoid(slope * (x + cubic * x * x * x))


@fused
def _gelu_sigmoid_backward(x: mx.array, d_out: mx.array, slope: float, cubic: float) -> mx.array:
    share = sigmoid(slope * (x + cubic * x * x * x))
    return d_out * share * (1 + x * (1 - share) * slope * (1 + 3 * cubic * x * x))


@mx.custom_function
def _gelu_erf(x: mx.array) -> mx.array:
    return _gelu_erf_forward(x)


@_gelu_erf.vjp
def _gelu_erf_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
    return _gelu_erf_backward(x, cotangent)


@fused
def _gelu_erf_forward(x: mx.array) -> mx.array:
    return x * _normal(x)


@fused
def _gelu_erf_backward(x: mx.array, d_out: mx.array) -> mx.array:
    density = exp2(x * x * (-0.5 * LOG2_E)) * (1 / math.sqrt(2 * math.pi))
    return d_out * (_normal(x) + x * density)


def _normal(x: mx.array) -> mx.array:
    """The normal distribution's share below x, to 1e-7. Source: Abramowitz and Stegun 1964, 7.1.26, for erf."""
    size = mx.abs(x) * math.sqrt(0.5)
    part, tail = 1 / (1 + 0.3275911 * size), 1.061405429
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail = tail * part + coefficient
    above = 0.5 * tail * part * exp2(size * size * -LOG2_E)  # erfc(size) / 2
    # No `where`: it is ten times slower than arithmetic here.
    return above + (x >= 0).astype(x.dtype) * (1 - 2 * above)
