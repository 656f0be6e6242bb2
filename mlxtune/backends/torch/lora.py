"""A linear layer with a low-rank update beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mlxtune.adapters import Adapter
from mlxtune.backends.torch.products import Linear, product


class LoraLinear(nn.Module):
    """base(x) + scale * B A dropout(x). A [rank, in] and B [out, rank] stay float32 and are used in x's precision."""

    def __init__(self, base: nn.Linear, *, lora_a: torch.Tensor, lora_b: torch.Tensor, scale: float, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(lora_a)
        self.lora_B = nn.Parameter(lora_b)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        if type(self.base) in (nn.Linear, Linear) and not (self.training and self.dropout.p):
            return _Adapted.apply(x, self.base.weight, self.base.bias, a, b, self.scale)
        # A quantised base, or the two read different numbers.
        low = nn.functional.linear(self.dropout(x), a)
        out = self.base(x)
        return torch.addmm(out.flatten(0, -2), low.flatten(0, -2), b.T, alpha=self.scale).view_as(out)


class _Adapted(torch.autograd.Function):
    """x W^T + bias + scale * x A^T B^T for a frozen W. Autograd's own way copies the larger products once more to add to them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows = x.flatten(0, -2)
        low = product(rows, a)
        out = product(rows, weight, bias).addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b, low = ctx.saved_tensors
        d_rows = d_out.flatten(0, -2)
        d_low = product(d_rows, b.T).mul_(ctx.scale)
        d_x = product(d_rows, weight.T).addmm_(d_low, a).view_as(x) if ctx.needs_input_grad[0] else None
        d_a, d_b = product(d_low.T, x.flatten(0, -2).T), product(low.T, d_rows.T).mul_(ctx.scale).T
        return d_x, None, None, d_a, d_b, None


def attach(model: nn.Module, adapter: Adapter, *, device: torch.device) -> dict[str, nn.Parameter]:
    """Replaces the adapter's layers in place; gives the trainable parameters by canonical name."""
    parameters: dict[str, nn.Parameter] = {}
    for site in adapter.sites:
        parent_name, _, name = site.rpartition(".")
        parent = model.get_submodule(parent_name)
        layer = LoraLinear(
            getattr(parent, name),
            lora_a=torch.tensor(adapter.arrays[f"{site}.lora_A"], device=device),
            lora_b=torch.tensor(adapter.arrays[f"{site}.lora_B"], device=device),
            scale=adapter.scale,
            dropout=adapter.dropout,
        )
        setattr(parent, name, layer)
        parameters[f"{site}.lora_A"], parameters[f"{site}.lora_B"] = layer.lora_A, layer.lora_B
    return parameters
