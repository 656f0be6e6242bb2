"""AdamW over all of an adapter's arrays at once. They are many and small, and each would cost a call for every operation."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from mlxtune.backends.base import BETAS, EPSILON
from mlxtune.backends.mlx.vector import fused
from mlxtune.types import Arrays

_PART = 1024  # squares that are summed up at once


class AdamW:
    """As torch's, with bias correction. Source: Loshchilov and Hutter 2019 (arXiv 1711.05101)."""

    def __init__(self, arrays: Mapping[str, mx.array], *, weight_decay: float) -> None:
        self._shapes = {name: array.shape for name, array in arrays.items()}
        self._weight_decay = weight_decay
        self._steps = 0
        size = sum(array.size for array in arrays.values())
        self._mean, self._mean_square = mx.zeros(size), mx.zeros(size)

    def joined(self, arrays: Mapping[str, mx.array]) -> mx.array:
        """The arrays end to end, [numbers in all]."""
        return mx.concatenate([arrays[name].reshape(-1) for name in self._shapes])

    def updated(self, arrays: Mapping[str, mx.array], gradient: mx.array, *, lr: float, times: mx.array) -> dict[str, mx.array]:
        """The arrays after one step by gradient * times; handed in, not waited for. gradient: joined."""
        self._steps += 1
        rates = lr / (1 - BETAS[0] ** self._steps), (1 - BETAS[1] ** self._steps) ** -0.5, 1 - lr * self._weight_decay
        before = self.joined(arrays), gradient, self._mean, self._mean_square
        after, self._mean, self._mean_square = _update(*before, times, *map(mx.array, rates))
        mx.async_eval(after, self._mean, self._mean_square)
        return self._apart(after)

    def arrays(self) -> Arrays:
        """ "<name>.exp_avg", "<name>.exp_avg_sq" and "step"."""
        state: Arrays = {"step": np.array(self._steps, np.int64)}
        for key, moments in (("exp_avg", self._mean), ("exp_avg_sq", self._mean_square)):
            state |= {f"{name}.{key}": np.array(part) for name, part in self._apart(moments).items()}
        return state

    def restore(self, arrays: Arrays) -> None:
        self._steps = int(arrays["step"])
        self._mean, self._mean_square = (
            self.joined({name: mx.array(arrays[f"{name}.{key}"]) for name in self._shapes}) for key in ("exp_avg", "exp_avg_sq")
        )

    def _apart(self, joined: mx.array) -> dict[str, mx.array]:
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in self._shapes.values()])[:-1].tolist()
        parts = zip(self._shapes.items(), mx.split(joined, ends), strict=True)
        return {name: part.reshape(shape) for (name, shape), part in parts}


@fused
def _update(
    weights: mx.array,
    gradient: mx.array,
    mean: mx.array,
    mean_square: mx.array,
    times: mx.array,
    rate: mx.array,
    widening: mx.array,
    kept: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    """times: what the gradient is multiplied with. rate: the learning rate over the mean's correction. widening: the correction
    of the mean square's root. kept: the share of a weight that decay leaves."""
    gradient = gradient * times
    mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
    mean_square = BETAS[1] * mean_square + (1 - BETAS[1]) * gradient * gradient
    return weights * kept - rate * mean / (mx.sqrt(mean_square) * widening + EPSILON), mean, mean_square


def norm(joined: mx.array) -> mx.array:
    """Of all numbers. In parts, since MLX's CPU sums a row into one float32."""
    squares = mx.pad(mx.square(joined), (0, -joined.size % _PART))
    return mx.sqrt(squares.reshape(-1, _PART).sum(-1).sum())
