"""A thread that takes calls one after the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any


class Worker:
    """Not of a pool: Python waits for those at its end, and a thread that ends with compiled functions in MLX's cache aborts the
    process."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        Thread(target=self._serve, name=name, daemon=True).start()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """function(*arguments) in the worker's thread, or its error."""
        done: Future[Any] = Future()
        self._queue.put((done, function, arguments))
        return done

    def _serve(self) -> None:
        while True:
            _answer(*self._queue.get())


# Apart from the loop, whose variables would keep the last call's arrays until the next one.
def _answer(done: Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        done.set_result(function(*arguments))
    except BaseException as error:
        done.set_exception(error)
