"""What is tried again, how long is waited, and when a run is given up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate

import pytest

from mlxtune.caption.base import RefusedError, RequestError, TransientError, from_status, seconds_to_wait
from mlxtune.caption.retry import Course, Patience, RetryPolicy, StoppedError


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("3", 3.0), ("0.5", 0.5), ("-4", 0.0), ("soon", None), ("", None), ("nan", None), ("inf", float("inf"))],
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    assert seconds_to_wait(header) == seconds


def test_retry_after_as_a_date() -> None:
    assert seconds_to_wait(formatdate(time.time() + 60, usegmt=True)) == pytest.approx(60, abs=2)
    assert seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert seconds_to_wait("Wed, 99 Oct 2015 07:28:00 GMT") is None


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (429, "slow down", TransientError, "rate limit"),
        (429, '{"error": {"code": "insufficient_quota"}}', RefusedError, "no credit"),
        (500, "", TransientError, "server error"),
        (503, "", TransientError, "server error"),
        (408, "", TransientError, "time-out"),
        (400, "bad", RefusedError, "bad request"),
        (400, '{"code": "content_filter"}', RefusedError, "content filter"),
        (401, "", RefusedError, "wrong credentials"),
        (402, "", RefusedError, "no credit"),
        (403, "", RefusedError, "forbidden"),
        (404, "", RefusedError, "no such model or address"),
        (413, "", RefusedError, "picture too large"),
        (422, "", RefusedError, "bad request"),
    ],
)
def test_what_a_status_means(status: int, body: str, kind: type[RequestError], reason: str) -> None:
    error = from_status(status, headers={}, body=body)
    assert (type(error), error.reason) == (kind, reason)
    assert str(error).startswith(f"HTTP {status}")


class Script:
    """A request that fails as told, then answers; and when it was asked."""

    def __init__(self, *errors: RequestError) -> None:
        self.errors = list(errors)
        self.asked: list[float] = []

    def __call__(self) -> str:
        self.asked.append(time.monotonic())
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    @property
    def waits(self) -> list[float]:
        return [later - sooner for sooner, later in zip(self.asked, self.asked[1:], strict=False)]


def patience(retried: Callable[[str], None] = lambda _: None, **policy: float) -> Patience:
    values = {"attempts": 4, "backoff_s": 0.01, "longest_s": 1.0} | policy
    return Patience(RetryPolicy(**values), stop=threading.Event(), retried=retried)


def test_waits_grow_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    script, counted = Script(*(TransientError("server error") for _ in range(3))), Counter[str]()
    assert patience(lambda reason: counted.update([reason])).call(script) == "answer"
    assert counted == {"server error": 3}
    for wait, least in zip(script.waits, (0.01, 0.02, 0.04), strict=True):
        assert wait >= least
    # Threads that failed together must not come back together.
    monkeypatch.setattr("mlxtune.caption.retry.random.uniform", lambda low, high: high * 30)
    late = Script(TransientError("server error"))
    patience().call(late)
    assert late.waits[0] >= 0.3


def test_retry_after_goes_before_the_backoff() -> None:
    script = Script(TransientError("rate limit", retry_after=0.2), TransientError("server error", retry_after=0.1))
    patience(backoff_s=0.001).call(script)
    assert 0.2 <= script.waits[0] < 0.6 and 0.1 <= script.waits[1] < 0.6
    # "0", or a date that is past: nobody to honour, so that the server is not asked eight times in a moment.
    at_once = Script(*(TransientError("rate limit", retry_after=0.0) for _ in range(2)))
    patience(backoff_s=0.05).call(at_once)
    assert at_once.waits[0] >= 0.05 and at_once.waits[1] >= 0.1


def test_one_thread_that_is_told_to_wait_makes_all_wait() -> None:
    shared = patience()
    told = threading.Thread(target=shared.call, args=(Script(TransientError("rate limit", retry_after=0.3)),))
    told.start()
    time.sleep(0.1)
    started, other = time.monotonic(), Script()
    shared.call(other)
    assert other.asked[0] - started >= 0.15
    told.join()


@pytest.mark.parametrize(
    ("errors", "asked"),
    [
        ([RefusedError("bad request")], 1),
        ([RefusedError("content filter")], 1),
        ([TransientError("rate limit", retry_after=2.0)], 1),  # longer than the policy waits
        ([RefusedError("wrong credentials")] * 4, 4),  # again, for a token that ran out
        ([TransientError("server error")] * 9, 4),
    ],
)
def test_what_ends_in_an_error(errors: list[RequestError], asked: int) -> None:
    script = Script(*errors)
    with pytest.raises(RequestError) as caught:
        patience().call(script)
    assert caught.value.reason == errors[0].reason
    assert len(script.asked) == asked


def test_a_new_token_is_tried() -> None:
    assert patience().call(Script(RefusedError("wrong credentials"))) == "answer"


def test_a_stop_ends_waiting_and_starts_nothing() -> None:
    stop = threading.Event()
    waiting = Patience(RetryPolicy(backoff_s=30.0), stop=stop, retried=lambda _: None)
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    with pytest.raises(StoppedError):
        waiting.call(Script(TransientError("server error")))
    assert time.monotonic() - started < 5
    late = Script()
    with pytest.raises(StoppedError):
        waiting.call(late)
    assert late.asked == []


ENDS = [
    ("wrong credentials at once", ["wrong credentials"], True),
    ("no credit in the middle", ["+", "no credit"], True),
    ("no such model at once", ["no such model or address"], True),
    ("a lost upload in the middle", ["+", "no such model or address"], False),
    ("all alike from the start", ["bad request"] * 5, True),
    ("four alike from the start", ["bad request"] * 4, False),
    ("alike after an answer", ["+"] + ["bad request"] * 9, False),
    ("unlike each other", ["bad request", "forbidden"] * 5, False),
    ("server gone in the middle", ["+"] + ["server error"] * 5, True),
    ("server back again", (["server error"] * 4 + ["+"]) * 3, False),
    ("a class that the filter dislikes", ["content filter"] * 50, False),
    ("broken files", ["picture unreadable"] * 50, False),
    ("a model that cannot write JSON", ["bad JSON"] * 5, True),
    ("a model that seldom can", ["+"] + ["bad JSON"] * 5, False),
]


@pytest.mark.parametrize(("course", "ends"), [(course, ends) for _, course, ends in ENDS], ids=[name for name, *_ in ENDS])
def test_when_a_run_is_given_up(course: list[str], ends: bool) -> None:
    watched, ending = Course(), None
    for step in course:
        ending = watched.succeeded() if step == "+" else watched.failed(RefusedError(step, "the server's words"))
    assert (ending is not None) is ends
    if ending:
        assert "the server's words" in ending and "\n" not in ending
