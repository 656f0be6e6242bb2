"""The way of a batch through a text model, cut into layers, and a gradient that goes back over it layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.lora import LoraLinear, Weights
from mlxtune.wanted_rows import WantedRows

Gradients = dict[str, mx.array]


def at(x: mx.array, places: mx.array) -> mx.array:
    """[B, S, width], or with an axis of 1 among them -> [..., width] at places [...] of the flattened [B * S]."""
    return x.reshape(-1, x.shape[-1])[places]


class Leg(NamedTuple):
    """layer: whose adapted parts `run` uses. run: (x, features) -> x, both as in `Course`."""

    layer: nn.Module
    run: Callable[[mx.array, mx.array | None], mx.array]


def legs_of(
    layers: Sequence[nn.Module],
    run: Callable[[Any, mx.array, Any, WantedRows | None], mx.array],
    caches: Sequence[Any] | None,
    rows: WantedRows | None,
) -> list[Leg]:
    """run: (layer, x, cache, rows) -> x. Only the last layer is told which `rows` are wanted."""
    each = zip(layers, caches or [None] * len(layers), [*[None] * (len(layers) - 1), rows], strict=True)
    return [
        Leg(layer, lambda x, features, layer=layer, cache=cache, rows=rows: run(layer, x, cache, rows))
        for layer, cache, rows in each
    ]


@dataclass(frozen=True)
class Course:
    """features: [F, width], as the family's `vision` gives them, or None; a family's layers may use them too.

    start: features -> x [B, S, hidden]. finish: the last norm.
    """

    start: Callable[[mx.array | None], mx.array]
    legs: Sequence[Leg]
    finish: Callable[[mx.array], mx.array]

    def run(self, features: mx.array | None) -> mx.array:
        """What `Model.hidden` gives."""
        x = self.start(features)
        for leg in self.legs:
            x = leg.run(x, features)
        return self.finish(x)


def layerwise_gradients(
    course: Course,
    features: mx.array | None,
    *,
    weights: Weights,
    loss: Callable[[mx.array], mx.array],
    back_to_features: bool,
) -> tuple[mx.array, Gradients, mx.array | None]:
    """The loss of the hidden states, gradients of the adapter's arrays in the layers, and of the features where asked for.

    Only the input of each layer is kept, and the layer runs again on the way back, when everything above it is done and
    forgotten. `mx.checkpoint` does not save anything here: MLX first computes again what all layers have inside them.
    Source: Chen et al. 2016 (arXiv 1604.06174).
    """
    reached = course.start(features)
    inputs = []
    for leg in course.legs:
        inputs.append(reached)
        reached = leg.run(reached, features)
        mx.eval(reached)
    value, d_x = mx.value_and_grad(lambda x: loss(course.finish(x)))(reached)
    gradients: Gradients = {}
    d_features = mx.zeros_like(features) if features is not None and back_to_features else None
    named = [_arrays_of(leg.layer, weights) for leg in course.legs]
    lowest = 0 if back_to_features else next((number for number, names in enumerate(named) if names), len(named))
    for number in range(len(named) - 1, lowest - 1, -1):
        found = _back(course.legs[number].run, inputs.pop(), d_x, features=features, names=named[number], weights=weights)
        d_x, through = found[:2]
        gradients |= dict(zip(named[number], found[2:], strict=True))
        if d_features is not None:
            d_features = d_features + through
        mx.eval(d_x, d_features, found[2:])
    if d_features is not None:
        d_features = d_features + mx.vjp(course.start, [features], [d_x])[1][0]
    return value, gradients, d_features


def _back(
    run: Callable[[mx.array, mx.array | None], mx.array],
    x: mx.array,
    d_out: mx.array,
    *,
    features: mx.array | None,
    names: Sequence[str],
    weights: Weights,
) -> list[mx.array]:
    """Gradients of x, of the features (zeros where there are none), and of the named arrays."""

    def again(x: mx.array, features: mx.array, *arrays: mx.array) -> mx.array:
        kept, weights.arrays = weights.arrays, {**weights.arrays, **dict(zip(names, arrays, strict=True))}
        try:
            return run(x, None if features.size == 0 else features)
        finally:
            weights.arrays = kept

    given = mx.zeros((0,)) if features is None else features
    return mx.vjp(again, [x, given, *(weights.arrays[name] for name in names)], [d_out])[1]


def _arrays_of(layer: nn.Module, weights: Weights) -> list[str]:
    sites = [module.site for _, module in layer.named_modules() if isinstance(module, LoraLinear)]
    return [name for site in sites for name in (f"{site}.lora_A", f"{site}.lora_B") if name in weights.arrays]
