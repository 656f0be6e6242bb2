"""What MLX's CPU build gets instead of MLX's own kernels: the same values, and the same gradients."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from time import sleep
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
attention = pytest.importorskip("mlxtune.backends.mlx.attention")
activations = pytest.importorskip("mlxtune.backends.mlx.activations")
vector = pytest.importorskip("mlxtune.backends.mlx.vector")
untraced = pytest.importorskip("mlxtune.backends.mlx.untraced")

Array = object
_TOLERANCE = 3e-5


def _random(*shape: int, spread: float = 1.0):
    return mx.array(np.random.default_rng(shape).normal(0, spread, shape).astype(np.float32))


def _values_and_gradients(function: Callable[..., Array], arrays: list) -> list[np.ndarray]:
    out = function(*arrays)
    return [np.array(a) for a in (out, *mx.vjp(function, arrays, [_random(*out.shape)])[1])]


def _theirs(*arrays: Array, **how: Any) -> Array:
    """MLX's own attention, [B, S, heads * D] too."""
    out = mx.fast.scaled_dot_product_attention(*arrays, **how)
    return out.swapaxes(1, 2).reshape(len(out), out.shape[2], -1)


def _branches(queries: int) -> np.ndarray:
    """A prefix of half the tokens and two questions behind it, as packing makes them; a row of padding on the left."""
    places = np.arange(queries)
    branch = np.where(places < queries // 2, 0, 1 + places % 2)
    seen = np.tril(np.ones((queries, queries), bool)) & ((branch == 0) | (branch == branch[:, None]))
    left = seen & ((places >= 3) | np.eye(queries, dtype=bool))
    return np.stack([seen, left])


@pytest.mark.parametrize("kept", [2**20, 0], ids=["kept", "made again"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("queries", "keys"), [(1, 9), (7, 7), (200, 200), (33, 300)])
@pytest.mark.parametrize("kind", ["causal", "none", "mask", "prefix"])
def test_attention(kind: str, queries: int, keys: int, kv_heads: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_KEPT", kept)
    q, k, v = _random(2, 4, queries, 8, spread=1.5), _random(2, kv_heads, keys, 8, spread=1.5), _random(2, kv_heads, keys, 8)
    own = _branches(queries)
    if kind == "prefix":  # tokens that see each other both ways, far beyond the diagonal
        own[:, : queries // 2, : queries // 2] = True
    allowed = np.concatenate([np.ones((2, queries, keys - queries), bool), own], axis=-1)
    ours = {"causal": "causal", "none": None}.get(kind, attention.Visible.of(allowed))
    theirs = {"causal": "causal", "none": None}.get(kind, mx.array(allowed)[:, None])
    found = _values_and_gradients(lambda *a: attention.attention(*a, scale=0.3, mask=ours), [q, k, v])
    wanted = _values_and_gradients(lambda *a: _theirs(*a, scale=0.3, mask=theirs), [q, k, v])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=_TOLERANCE)


@pytest.mark.parametrize(("kept", "times"), [(2 * 2 * 60 * 60, 1), (2 * 2 * 60 * 60 - 1, 2)])
def test_powers_of_few_scores_are_kept_for_the_way_back(kept: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    blockwise = pytest.importorskip("mlxtune.backends.mlx.blockwise")
    own, taken = blockwise.exp2_fused, []
    monkeypatch.setattr(attention, "_KEPT", kept)
    monkeypatch.setattr(blockwise, "exp2_fused", lambda x: taken.append(x.shape) or own(x))
    mx.vjp(lambda q: attention.attention(q, q, q, scale=0.3), [_random(2, 2, 60, 8)], [_random(2, 60, 16)])
    assert taken == [(1, 4, 60, 60)] * times


def test_a_key_that_nobody_sees_gets_no_gradient_at_all() -> None:
    """A tiny one would be denormal, and products with such numbers take five times as long."""
    q, k, v = _random(1, 2, 60, 8), _random(1, 2, 60, 8), _random(1, 2, 60, 8)
    seen = np.ones((1, 60, 60), bool)
    seen[:, :, 20:30] = False
    _, _, d_k, d_v = _values_and_gradients(
        lambda *a: attention.attention(*a, scale=0.3, mask=attention.Visible.of(seen)), [q, k, v]
    )
    assert not d_k[:, :, 20:30].any() and not d_v[:, :, 20:30].any()
    assert d_k[:, :, :20].all() and d_v[:, :, 30:].all()


def test_scores_far_apart_do_not_overflow() -> None:
    q, k, v = _random(1, 1, 5, 4, spread=300.0), _random(1, 1, 5, 4, spread=300.0), _random(1, 1, 5, 4)
    found = _values_and_gradients(lambda *a: attention.attention(*a, scale=1.0, mask="causal"), [q, k, v])
    wanted = _values_and_gradients(lambda *a: _theirs(*a, scale=1.0, mask="causal"), [q, k, v])
    assert all(np.isfinite(array).all() for array in found)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_padding_behind_every_query_of_a_row() -> None:
    q, k, v = (_random(3, 2, 150, 8) for _ in range(3))
    valid = np.arange(150) < np.array([150, 97, 1])[:, None]
    found = _values_and_gradients(
        lambda *a: attention.attention(*a, scale=0.3, mask=attention.Visible.of(valid[:, None])), [q, k, v]
    )
    allowed = mx.array(valid)[:, None, None]
    wanted = _values_and_gradients(lambda *a: _theirs(*a, scale=0.3, mask=allowed), [q, k, v])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=_TOLERANCE)


def test_a_query_that_looks_far_ahead_reaches_as_far() -> None:
    seen = np.zeros((1, 300, 300), bool)
    seen[0, 0] = True
    seen[0, 1:, :1] = True
    assert attention.Visible.of(seen).reach == (300,) * 300


@pytest.mark.parametrize("how", [lambda f: f, mx.compile], ids=["parts", "fused"])
def test_powers_of_two(how: Callable[..., Any]) -> None:
    x = np.concatenate([np.linspace(-126.4, 127, 4001), [-127.0, -1.5 * 2**23, -1.5 * 2**23 - 1, -1e9, -1e13]]).astype(np.float32)
    found = np.array(how(vector.exp2)(mx.array(x)))
    np.testing.assert_allclose(found[:4001], np.exp2(x[:4001].astype(np.float64)), rtol=3e-7)
    assert not found[4001:].any()


@pytest.mark.parametrize("how", [lambda f: f, mx.compile], ids=["parts", "fused"])
def test_sigmoid_ends_in_zero_and_one(how: Callable[..., Any]) -> None:
    x = np.array([-1e12, -1e4, -89, -20, -1, 0, 1, 20, 89, 1e4, 1e12], np.float32)
    found = np.array(how(vector.sigmoid)(mx.array(x)))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-x.astype(np.float64).clip(-700, 700))), rtol=3e-7, atol=4e-38)
    assert found.min() >= np.finfo(np.float32).tiny, "denormal"


@pytest.mark.parametrize("width", [1, 15, 16, 17, 416])
def test_rows(width: int) -> None:
    x = _random(3, 5, width)
    wanted = np.array(x)
    np.testing.assert_allclose(np.array(vector.row_sums(x)), wanted.sum(-1, keepdims=True), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.array(vector.row_highest(x)), wanted.max(-1, keepdims=True))


ACTIVATIONS = {
    "gelu": (lambda x: activations.gelu(x), nn.gelu),
    "gelu_tanh": (lambda x: activations.gelu_tanh(x), nn.gelu_approx),
    "gelu_quick": (lambda x: activations.gelu_quick(x), nn.gelu_fast_approx),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    x = mx.concatenate([mx.linspace(-30, 30, 4001), mx.array([-1e4, -88.0, -0.0, 0.0, 88.0, 1e4])])
    for one, other in zip(*(_values_and_gradients(function, [x]) for function in ACTIVATIONS[name]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=_TOLERANCE)


def test_swiglu() -> None:
    gate = mx.concatenate([mx.linspace(-40, 40, 4001), mx.array([-1e4, 1e4])])
    arrays = [gate, _random(4003)]
    found = _values_and_gradients(activations.swiglu, arrays)
    for one, other in zip(found, _values_and_gradients(lambda g, u: nn.silu(g) * u, arrays), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=_TOLERANCE)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("bfloat16", 3e-2)])
def test_rotation(precision: str, tolerance: float) -> None:
    rotary = pytest.importorskip("mlxtune.backends.mlx.rotary")
    x, d_out = _random(2, 3, 5, 8).astype(getattr(mx, precision)), _random(2, 3, 5, 8)
    angles = _random(2, 1, 5, 4)
    turns = rotary.rotary(angles, mx.float32)

    def plain(x: Array) -> Array:
        """transformers' `rotate_half`."""
        both = mx.concatenate([angles, angles], axis=-1)
        return x * mx.cos(both) + mx.concatenate([-x[..., 4:], x[..., :4]], axis=-1) * mx.sin(both)

    wanted = mx.vjp(plain, [x], [d_out])
    found = mx.vjp(lambda x: rotary.rotate(x, *turns), [x], [d_out])
    assert found[1][0].dtype == x.dtype
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(*(np.array(a[0].astype(mx.float32)) for a in (one, other)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 5, 33)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    norm = pytest.importorskip("mlxtune.backends.mlx.norm")
    ours = norm.RMSNorm(shape[-1], eps=1e-3)
    ours.weight = _random(shape[-1])
    x = _random(*shape, spread=0.1)
    wanted = _values_and_gradients(lambda x: mx.fast.rms_norm(x, ours.weight, 1e-3), [x])
    for one, other in zip(_values_and_gradients(ours, [x]), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [63, 64, 65, 200])
def test_many_tokens_go_through_an_mlp_in_parts(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    decoder = pytest.importorskip("mlxtune.backends.mlx.decoder")
    mlp, seen = decoder.Mlp(8, 12), []
    # The process draws all weights from one state, and a way back goes through all draws not computed yet, until the stack ends.
    mx.eval(mlp.parameters())
    swiglu = decoder.swiglu
    monkeypatch.setattr(decoder, "swiglu", lambda gate, up: seen.append(gate.size // 12) or swiglu(gate, up))
    x = _random(2, rows, 8)
    wanted = _values_and_gradients(mlp, [x])
    monkeypatch.setattr(decoder, "_ROWS", 128)
    found = _values_and_gradients(mlp, [x])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=_TOLERANCE)
    parts = {126: [126], 128: [128], 130: [65, 65], 400: [100] * 4}[2 * rows]
    assert seen == [2 * rows] * 2 + parts * 2


def test_half_precision_takes_the_frameworks_kernels() -> None:
    q = _random(1, 2, 9, 8).astype(mx.bfloat16)
    ours, theirs = attention.attention(q, q, q, scale=0.3), _theirs(q, q, q, scale=0.3)
    assert ours.dtype == mx.bfloat16 and mx.array_equal(ours, theirs)


@pytest.mark.skipif(shutil.which("g++") is None, reason="without g++, MLX fuses nothing on its CPU")
def test_what_is_fused_stays_fused_while_a_gradient_is_taken() -> None:
    calls = []

    def squared(x: Array) -> Array:
        calls.append(x.shape)
        return x * x

    fused = vector.fused(squared)

    @mx.custom_function
    def function(x: Array) -> Array:
        return fused(x)

    @function.vjp
    def backward(x: Array, cotangent: Array, _: Array) -> Array:
        return 2 * x * fused(cotangent)

    x = _random(3, 5)
    for _ in range(3):
        with untraced.taking_gradient():
            value, gradient = mx.value_and_grad(lambda x: function(x).sum())(x)
        np.testing.assert_allclose(np.array(gradient), 2 * np.array(x), rtol=1e-6)
        assert value.item() == pytest.approx(float((np.array(x) ** 2).sum()), rel=1e-6)
    assert calls == [(3, 5)], "run in its parts again and again"
    with untraced.taking_gradient(), pytest.raises(ValueError, match="broadcast"):  # an error comes back to where it was called
        vector.fused(lambda x, y: x + y)(_random(3), _random(4))


def test_an_error_in_a_lane_comes_back_and_the_others_end_first() -> None:
    lanes = pytest.importorskip("mlxtune.backends.mlx.lanes")
    ended = []

    def half(number: int) -> float:
        value = float(lanes.settled(mx.array(number) / 2).item())
        if number == 0:
            raise RuntimeError("the first lane")
        sleep(0.2)
        ended.append(number)
        return value

    assert lanes.side_by_side(half, [3, 4]) == [1.5, 2.0]
    with pytest.raises(RuntimeError, match="the first lane"):
        lanes.side_by_side(half, [0, 5])
    assert sorted(ended) == [3, 4, 5]


def test_an_interrupt_waits_for_the_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = pytest.importorskip("mlxtune.backends.mlx.lanes")
    ended, own, calls = [], lanes.wait, []

    def interrupted(results: list) -> object:
        calls.append(len(results))
        if len(calls) == 1:
            raise KeyboardInterrupt
        return own(results)

    monkeypatch.setattr(lanes, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lanes.side_by_side(lambda number: (sleep(0.2), ended.append(number)), [1, 2])
    assert sorted(ended) == [1, 2]


def test_a_process_that_took_gradients_ends_well() -> None:
    """MLX aborts a process in which a thread ends while it still keeps compiled functions."""
    code = """
import mlx.core as mx
from mlxtune.backends.mlx.lanes import side_by_side
from mlxtune.backends.mlx.activations import gelu, swiglu
from mlxtune.backends.mlx.attention import attention
from mlxtune.backends.mlx.untraced import taking_gradient

q = mx.random.normal((1, 2, 40, 16))
with taking_gradient():
    mx.eval(mx.grad(lambda q: attention(gelu(q), swiglu(q, q), q, scale=0.1, mask="causal").sum())(q))
side_by_side(lambda seed: mx.eval(gelu(mx.random.normal((3, 40), key=mx.random.key(seed)))), [1, 2])
"""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], check=True)


_GIVING_WAY = """
import os
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # as a test before may have left it to this process
from mlxtune.backends.mlx.device import give_way
give_way()
assert os.sched_getscheduler(0) == os.SCHED_BATCH
others = {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task") if int(thread) != os.getpid()}
assert others == {os.SCHED_OTHER}, others
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone knows threads that are in no hurry")
def test_python_gives_way_to_the_thread_that_computes() -> None:
    subprocess.run([sys.executable, "-c", _GIVING_WAY], check=True)
