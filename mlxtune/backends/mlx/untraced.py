"""A second thread for what must not be part of a gradient that is being taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from queue import SimpleQueue
from threading import Thread
from typing import Any

import mlx.core as mx

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
    done: Future[Any] = Future()
    _queue().put((done, mx.default_stream(mx.default_device()), function, arrays))
    return done.result()


@cache
def _queue() -> SimpleQueue[tuple[Future[Any], mx.Stream, Callable[..., Any], tuple[Any, ...]]]:
    queue: SimpleQueue = SimpleQueue()
    # Not a thread of a pool: Python waits for those at its end, and a thread that ends with compiled functions in MLX's cache
    # aborts the process.
    Thread(target=_serve, args=(queue,), name="mlx-untraced", daemon=True).start()
    return queue


def _serve(queue: SimpleQueue) -> None:
    while True:
        _call(*queue.get())


def _call(done: Future[Any], stream: mx.Stream, function: Callable[..., Any], arrays: tuple[Any, ...]) -> None:
    try:
        with mx.stream(stream):
            done.set_result(function(*arrays))
    except BaseException as error:
        done.set_exception(error)
