"""The one place where a request is tried again, and where it is decided that there is no point in going on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from mlxtune.caption.base import (
    CONTENT_FILTER,
    CREDENTIALS,
    NO_CONNECTION,
    NO_CREDIT,
    NOT_FOUND,
    RATE_LIMIT,
    SERVER_ERROR,
    TIME_OUT,
    UNREADABLE,
    RefusedError,
    RequestError,
    TransientError,
)

T = TypeVar("T")

# A token that has just run out is renewed by all threads at once, and one may throw away what another has just got (the
# gigachat library keeps one token and no lock). A wrong key is refused every time.
_RENEWALS = 3


class StoppedError(Exception):
    """The run ends: a request that waits for its next try is given up."""


@dataclass(frozen=True)
class RetryPolicy:
    """How patient a run is. Waits grow as backoff_s * 2**n, with jitter, to longest_s; a server's Retry-After goes before.

    attempts: of one request, the first included. replies: answers of the wrong form (bad JSON, no text) that are paid for
    before a picture counts as failed. longest_s: also the longest Retry-After that is waited for.
    """

    attempts: int = 8
    replies: int = 3
    backoff_s: float = 1.0
    longest_s: float = 120.0


class Patience:
    """Calls requests of all threads by one policy. stop: once set, waiting ends with StoppedError.

    retried: told the reason of every failure that is followed by another try.
    """

    def __init__(self, policy: RetryPolicy, *, stop: threading.Event, retried: Callable[[str], None]) -> None:
        self._policy = policy
        self._stop = stop
        self._retried = retried
        self._opens = 0.0  # time.monotonic() before which no thread asks, because the server told one of them to wait

    def call(self, request: Callable[[], T]) -> T:
        """What `request` returns. Raises the RequestError of the last try, or StoppedError."""
        policy = self._policy
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(policy.attempts),
            retry=tenacity.retry_if_exception(_Worth(longest_s=policy.longest_s)),
            wait=self._wait,
            sleep=self._sleep,
            before_sleep=lambda state: self._retried(_error(state).reason),
            reraise=True,
        )
        return retrying(self._at_open_gate, request)

    def _at_open_gate(self, request: Callable[[], T]) -> T:
        while (left := self._opens - time.monotonic()) > 0:
            self._sleep(left)
        self._sleep(0)
        return request()

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = _error(state)
        asked = error.retry_after if isinstance(error, TransientError) else None
        if asked:  # "0", or a date that is past, says no more than no header does
            if error.reason == RATE_LIMIT:  # the limit is the account's, not the thread's
                self._opens = max(self._opens, time.monotonic() + asked)
            # Threads that were told the same moment should not all come back in it.
            return asked + random.uniform(0, self._policy.backoff_s / 2)
        backoff_s = self._policy.backoff_s
        growing = tenacity.wait_exponential(multiplier=backoff_s, max=self._policy.longest_s)
        return growing(state) + random.uniform(0, backoff_s)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise StoppedError


class _Worth:
    """Whether an error of one request is worth another try."""

    def __init__(self, *, longest_s: float) -> None:
        self._longest_s = longest_s
        self._renewals = _RENEWALS

    def __call__(self, error: BaseException) -> bool:
        if isinstance(error, RefusedError) and error.reason == CREDENTIALS and self._renewals:
            self._renewals -= 1
            return True
        return isinstance(error, TransientError) and (error.retry_after or 0.0) <= self._longest_s


def _error(state: tenacity.RetryCallState) -> RequestError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, RequestError)
    return error


class Course:
    """Watches how requests of one kind end, and says when the trouble is not the pictures'."""

    def __init__(self, *, alike: int = 5) -> None:
        """alike: pictures that fail alike, none in between that does not, before a run is given up."""
        self._alike = alike
        self._answered = False
        self._last: str | None = None
        self._count = 0

    def succeeded(self) -> None:
        self._answered = True
        self._last, self._count = None, 0

    def failed(self, error: RequestError) -> str | None:
        """Why the run should end; None while it should go on."""
        self._count = self._count + 1 if error.reason == self._last else 1
        self._last = error.reason
        # 404 may also mean an upload that the server has lost.
        if error.reason in _OF_THE_ACCOUNT and not (error.reason == NOT_FOUND and self._answered):
            return f"{error.reason}: {error}. {_OF_THE_ACCOUNT[error.reason]}"
        of_the_server = error.reason in _OF_THE_SERVER or not self._answered
        if self._count < self._alike or error.reason in _OF_THE_PICTURE or not of_the_server:
            return None
        return f"{self._count} pictures in a row failed alike ({error.reason}: {error}). {_ADVICE}"


_ADVICE = "Check the server, --model and the network, then run the same command again: it goes on where it stopped"
_OF_THE_ACCOUNT = {
    CREDENTIALS: "Set the right key in the environment or in .env",
    NO_CREDIT: "Top up the account, then run the same command again: it goes on where it stopped",
    NOT_FOUND: "Check --model and --base-url",
}
_OF_THE_PICTURE = (CONTENT_FILTER, UNREADABLE)
_OF_THE_SERVER = (RATE_LIMIT, SERVER_ERROR, TIME_OUT, NO_CONNECTION)
