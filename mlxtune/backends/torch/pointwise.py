"""What goes number by number in a layer, with ways back of its own: autograd's take more passes, and keep more for them."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import silu


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis; in float32, up to the product with a frozen weight.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467).
    """
    return _RmsNorm.apply(x, weight, epsilon)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up. Source: Shazeer 2020 (arXiv 2002.05202)."""
    return _SwiGlu.apply(gate, up)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        shrink = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, shrink)
        return (wide * shrink).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, shrink = ctx.saved_tensors
        wide, d_normed = x.float(), (d_out * weight).float()
        # What lies along x itself changes the mean square, which takes it back.
        along = torch.linalg.vecdot(d_normed, wide).unsqueeze_(-1).mul_(shrink**3).div_(-x.shape[-1])
        return d_normed.mul_(shrink).addcmul_(wide, along).to(x.dtype), None, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(d_out * up, gate), silu(gate).mul_(d_out)
