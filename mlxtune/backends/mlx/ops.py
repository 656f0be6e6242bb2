"""Attention and activations: MLX's own kernels on a GPU, and on its CPU build the same from parts that are fast there.

That build computes exp, tanh and erf one number at a time (14 to 30 ns each on x86), and attention over whole matrices of
scores, masked or not. Here 2 ** x is a polynomial that a compiler turns into vector code, and attention goes through the queries
some rows at a time, as far as they see, and keeps no scores for the way back.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

_SCORES = 2**18  # of a block, in numbers: what stays in a core's cache
_LOG2_E, _LN_2 = math.log2(math.e), math.log(2)
_HIDDEN = 1e9  # taken from the score of a key that is not seen
# Minimax polynomial of 2 ** x on [-0.5, 0.5], from the highest power; relative error 1e-7. Source: Cephes, exp2f.
_POLYNOMIAL = (1.535336188319500e-4, 1.339887440266574e-3, 9.618437357674640e-3, 5.550332471162809e-2)
_POLYNOMIAL += (2.402264791363012e-1, 6.931472028550421e-1, 1.0)
_ROUNDING = 1.5 * 2**23


@dataclass(frozen=True)
class Visible:
    """Who sees whom. allowed: [B or 1, 1, S or 1, T] bool. reach: [S or 1], the keys that a query and those before it look at."""

    allowed: mx.array
    reach: tuple[int, ...] | None = None

    @classmethod
    def of(cls, allowed: np.ndarray) -> Visible:
        """allowed: [B or 1, S or 1, T] bool; 1: the same for all queries."""
        return cls(mx.array(allowed)[:, None], reach_of(allowed))


def reach_of(allowed: np.ndarray) -> tuple[int, ...]:
    """`Visible.reach` of [B or 1, S or 1, T] bool."""
    seen = allowed.any(0)
    last = np.where(seen.any(-1), seen.shape[-1] - np.argmax(seen[:, ::-1], axis=-1), 0)
    return tuple(np.maximum.accumulate(last).tolist())


Mask = Visible | str | None  # "causal": every key up to the query's own, which are the last ones; None: all keys
Block = tuple[int, int, int]  # first query, last query + 1, keys that they reach


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None) -> mx.array:
    """softmax(q k^T scale) v, [B, heads, S, D]. q: [B, heads, S, D]. k, v: [B, kv_heads, T, D]."""
    if not _by_parts(q):
        allowed = mask.allowed if isinstance(mask, Visible) else mask
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=allowed)
    queries, keys = q.shape[2], k.shape[2]
    if mask == "causal":
        mask = _causal(queries, keys) if queries > 1 else None
    bias = None if mask is None else ((mask.allowed.astype(mx.float32) - 1) * _HIDDEN)[:, :, None]
    grouped = (q * (scale * _LOG2_E)).reshape(q.shape[0], k.shape[1], -1, queries, q.shape[3])
    rows = min(max(_SCORES // (q.shape[0] * q.shape[1] * keys), 32), 128)
    return _blockwise(tuple(_blocks(queries, keys, mask, rows=rows)), bias)(grouped, k, v)[0].reshape(q.shape)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up."""
    return _swiglu(gate, up) if _by_parts(gate) else nn.silu(gate) * up


def gelu(x: mx.array) -> mx.array:
    """x Phi(x), where Phi is the normal distribution. Source: Hendrycks and Gimpel 2016 (arXiv 1606.08415)."""
    return _gelu_erf(x) if _by_parts(x) else nn.gelu(x)


def gelu_tanh(x: mx.array) -> mx.array:
    """Its approximation by tanh. Source: as above."""
    return _gelu_sigmoid(x, 2 * math.sqrt(2 / math.pi), 0.044715) if _by_parts(x) else nn.gelu_approx(x)


def gelu_quick(x: mx.array) -> mx.array:
    """x sigmoid(1.702 x). Source: as above."""
    return _gelu_sigmoid(x, 1.702, 0.0) if _by_parts(x) else nn.gelu_fast_approx(x)


def _by_parts(x: mx.array) -> bool:
    return x.dtype == mx.float32 and mx.default_device().type == mx.DeviceType.cpu


def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled, where there is the compiler that MLX calls for its CPU."""
    return mx.compile(function) if shutil.which("g++") else function


# -- attention ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _causal_seen(queries: int, keys: int) -> np.ndarray:
    # In numpy: an array of MLX that is made while a step is traced must not outlive it.
    return np.tril(np.ones((1, 1, queries, keys), bool), keys - queries)


def _causal(queries: int, keys: int) -> Visible:
    return Visible(mx.array(_causal_seen(queries, keys)), tuple(range(keys - queries + 1, keys + 1)))


def _blocks(queries: int, keys: int, mask: Visible | None, *, rows: int) -> Iterator[Block]:
    for start in range(0, queries, rows):
        end = min(start + rows, queries)
        yield start, end, keys if mask is None or mask.reach is None else mask.reach[min(end, len(mask.reach)) - 1]


def _blockwise(blocks: tuple[Block, ...], bias: mx.array | None) -> Callable[..., tuple[mx.array, mx.array]]:
    """(q, k, v) -> (out, log2 of each query's sum); q and out [B, kv_heads, group, S, D], q scaled for powers of 2.

    Source: FlashAttention, Dao et al. 2022 (arXiv 2205.14135), without its tiling of the keys.
    """

    def scores(q: mx.array, k: mx.array, block: Block) -> mx.array:
        """[B, kv_heads, group, rows, reach]."""
        start, end, reach = block
        found = q[:, :, :, start:end] @ k[:, :, None, :reach].swapaxes(-1, -2)
        if bias is None:
            return found
        return found + (bias if bias.shape[-2] == 1 else bias[..., start:end, :])[..., :reach]

    @mx.custom_function
    def attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        outs, sums = [], []
        for block in blocks:
            found = scores(q, k, block)
            highest = found.max(-1, keepdims=True)
            powers = _exp2_of_difference(found, highest)
            total = powers.sum(-1, keepdims=True)
            outs.append((powers @ v[:, :, None, : block[2]]) / total)
            sums.append(highest + mx.log2(total))
        return mx.concatenate(outs, axis=3), mx.concatenate(sums, axis=3)

    @attend.vjp
    def backward(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array, mx.array]:
        q, k, v = primals
        (d_out, _), (out, sums) = cotangents, outputs
        carried = (d_out * out).sum(-1, keepdims=True)
        d_q, d_k, d_v = [], mx.zeros_like(k), mx.zeros_like(v)
        for block in blocks:
            start, end, reach = block
            part, keys = (slice(None), slice(None), slice(None), slice(start, end)), k[:, :, None, :reach]
            shares = _exp2_of_difference(scores(q, k, block), sums[part])
            d_shares = d_out[part] @ v[:, :, None, :reach].swapaxes(-1, -2)
            d_scores = _scaled_difference(shares, d_shares, carried[part])
            d_q.append(d_scores @ keys)
            rest = [(0, 0), (0, 0), (0, k.shape[2] - reach), (0, 0)]
            d_k = d_k + mx.pad(_summed(d_scores, q[part]), rest)
            d_v = d_v + mx.pad(_summed(shares, d_out[part]), rest)
        return mx.concatenate(d_q, axis=3) * _LN_2, d_k * _LN_2, d_v

    return attend


def _summed(left: mx.array, right: mx.array) -> mx.array:
    """left^T right over rows and the heads of a group. [B, K, group, rows, T], [B, K, group, rows, D] -> [B, K, T, D]."""
    left, right = (x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in (left, right))
    return left.swapaxes(-1, -2) @ right


# -- functions of one number --------------------------------------------------------------------------------------


def _exp2(x: mx.array) -> mx.array:
    # Below -126.5 the shifted exponent is 0, and with it the result. A smallest number instead would make a hidden key's
    # gradient denormal: matrix products with those take Intel's processors five times as long.
    x = mx.maximum(x, -127.0)
    # A sum that large has no digits left behind the point; `mx.round` would be a call for each number.
    whole = (x + _ROUNDING) - _ROUNDING
    rest, power = x - whole, _POLYNOMIAL[0]
    for coefficient in _POLYNOMIAL[1:]:
        power = power * rest + coefficient
    return power * ((whole.astype(mx.int32) + 127) << 23).view(mx.float32)


def _sigmoid(x: mx.array) -> mx.array:
    return 1 / (1 + _exp2(mx.minimum(x * -_LOG2_E, 126.0)))


@_fused
def _exp2_of_difference(x: mx.array, y: mx.array) -> mx.array:
    return _exp2(x - y)


@_fused
def _scaled_difference(scale: mx.array, x: mx.array, y: mx.array) -> mx.array:
    return scale * (x - y)


@mx.custom_function
def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return _swiglu_forward(gate, up)


@_swiglu.vjp
def _swiglu_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    return _swiglu_backward(*primals, cotangent)


@_fused
def _swiglu_forward(gate: mx.array, up: mx.array) -> mx.array:
    return gate * _sigmoid(gate) * up


@_fused
def _swiglu_backward(gate: mx.array, up: mx.array, d_out: mx.array) -> tuple[mx.array, mx.array]:
    share = _sigmoid(gate)
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


@_fused
def _gelu_sigmoid_forward(x: mx.array, slope: float, cubic: float) -> mx.array:
    return x * _sigmoid(slope * (x + cubic * x * x * x))


@_fused
def _gelu_sigmoid_backward(x: mx.array, d_out: mx.array, slope: float, cubic: float) -> mx.array:
    share = _sigmoid(slope * (x + cubic * x * x * x))
    return d_out * share * (1 + x * (1 - share) * slope * (1 + 3 * cubic * x * x))


@mx.custom_function
def _gelu_erf(x: mx.array) -> mx.array:
    return _gelu_erf_forward(x)


@_gelu_erf.vjp
def _gelu_erf_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
    return _gelu_erf_backward(x, cotangent)


@_fused
def _gelu_erf_forward(x: mx.array) -> mx.array:
    return x * _normal(x)


@_fused
def _gelu_erf_backward(x: mx.array, d_out: mx.array) -> mx.array:
    density = _exp2(x * x * (-0.5 * _LOG2_E)) * (1 / math.sqrt(2 * math.pi))
    return d_out * (_normal(x) + x * density)


def _normal(x: mx.array) -> mx.array:
    """The normal distribution's share below x, to 1e-7. Source: Abramowitz and Stegun 1964, 7.1.26, for erf."""
    size = mx.abs(x) * math.sqrt(0.5)
    part, tail = 1 / (1 + 0.3275911 * size), 1.061405429
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail = tail * part + coefficient
    above = 0.5 * tail * part * _exp2(size * size * -_LOG2_E)  # erfc(size) / 2
    # No `where`: it is ten times slower than arithmetic here.
    return above + (x >= 0).astype(x.dtype) * (1 - 2 * above)
