"""What a run has done so far, counted from all threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from mlxtune.caption.base import RequestError, Usage
from mlxtune.caption.pictures import Picture
from mlxtune.caption.retry import Course


class Failure(NamedTuple):
    picture: Picture
    reason: str
    message: str


@dataclass
class Tally:
    """pictures: how many this run is to describe. tokens: sums of what servers said; uncounted: replies that did not say.

    changed: called, from one thread at a time, after every change.
    """

    pictures: int
    changed: Callable[[Tally], None]
    stopping: bool = False  # an interrupt came: only requests in flight are waited for
    done: int = 0  # pictures that have all they need
    rows: int = 0
    flagged: int = 0  # pictures with a caption that lacks the name after all
    requests: int = 0  # sent, whatever came back
    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _courses: dict[str, Course] = field(default_factory=dict, repr=False)

    def stop(self) -> None:
        with self._lock:
            self.stopping = True
            self.changed(self)

    def sent(self) -> None:
        with self._lock:
            self.requests += 1

    def replied(self, usage: Usage) -> None:
        with self._lock:
            self.replies += 1
            self.prompt_tokens += usage.prompt_tokens or 0
            self.completion_tokens += usage.completion_tokens or 0
            self.uncounted += usage.prompt_tokens is None
            self.changed(self)

    def retried(self, reason: str) -> None:
        with self._lock:
            self.retries[reason] += 1
            self.changed(self)

    def saved(self, kind: str, rows: int) -> None:
        with self._lock:
            self.rows += rows
            self._course(kind).succeeded()

    def finished(self, *, flagged: bool) -> None:
        with self._lock:
            self.done += 1
            self.flagged += flagged
            self.changed(self)

    def failed(self, kind: str, picture: Picture, error: RequestError) -> str | None:
        """Why the run should end; None while it should go on."""
        with self._lock:
            self.failures.append(Failure(picture, error.reason, str(error)))
            self.changed(self)
            return self._course(kind).failed(error)

    def _course(self, kind: str) -> Course:
        return self._courses.setdefault(kind, Course())
