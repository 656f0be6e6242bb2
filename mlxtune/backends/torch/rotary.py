"""Rotary positions: queries or keys turned by the angles of a token's place."""

from __future__ import annotations

from typing import Any

import torch


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The first dimensions of each head, as many as `cos` has, turned by the angles of their positions; those get no gradient.

    Source: Su et al. 2021 (arXiv 2104.09864); phi turns the first dimensions of a head alone.
    """
    return _Rotate.apply(x, cos, sin)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(d_out, cos, -sin), None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    size = cos.shape[-1]
    out = x.clone() if size < x.shape[-1] else torch.empty_like(x)
    torch.mul(x[..., :size], cos, out=out[..., :size])
    (first, second), (low, high), (cross, back) = (part[..., :size].chunk(2, dim=-1) for part in (x, out, sin))
    low.addcmul_(second, cross, value=-1)
    high.addcmul_(first, back)
    return out
