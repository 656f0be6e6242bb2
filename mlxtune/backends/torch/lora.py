"""A linear layer with a low-rank update beside it."""

from __future__ import annotations

import torch
from torch import nn

from mlxtune.adapters import Adapter


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
        low = nn.functional.linear(self.dropout(x), self.lora_A.to(x.dtype))
        # One product that adds to what the base gave, instead of three passes over [..., out].
        out = self.base(x)
        added = torch.addmm(out.flatten(0, -2), low.flatten(0, -2), self.lora_B.to(x.dtype).T, alpha=self.scale)
        return added.view_as(out)


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
