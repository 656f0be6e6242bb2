"""A linear layer with a low-rank update beside it."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlxtune.adapters import Adapter


@dataclass
class Weights:
    """The adapter's arrays by canonical name. A gradient is taken by putting traced arrays here for the time of the forward."""

    arrays: dict[str, mx.array]
    training: bool = False


class LoraLinear(nn.Module):
    """base(x) + scale * B A dropout(x). A [rank, in] and B [out, rank] stay float32 and are used in x's precision."""

    def __init__(self, base: nn.Module, site: str, weights: Weights, *, scale: float, dropout: float) -> None:
        super().__init__()
        self.base = base
        self._site, self._weights, self._scale = site, weights, scale
        self._dropout = dropout

    def __call__(self, x: mx.array) -> mx.array:
        a = self._weights.arrays[f"{self._site}.lora_A"].astype(x.dtype)
        b = self._weights.arrays[f"{self._site}.lora_B"].astype(x.dtype)
        kept = _drop(x, self._dropout) if self._weights.training and self._dropout else x
        return self.base(x) + (kept @ a.T) @ b.T * self._scale


def _drop(x: mx.array, share: float) -> mx.array:
    return mx.where(mx.random.bernoulli(1 - share, x.shape), x * (1 / (1 - share)), 0).astype(x.dtype)


def attach(model: nn.Module, adapter: Adapter) -> Weights:
    """Replaces the adapter's layers in place; gives the arrays that they read."""
    weights = Weights({name: mx.array(array) for name, array in adapter.arrays.items()})
    modules = dict(model.named_modules())
    for site in adapter.sites:
        parent, _, name = site.rpartition(".")
        layer = LoraLinear(modules[site], site, weights, scale=adapter.scale, dropout=adapter.dropout)
        if name.isdigit():  # a list of layers, as in the merger's mlp
            holder, _, attribute = parent.rpartition(".")
            getattr(modules[holder], attribute)[int(name)] = layer
        else:
            setattr(modules[parent], name, layer)
    return weights
