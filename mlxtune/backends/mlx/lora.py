"""A linear layer with a low-rank update beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from mlxtune.adapters import Adapter


@dataclass
class Weights:
    """The adapter's arrays by canonical name. A gradient is taken by putting traced arrays here for the time of the forward."""

    arrays: dict[str, mx.array]
    training: bool = False
    keys: dict[str, mx.array] = field(default_factory=dict)  # of dropout, by site; a layer that runs again drops the same

    def draw_keys(self, seed: int) -> None:
        sites = [name.removesuffix(".lora_A") for name in self.arrays if name.endswith(".lora_A")]
        self.keys = dict(zip(sites, mx.random.split(mx.random.key(seed), len(sites)), strict=True))


class LoraLinear(nn.Module):
    """base(x) + scale * B A dropout(x). A [rank, in] and B [out, rank] stay float32 and are used in x's precision."""

    def __init__(self, base: nn.Module, site: str, weights: Weights, *, scale: float, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.site = site
        self._weights, self._scale = weights, scale
        self._dropout = dropout

    def __call__(self, x: mx.array) -> mx.array:
        a = self._weights.arrays[f"{self.site}.lora_A"].astype(x.dtype)
        b = self._weights.arrays[f"{self.site}.lora_B"].astype(x.dtype)
        kept = _drop(x, self._dropout, self._weights.keys[self.site]) if self._weights.training and self._dropout else x
        # The scale belongs to the smallest of the arrays.
        return self.base(x) + (kept @ a.T * self._scale) @ b.T


def _drop(x: mx.array, share: float, key: mx.array) -> mx.array:
    return mx.where(mx.random.bernoulli(1 - share, x.shape, key=key), x * (1 / (1 - share)), 0).astype(x.dtype)


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
