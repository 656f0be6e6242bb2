"""A linear layer with a low-rank update beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
        self._adapted = _adapted(base, scale) if type(base) is nn.Linear else None

    def __call__(self, x: mx.array) -> mx.array:
        a = self._weights.arrays[f"{self.site}.lora_A"].astype(x.dtype)
        b = self._weights.arrays[f"{self.site}.lora_B"].astype(x.dtype)
        dropping = self._weights.training and self._dropout
        if self._adapted is not None and not dropping:
            return self._adapted(x, a, b)[0]
        kept = _drop(x, self._dropout, self._weights.keys[self.site]) if dropping else x
        # The scale belongs to the smallest of the arrays.
        return self.base(x) + (kept @ a.T * self._scale) @ b.T


def _adapted(base: nn.Linear, scale: float) -> Callable[..., tuple[mx.array, mx.array]]:
    """(x, a, b) -> (base(x) + scale * x a^T b^T, scale * x a^T) for a frozen base.

    `mx.addmm` adds to a product in its own array; MLX's way back through it makes both products apart, and then their sum.
    """

    @mx.custom_function
    def apply(x: mx.array, a: mx.array, b: mx.array) -> tuple[mx.array, mx.array]:
        low = x @ a.T * scale
        return mx.addmm(base(x), low, b.T), low

    @apply.vjp
    def back(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array, mx.array]:
        (x, a, b), (d_out, _), (_, low) = primals, cotangents, outputs
        d_low = d_out @ b * scale
        d_x = mx.addmm(d_out @ base.weight, d_low, a)
        return d_x, _rows(d_low).T @ _rows(x), _rows(d_out).T @ _rows(low)

    return apply


def _rows(x: mx.array) -> mx.array:
    return x.reshape(-1, x.shape[-1])


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
