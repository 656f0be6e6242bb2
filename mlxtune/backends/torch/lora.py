"""A linear layer with a low-rank update beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import nn

from mlxtune.adapters import Adapter
from mlxtune.backends.torch.products import Linear, Packed, packed_of, product


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
        if self.is_plain:
            return together(x, self)[0]
        a, b = self.arrays(x.dtype)
        low = nn.functional.linear(self.dropout(x), a)
        out = self.base(x)
        return torch.addmm(out.flatten(0, -2), low.flatten(0, -2), b.T, alpha=self.scale).view_as(out)

    @property
    def is_plain(self) -> bool:
        """Whether base and update read the same numbers, and the base's weights are a matrix."""
        return type(self.base) in (nn.Linear, Linear) and not (self.training and self.dropout.p)

    def arrays(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B."""
        return self.lora_A.to(dtype), self.lora_B.to(dtype)


def together(x: torch.Tensor, *layers: nn.Module) -> list[torch.Tensor]:
    """layer(x) of each. Those that are adapted go through x once for all their A, and add up its gradient in one array."""
    joins = [isinstance(layer, LoraLinear) and layer.is_plain for layer in layers]
    if not any(joins):
        return [layer(x) for layer in layers]
    adapted = [*compress(layers, joins)]
    every_a, every_b = zip(*(layer.arrays(x.dtype) for layer in adapted), strict=True)
    weights, biases = zip(*((layer.base.weight, layer.base.bias) for layer in adapted), strict=True)
    scale = adapted[0].scale  # all are of one adapter, which has one
    packs = [packed_of(layer.base) for layer in adapted]
    outs = iter(_Adapted.apply(x, scale, packs, _joined(every_a), *every_b, *weights, *biases))
    return [next(outs) if join else layer(x) for join, layer in zip(joins, layers, strict=True)]


class _Adapted(torch.autograd.Function):
    """Each x W^T + bias + scale * x A^T B^T, for frozen W. Autograd copies the larger products once more to add to them.

    packs: of each W. a: all A, [sum of ranks, in]. more: each B [out, rank], then each W, then each bias.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: float, packs: Sequence[Packed], a: torch.Tensor, *more: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        count = len(more) // 3
        every_b, weights, biases = more[:count], more[count : 2 * count], more[2 * count :]
        rows = x.flatten(0, -2)
        low = product(rows, a)
        lows = low.split([b.shape[1] for b in every_b], dim=1)
        outs = [
            product(rows, weight, bias, packed=packed.forward).addmm_(own, b.T, alpha=scale).view(*x.shape[:-1], -1)
            for weight, bias, packed, own, b in zip(weights, biases, packs, lows, every_b, strict=True)
        ]
        ctx.save_for_backward(x, a, low, *every_b, *weights)
        ctx.scale, ctx.packs = scale, packs
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *d_outs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, low, *more = ctx.saved_tensors
        every_b, weights = more[: len(d_outs)], more[len(d_outs) :]
        lows = low.split([b.shape[1] for b in every_b], dim=1)
        rows, d_rows = x.flatten(0, -2), [d_out.flatten(0, -2) for d_out in d_outs]
        d_low = _joined([product(d_out, b.T) for d_out, b in zip(d_rows, every_b, strict=True)], dim=1).mul_(ctx.scale)
        d_x = None
        if ctx.needs_input_grad[0]:
            parts = (
                product(d_out, weight.T, packed=packed.back)
                for d_out, weight, packed in zip(d_rows, weights, ctx.packs, strict=True)
            )
            d_x = next(parts)
            for part in parts:
                d_x += part
            d_x = d_x.addmm_(d_low, a).view_as(x)
        d_bs = (product(own.T, d_out.T).mul_(ctx.scale).T for own, d_out in zip(lows, d_rows, strict=True))
        return d_x, None, None, product(d_low.T, rows.T), *d_bs, *[None] * (2 * len(weights))


def _joined(arrays: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    return arrays[0] if len(arrays) == 1 else torch.cat(arrays, dim=dim)


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
