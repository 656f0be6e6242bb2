"""What goes number by number in a layer of torch, against what autograd makes of the formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pointwise = pytest.importorskip("mlxtune.backends.torch.pointwise")


def _random(*shape: int, dtype: Any = torch.float32) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).requires_grad_()


def _same(ours: Callable[..., Any], plain: Callable[..., Any], *arrays: Any, dtype: Any = torch.float32) -> None:
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    found, wanted = ours(*arrays), plain(*arrays)
    assert found.dtype == wanted.dtype == dtype
    torch.testing.assert_close(found, wanted, **close)
    outer = torch.randn_like(wanted)
    for one, other in zip(*(torch.autograd.grad(out, arrays, outer) for out in (found, wanted)), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 5, 48), (3, 48), (2, 5, 4, 48)])
def test_rms_norm(shape: tuple[int, ...], dtype: Any) -> None:
    weight = _random(48, dtype=dtype).detach()

    def plain(x: Any) -> Any:
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 0.1)).to(dtype)

    _same(lambda x: pointwise.rms_norm(x, weight, 0.1), plain, _random(*shape, dtype=dtype), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu(dtype: Any) -> None:
    arrays = (_random(2, 5, 48, dtype=dtype), _random(2, 48, 5, dtype=dtype).transpose(1, 2))
    _same(pointwise.swiglu, lambda gate, up: torch.nn.functional.silu(gate) * up, *arrays, dtype=dtype)


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("turned", [16, 8])
def test_rotate(turned: int, heads_first: bool) -> None:
    from mlxtune.backends.torch.rotary import rotate

    angles = _random(2, 1, 7, turned // 2).detach().repeat(1, 1, 1, 2)  # both members of a pair turn by the same
    x = _random(2, 3, 7, 16) if heads_first else _random(2, 7, 3, 16).transpose(1, 2)

    def plain(x: Any) -> Any:
        (first, second), rest = x[..., :turned].chunk(2, dim=-1), x[..., turned:]
        crossed = torch.cat([-second, first], dim=-1)
        return torch.cat([x[..., :turned] * angles.cos() + crossed * angles.sin(), rest], dim=-1)

    _same(lambda x: rotate(x, angles.cos(), angles.sin()), plain, x)
