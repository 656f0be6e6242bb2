"""A linear layer with a low-rank update beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress
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
        self.scale = scale
        self._weights, self._dropout = weights, dropout

    def __call__(self, x: mx.array) -> mx.array:
        if self.is_plain:
            return together(x, self)[0]
        a, b = self.arrays(x.dtype)
        kept = _drop(x, self._dropout, self._weights.keys[self.site]) if self._drops else x
        # The scale belongs to the smallest of the arrays.
        return self.base(x) + (kept @ a.T * self.scale) @ b.T

    @property
    def is_plain(self) -> bool:
        """Whether base and update read the same numbers, and the base's weights are a matrix."""
        return type(self.base) is nn.Linear and not self._drops

    @property
    def _drops(self) -> bool:
        return self._weights.training and self._dropout > 0

    def arrays(self, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """A and B."""
        return tuple(self._weights.arrays[f"{self.site}.{name}"].astype(dtype) for name in ("lora_A", "lora_B"))


def together(x: mx.array, *layers: nn.Module) -> list[mx.array]:
    """layer(x) of each. Those that are adapted go through x once for all their A, and add up its gradient in one array."""
    joins = [isinstance(layer, LoraLinear) and layer.is_plain for layer in layers]
    if not any(joins):
        return [layer(x) for layer in layers]
    adapted = [*compress(layers, joins)]
    every_a, every_b = zip(*(layer.arrays(x.dtype) for layer in adapted), strict=True)
    apply = _adapted([layer.base for layer in adapted], scale=adapted[0].scale)  # all are of one adapter, which has one scale
    outs = iter(apply(x, _joined(every_a), *every_b))
    return [next(outs) if join else layer(x) for join, layer in zip(joins, layers, strict=True)]


def _adapted(bases: Sequence[nn.Linear], *, scale: float) -> Callable[..., tuple[mx.array, ...]]:
    """(x, all A [sum of ranks, in], each B) -> (each base(x) + scale * x A^T B^T, and scale * A x^T), for frozen bases.

    `mx.addmm` adds to a product in its own array; MLX's way back through it makes both products apart, and then their sum.
    What has a low rank stands upright, [rank, tokens]: products of few rows are faster than those of few columns.
    """

    @mx.custom_function
    def apply(x: mx.array, a: mx.array, *every_b: mx.array) -> tuple[mx.array, ...]:
        rows = _rows(x)
        low = a @ rows.T * scale
        lows = _split(low, every_b)
        outs = (mx.addmm(base(rows), own.T, b.T) for base, own, b in zip(bases, lows, every_b, strict=True))
        return *(out.reshape(*x.shape[:-1], out.shape[-1]) for out in outs), low

    @apply.vjp
    def back(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        (x, a, *every_b), (*d_outs, _), low = primals, cotangents, outputs[-1]
        d_outs = [*map(_rows, d_outs)]
        d_low = _joined([b.T @ d_out.T for d_out, b in zip(d_outs, every_b, strict=True)]) * scale
        d_x = d_outs[0] @ bases[0].weight
        for d_out, base in zip(d_outs[1:], bases[1:], strict=True):
            d_x = mx.addmm(d_x, d_out, base.weight)
        d_bs = ((own @ d_out).T for d_out, own in zip(d_outs, _split(low, every_b), strict=True))
        return mx.addmm(d_x, d_low.T, a).reshape(x.shape), d_low @ _rows(x), *d_bs

    return apply


def _joined(arrays: Sequence[mx.array]) -> mx.array:
    return arrays[0] if len(arrays) == 1 else mx.concatenate(list(arrays))


def _split(low: mx.array, every_b: Sequence[mx.array]) -> list[mx.array]:
    """[sum of ranks, tokens] -> [rank, tokens] for each B [out, rank]."""
    ends = [*accumulate(b.shape[-1] for b in every_b)]
    return mx.split(low, ends[:-1]) if len(ends) > 1 else [low]


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
