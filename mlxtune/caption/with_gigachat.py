"""GigaChat: the picture is uploaded once, asked about as often as needed, and deleted from the account's files."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import Any

from mlxtune.caption.base import (
    BAD_REPLY,
    BAD_REQUEST,
    CONTENT_FILTER,
    NO_CONNECTION,
    TIME_OUT,
    RefusedError,
    Reply,
    RequestError,
    TransientError,
    Usage,
    from_status,
)
from mlxtune.errors import MlxtuneError

_PREFIX = "mlxtune-"  # of our uploads' names: what a killed run left behind is known by it
_STALE_S = 24 * 3600.0
_CREDENTIALS = ("GIGACHAT_CREDENTIALS", "GIGACHAT_ACCESS_TOKEN", "GIGACHAT_USER")


class GigaChatCaptioner:
    """Credentials and addresses come from the library's own variables (GIGACHAT_CREDENTIALS, GIGACHAT_SCOPE, …)."""

    name = "gigachat"
    inline = False
    concurrency = 1  # small accounts may be served no more than that at a time; --concurrency raises it

    def __init__(self, model: str | None, *, base_url: str | None, timeout_s: float) -> None:
        try:
            import gigachat
        except ImportError as error:
            raise MlxtuneError("--with gigachat needs a library of that name: pip install 'mlxtune[captions]'") from error
        chosen = model or os.environ.get("GIGACHAT_MODEL", "").strip()
        if not chosen:
            raise MlxtuneError(
                "GigaChat has no default model. Give --model, or set GIGACHAT_MODEL, to one that sees pictures (GigaChat-2-Max)"
            )
        if not any(os.environ.get(name) for name in _CREDENTIALS):
            raise MlxtuneError("no GigaChat credentials. Set GIGACHAT_CREDENTIALS in the environment or in .env")
        _refuse_without_checks()
        self.model = chosen
        self._uploads: dict[tuple[int, bytes], str] = {}  # -> file id
        self._swept = False
        # The library's own retries are off by default; GIGACHAT_MAX_RETRIES must not bring them back: retrying is in one place.
        self._client = gigachat.GigaChat(model=chosen, base_url=base_url, timeout=timeout_s, verify_ssl_certs=True, max_retries=0)

    def describe(self, image: bytes, prompt: str) -> Reply:
        key = _key(image)
        if key not in self._uploads:
            self._sweep()
            file = (f"{_PREFIX}{hashlib.sha256(image).hexdigest()[:16]}.jpg", image, "image/jpeg")
            self._uploads[key] = _call(lambda: self._client.upload_file(file, purpose="general")).id_
        message = {"role": "user", "content": prompt, "attachments": [self._uploads[key]]}
        try:
            return _reply(_call(lambda: self._client.chat({"messages": [message]})))
        except RefusedError:
            self.forget(image)  # the upload may be what was refused: asked again, the picture is sent anew
            raise

    def forget(self, image: bytes) -> None:
        file = self._uploads.pop(_key(image), None)
        if file is not None:
            self._delete(file)

    def close(self) -> None:
        for file in self._uploads.values():
            self._delete(file)
        self._client.close()

    def _delete(self, file: str) -> None:
        try:
            _call(lambda: self._client.delete_file(file))
        except RequestError:
            pass  # costs nothing but a place in the account's files; the next run sweeps it

    def _sweep(self) -> None:
        """Deletes uploads of runs that were killed; younger ones may belong to a run on another machine."""
        if self._swept:
            return
        self._swept = True
        try:
            files = _call(self._client.get_files).data
        except RequestError:
            return  # the upload that follows meets the same trouble, and says so
        for file in files:
            if file.filename.startswith(_PREFIX) and file.created_at < time.time() - _STALE_S:
                self._delete(file.id_)


def _key(image: bytes) -> tuple[int, bytes]:
    """By thread: where two classes share a picture, one may be done with it while the other is not."""
    return threading.get_ident(), hashlib.sha256(image).digest()


def _refuse_without_checks() -> None:
    if os.environ.get("GIGACHAT_VERIFY_SSL_CERTS", "1").strip().lower() in ("0", "false", "no", "off", "f", "n"):
        raise MlxtuneError(
            "GIGACHAT_VERIFY_SSL_CERTS is off: anybody on the way could read your credentials. Remove it, and set "
            "GIGACHAT_CA_BUNDLE_FILE to the root certificate of GigaChat"
        )


def _call(request: Any) -> Any:
    """What `request` returns. The library's errors, and those of httpx that it lets through, become ours."""
    import httpx
    from gigachat.exceptions import GigaChatException, ResponseError

    try:
        return request()
    except ResponseError as error:
        body = (error.content or b"").decode("utf-8", "replace")
        headers = {key.lower(): value for key, value in (error.headers or {}).items()}
        raise from_status(error.status_code, headers=headers, body=body) from error
    except httpx.TimeoutException as error:
        raise TransientError(TIME_OUT, str(error)) from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise RefusedError(BAD_REQUEST, f"the address of the server is wrong: {error}") from error
    except httpx.HTTPError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            message = "the server's certificate is not trusted. Set GIGACHAT_CA_BUNDLE_FILE to the root certificate of GigaChat"
            raise RefusedError(NO_CONNECTION, message) from error
        raise TransientError(NO_CONNECTION, str(error) or type(error).__name__) from error
    except GigaChatException as error:
        raise RefusedError(BAD_REQUEST, str(error)) from error
    except (ValueError, TypeError) as error:  # a body that is no JSON, or not of the form that the library expects
        raise TransientError(BAD_REPLY, f"not the JSON of an answer ({type(error).__name__})") from error


def _reply(answer: Any) -> Reply:
    if not answer.choices:
        raise TransientError(BAD_REPLY, "no answer in the reply")
    choice = answer.choices[0]
    if choice.finish_reason == "blacklist":
        raise RefusedError(CONTENT_FILTER, "GigaChat declined to speak about this picture")
    usage = Usage(answer.usage.prompt_tokens, answer.usage.completion_tokens)
    return Reply(choice.message.content, usage, cut=choice.finish_reason == "length")
