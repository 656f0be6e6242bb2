"""Matrix products with frozen weights.

torch multiplies float32 matrices by Intel's MKL, which gives other makers' processors code of half their width. oneDNN, which
torch brings too and calls for other number formats, goes by what a processor can do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mlxtune.cpu import INTEL, processor

# A processor whose maker nothing tells is left to MKL.
_BY_ONEDNN = (
    processor().get("vendor_id", INTEL) != INTEL
    and torch.backends.mkl.is_available()
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # made for what torch compiles; no promise of theirs
)


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x W^T + bias, [..., out]. x: [..., in]. weight: [out, in]. No gradient goes through it."""
    # torch's compiler takes it for weights that are constants alone, and stops at others.
    if _BY_ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return nn.functional.linear(x, weight, bias)


class Linear(nn.Linear):
    """A frozen `nn.Linear` that multiplies by `product`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Frozen.apply(x, self.weight, self.bias)


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return product(d_out, weight.T), None, None


def multiply_well(model: nn.Module) -> None:
    """Makes every plain linear layer a `Linear`, in place, where that changes anything."""
    if _BY_ONEDNN and next(model.parameters()).device.type == "cpu":
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear
