"""What a captioner is, what it answers, and the two ways in which a request ends badly."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple, Protocol

# Reasons that requests and pictures are counted by.
RATE_LIMIT = "rate limit"
SERVER_ERROR = "server error"
TIME_OUT = "time-out"
NO_CONNECTION = "no connection"
BAD_REPLY = "bad reply"
CREDENTIALS = "wrong credentials"
NO_CREDIT = "no credit"
FORBIDDEN = "forbidden"
NOT_FOUND = "no such model or address"
TOO_LARGE = "picture too large"
CONTENT_FILTER = "content filter"
BAD_REQUEST = "bad request"
UNREADABLE = "picture unreadable"

_REFUSALS = {401: CREDENTIALS, 402: NO_CREDIT, 403: FORBIDDEN, 404: NOT_FOUND, 413: TOO_LARGE}
_FILTER_WORDS = ("content_filter", "content_policy", "content management policy")
_NO_CREDIT_WORDS = ("insufficient_quota", "billing_hard_limit")


class Usage(NamedTuple):
    """Tokens that a server says it counted; None where it does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Reply(NamedTuple):
    """text: as the model wrote it. cut: whether it ran into the server's length limit."""

    text: str
    usage: Usage = Usage()
    cut: bool = False


class Captioner(Protocol):
    """Anything that answers a prompt about one picture. `describe` is called from several threads, unless `inline`.

    name, model: stand in every row. inline: must be called in the thread that made it, one request at a time.
    concurrency: requests at once unless the user says otherwise.
    """

    name: str
    model: str
    inline: bool
    concurrency: int

    def describe(self, image: bytes, prompt: str) -> Reply:
        """image: a JPEG file's bytes. Raises TransientError or RefusedError, and nothing else that a server can cause."""
        ...

    def forget(self, image: bytes) -> None:
        """The picture will not be asked about again: whatever the server keeps of it may go. Raises nothing."""
        ...

    def close(self) -> None: ...


class RequestError(Exception):
    """A request that brought no answer. reason: a few words to count by. The message: what the server said."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


class TransientError(RequestError):
    """The same request may succeed later. retry_after: seconds that the server asks to wait; None where it does not say."""

    def __init__(self, reason: str, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after = retry_after


class RefusedError(RequestError):
    """The same request would be refused again."""


def from_status(status: int, *, headers: Mapping[str, str], body: str) -> RequestError:
    """The error that an HTTP answer means. headers: looked up in lower case."""
    message = f"HTTP {status}: {' '.join(body.split())[:300]}"
    if asked := headers.get("retry-after"):
        message += f" (Retry-After: {asked})"
    lowered = body.lower()
    if any(word in lowered for word in _NO_CREDIT_WORDS):  # OpenAI says so with status 429; waiting does not help
        return RefusedError(NO_CREDIT, message)
    if status == 429:
        return TransientError(RATE_LIMIT, message, retry_after=seconds_to_wait(headers.get("retry-after")))
    if status in (408, 409, 425) or status >= 500:
        reason = TIME_OUT if status == 408 else SERVER_ERROR
        return TransientError(reason, message, retry_after=seconds_to_wait(headers.get("retry-after")))
    if any(word in lowered for word in _FILTER_WORDS):
        return RefusedError(CONTENT_FILTER, message)
    return RefusedError(_REFUSALS.get(status, BAD_REQUEST), message)


def seconds_to_wait(value: str | None) -> float | None:
    """A ``Retry-After`` header in seconds from now: a number or an HTTP date (RFC 9110, 10.2.3); None if it is neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None  # "nan" is a number to float()
