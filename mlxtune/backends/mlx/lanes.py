"""Work side by side on a CPU. MLX computes what it is given in one thread, and only in a matrix product do other cores help it:
with a thread for each core, and products of one core each, none of them waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

import mlx.core as mx

from mlxtune import blas
from mlxtune.backends.mlx.vector import by_parts
from mlxtune.backends.mlx.worker import Worker

_MOST = 4  # each lane takes its own memory
_in_lane = ContextVar("in a lane", default=False)
Part, Result = TypeVar("Part"), TypeVar("Result")


def lanes(dtype: mx.Dtype) -> int:
    """How many there are for arrays of this type; `settled` stands where functions are built from parts."""
    return min(blas.threads(), _MOST) if by_parts(dtype) else 1


def side_by_side(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """function of each part, at most as many as `lanes`. Arrays that they have in common must have been evaluated."""
    if len(parts) == 1:
        return [function(parts[0])]
    with blas.single_threaded():
        results = [_lane(number).call(_as_lane, function, part) for number, part in enumerate(parts)]
        try:
            wait(results)
        finally:
            wait(results)  # an interrupt leaves them at work, and a process must not end so
    return [result.result() for result in results]


def settled(x: mx.array) -> mx.array:
    """x, which is computed now if this is a lane.

    MLX lets a hundred operations wait, those of all threads together: a thread that hands in more than it can do takes the place
    of the others', whose cores then stand still.
    """
    if _in_lane.get():
        mx.eval(x)
    return x


def _as_lane(function: Callable[[Part], Result], part: Part) -> Result:
    _in_lane.set(True)  # in this thread, which does nothing else; MLX gives each a stream of its own
    return function(part)


@cache
def _lane(number: int) -> Worker:
    return Worker(f"mlx-lane-{number}")
