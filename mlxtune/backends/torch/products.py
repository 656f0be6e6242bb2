"""Matrix products with frozen weights.

torch multiplies float32 matrices by Intel's MKL, which gives other makers' processors code of half their width. oneDNN, which
torch brings too and calls for other number formats, goes by what a processor can do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from mlxtune.cpu import INTEL, processor

# A processor whose maker nothing tells is left to MKL.
_BY_ONEDNN = (
    processor().get("vendor_id", INTEL) != INTEL
    and torch.backends.mkl.is_available()
    and torch.backends.mkldnn.is_available()
    # Made for what torch compiles; no promise of theirs.
    and all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))
)
_ROWS = 512  # that copies of weights are packed for; they serve any number


class Packed(NamedTuple):
    """Copies of a frozen matrix in the order in which oneDNN goes through it, which otherwise makes one in every product:
    for x W^T, and for the gradient of x."""

    forward: torch.Tensor | None = None
    back: torch.Tensor | None = None


def product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, packed: torch.Tensor | None = None
) -> torch.Tensor:
    """x W^T + bias, [..., out]. x: [..., in]. weight: [out, in]. packed: the same. No gradient goes through it."""
    # torch's compiler takes it for weights that are constants alone, and stops at others.
    if _BY_ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        return torch.ops.mkldnn._linear_pointwise(x, weight if packed is None else packed, bias, "none", [], "")
    return nn.functional.linear(x, weight, bias)


class Linear(nn.Linear):
    """A frozen `nn.Linear` that multiplies by `product`."""

    packed = Packed()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Frozen.apply(x, self.weight, self.bias, self.packed)


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, packed: Packed) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.packed = packed
        return product(x, weight, bias, packed=packed.forward)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return product(d_out, weight.T, packed=ctx.packed.back), None, None, None


def multiply_well(model: nn.Module) -> None:
    """Makes every plain linear layer a `Linear`, in place, where that changes anything."""
    if _BY_ONEDNN and next(model.parameters()).device.type == "cpu":
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear


def packed_of(layer: nn.Linear) -> Packed:
    """Without copies for a layer that has none."""
    return getattr(layer, "packed", Packed())


def pack(modules: Iterable[nn.Module], *, most_bytes: int) -> None:
    """Gives every `Linear` in them its copies, unless all together would take more than that. Their weights must not change."""
    found = {layer for module in modules for layer in module.modules() if isinstance(layer, Linear)}
    in_float32 = all(layer.weight.dtype == torch.float32 for layer in found)
    if in_float32 and sum(2 * layer.weight.nbytes for layer in found) <= most_bytes:
        for layer in found:
            layer.packed = Packed(_packed(layer.weight), _packed(layer.weight.T))


def _packed(weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)
