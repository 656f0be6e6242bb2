"""A second thread for what must not be part of a gradient that is being taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import mlx.core as mx

from mlxtune.backends.mlx.worker import Worker

_taking = ContextVar("taking a gradient", default=False)


@contextmanager
def taking_gradient() -> Iterator[None]:
    """Inside, `untraced` goes to the second thread: MLX does not tell whether a gradient is being taken."""
    token = _taking.set(True)
    try:
        yield
    finally:
        _taking.reset(token)


def untraced(function: Callable[..., Any], *arrays: Any) -> Any:
    """function(*arrays), on this thread's stream, where MLX sees no gradient being taken; none goes through `function`.

    MLX notes for each thread that a gradient is being taken, and then runs compiled functions in their parts.
    """
    if not _taking.get():
        return function(*arrays)
    return _worker().call(_on, mx.default_stream(mx.default_device()), function, arrays).result()


@cache
def _worker() -> Worker:
    return Worker("mlx-untraced")


def _on(stream: mx.Stream, function: Callable[..., Any], arrays: tuple[Any, ...]) -> Any:
    with mx.stream(stream):
        return function(*arrays)
