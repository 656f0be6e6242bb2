"""What the step is made of beside the model: AdamW on either backend, and torch's adapted layer, against torch's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

SHAPES = {"a.lora_A": (4, 9), "a.lora_B": (7, 4), "b.lora_A": (4, 700), "b.lora_B": (1, 4)}
RATES = (1e-2, 3e-3, 1e-2, 1e-2, 5e-4, 1e-3)


def _arrays(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}


def _reference(weight_decay: float) -> dict[str, np.ndarray]:
    parameters = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in _arrays(0).items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.0, weight_decay=weight_decay, eps=1e-8, betas=(0.9, 0.999))
    for step, lr in enumerate(RATES, start=1):
        optimizer.param_groups[0]["lr"] = lr
        for name, gradient in _arrays(step).items():
            parameters[name].grad = torch.tensor(gradient)
        optimizer.step()
    return {name: p.detach().numpy() for name, p in parameters.items()}


def _by_torch(weight_decay: float, *, reopened: bool) -> dict[str, np.ndarray]:
    from mlxtune.backends.torch.optimizer import AdamW

    parameters = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in _arrays(0).items()}
    optimizer = AdamW(parameters, weight_decay=weight_decay)
    for step, lr in enumerate(RATES, start=1):
        for name, gradient in _arrays(step).items():
            parameters[name].grad = torch.tensor(gradient)
        optimizer.step(lr=lr)
        if reopened:
            kept = optimizer.arrays()
            optimizer = AdamW(parameters, weight_decay=weight_decay)
            optimizer.restore(kept)
    return {name: p.detach().numpy() for name, p in parameters.items()}


def _by_mlx(weight_decay: float, *, reopened: bool) -> dict[str, np.ndarray]:
    mx = pytest.importorskip("mlx.core")
    from mlxtune.backends.mlx.optimizer import AdamW

    arrays = {name: mx.array(array) for name, array in _arrays(0).items()}
    optimizer = AdamW(arrays, weight_decay=weight_decay)
    for step, lr in enumerate(RATES, start=1):
        gradient = optimizer.joined({name: mx.array(array) for name, array in _arrays(step).items()})
        arrays = optimizer.updated(arrays, gradient, lr=lr, times=mx.array(1.0))
        if reopened:
            kept = optimizer.arrays()
            optimizer = AdamW(arrays, weight_decay=weight_decay)
            optimizer.restore(kept)
    return {name: np.array(array) for name, array in arrays.items()}


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("run", [_by_torch, _by_mlx], ids=["torch", "mlx"])
def test_adamw(run, weight_decay: float, reopened: bool) -> None:
    found = run(weight_decay, reopened=reopened)
    for name, wanted in _reference(weight_decay).items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)


def test_the_norm_of_very_many_numbers() -> None:
    """One float32 that adds up their squares one by one stops growing before the end."""
    mx = pytest.importorskip("mlx.core")
    from mlxtune.backends.mlx.optimizer import norm

    for size in (1, 1000, 30_000_001):
        assert norm(mx.full((size,), 0.5)).item() == pytest.approx(0.5 * size**0.5, rel=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_onednn", [False, torch.backends.mkldnn.is_available()])
def test_an_adapted_layer(by_onednn: bool, dtype: torch.dtype, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlxtune.backends.torch import products
    from mlxtune.backends.torch.lora import LoraLinear

    monkeypatch.setattr(products, "_BY_ONEDNN", by_onednn)
    torch.manual_seed(0)
    base = torch.nn.Linear(24, 15, bias=bias).requires_grad_(False).to(dtype)
    layer = LoraLinear(base, lora_a=torch.randn(4, 24), lora_b=torch.randn(15, 4), scale=0.7, dropout=0.0)
    x = torch.randn(2, 11, 24).to(dtype).requires_grad_()
    a, b = layer.lora_A.to(dtype), layer.lora_B.to(dtype)
    wanted = base(x) + 0.7 * (x @ a.T @ b.T)
    found, outer = layer(x), torch.randn(2, 11, 15).to(dtype)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.03, "atol": 0.1}
    torch.testing.assert_close(found, wanted, **close)
    learned = (x, layer.lora_A, layer.lora_B)
    gradients = [torch.autograd.grad(out, learned, outer) for out in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, **close)
    assert torch.autograd.grad(layer(x.detach()).sum(), layer.lora_A)[0].any(), "the first layer's input needs no gradient"


@pytest.mark.parametrize("adapted", [(0, 1, 2), (0, 2), ()])
def test_layers_that_read_the_same(adapted: tuple[int, ...]) -> None:
    from mlxtune.backends.torch.lora import LoraLinear, together

    torch.manual_seed(0)
    bases = [torch.nn.Linear(24, size, bias=size > 8).requires_grad_(False) for size in (15, 8, 9)]
    layers = list(bases)
    for number in adapted:
        low = {"lora_a": torch.randn(4, 24), "lora_b": torch.randn(bases[number].out_features, 4)}
        layers[number] = LoraLinear(bases[number], **low, scale=0.7, dropout=0.0)
    x = torch.randn(2, 11, 24, requires_grad=True)
    learned = [x, *(p for number in adapted for p in (layers[number].lora_A, layers[number].lora_B))]
    wanted = [base(x) for base in bases]
    for number in adapted:
        wanted[number] = wanted[number] + 0.7 * (x @ layers[number].lora_A.T @ layers[number].lora_B.T)
    found, outer = together(x, *layers), [torch.randn(2, 11, size) for size in (15, 8, 9)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(outs, learned, outer) for outs in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantized", [False, True])
def test_an_adapted_layer_of_mlx(precision: str, bias: bool, quantized: bool) -> None:
    mx, nn = pytest.importorskip("mlx.core"), pytest.importorskip("mlx.nn")
    from mlxtune.backends.mlx.lora import LoraLinear, Weights

    dtype = getattr(mx, precision)
    mx.random.seed(0)
    base = nn.Linear(64, 15, bias=bias)
    base.set_dtype(dtype)
    base = nn.QuantizedLinear.from_linear(base, group_size=32) if quantized else base
    arrays = [mx.random.normal((2, 11, 64)).astype(dtype), mx.random.normal((4, 64)), mx.random.normal((15, 4))]
    layer, outer = LoraLinear(base, "here", Weights({}), scale=0.7, dropout=0.0), [mx.random.normal((2, 11, 15)).astype(dtype)]

    def ours(x: Any, a: Any, b: Any) -> Any:
        layer._weights.arrays = {"here.lora_A": a, "here.lora_B": b}
        return layer(x)

    def plain(x: Any, a: Any, b: Any) -> Any:
        return base(x) + 0.7 * (x @ a.astype(dtype).T @ b.astype(dtype).T)

    (found, gradients), (wanted, right) = (mx.vjp(function, arrays, outer) for function in (ours, plain))
    close = {"rtol": 1e-5, "atol": 1e-4} if precision == "float32" else {"rtol": 0.03, "atol": 0.3}  # of up to 60
    for one, other in zip([*found, *gradients], [*wanted, *right], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(*(np.array(x.astype(mx.float32)) for x in (one, other)), **close)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("adapted", [(0, 1, 2), (0, 2), ()])
def test_layers_of_mlx_that_read_the_same(adapted: tuple[int, ...], dropout: float) -> None:
    mx, nn = pytest.importorskip("mlx.core"), pytest.importorskip("mlx.nn")
    from mlxtune.backends.mlx.lora import LoraLinear, Weights, together

    mx.random.seed(0)
    weights = Weights({}, training=True)
    layers = [nn.Linear(24, size, bias=size > 8) for size in (15, 8, 9)]
    for number in adapted:
        layers[number] = LoraLinear(layers[number], f"{number}", weights, scale=0.7, dropout=dropout)
    sizes = {f"{n}.lora_{name}": shape for n in adapted for name, shape in (("A", (4, 24)), ("B", ((15, 8, 9)[n], 4)))}
    arrays = [mx.random.normal((2, 11, 24)), *map(mx.random.normal, sizes.values())]
    outer = [mx.random.normal((2, 11, size)) for size in (15, 8, 9)]
    weights.arrays = dict(zip(sizes, arrays[1:], strict=True))
    weights.draw_keys(3)

    def ours(x: Any, *learned: Any) -> Any:
        weights.arrays = dict(zip(sizes, learned, strict=True))
        return together(x, *layers)

    def one_by_one(x: Any, *learned: Any) -> Any:
        told = dict(zip(sizes, learned, strict=True))
        return [plain(layer, x, told, f"{number}") for number, layer in enumerate(layers)]

    def plain(layer: Any, x: Any, told: Any, site: str) -> Any:
        if not isinstance(layer, LoraLinear):
            return layer(x)
        kept = mx.where(mx.random.bernoulli(1 - dropout, x.shape, key=weights.keys[site]), x / (1 - dropout), 0) if dropout else x
        return layer.base(x) + 0.7 * (kept @ told[f"{site}.lora_A"].T @ told[f"{site}.lora_B"].T)

    (found, gradients), (wanted, right) = (mx.vjp(function, arrays, outer) for function in (ours, one_by_one))
    for one, other in zip([*found, *gradients], [*wanted, *right], strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=1e-5, atol=1e-4)
