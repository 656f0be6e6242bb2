"""A second thread for what must not be part of a gradient that is being taken."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any

import mlx.core as mx


def untraced(function: Callable[..., Any], *arrays: Any) -> Any:
    """function(*arrays), on this thread's stream, while MLX sees no gradient being taken; none goes through `function`.

    MLX notes for each thread that a gradient is being taken, and then runs compiled functions in their parts.
    """
    queue = _queue()
    if current_thread().name == _NAME:
        return function(*arrays)
    done: Future[Any] = Future()
    queue.put((done, mx.default_stream(mx.default_device()), function, arrays))
    return done.result()


_NAME = "mlx-untraced"


@cache
def _queue() -> SimpleQueue[tuple[Future[Any], mx.Stream, Callable[..., Any], tuple[Any, ...]]]:
    queue: SimpleQueue = SimpleQueue()
    # Not a thread of a pool: Python waits for those at its end, and a thread that ends with compiled functions in MLX's cache
    # aborts the process.
    Thread(target=_serve, args=(queue,), name=_NAME, daemon=True).start()
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
