"""Any server that speaks OpenAI's chat interface: OpenAI itself, or vLLM, llama.cpp, LM Studio, Ollama … of your own."""

from __future__ import annotations

import base64
import os
from typing import Any

from mlxtune.caption.base import (
    BAD_REPLY,
    BAD_REQUEST,
    CONTENT_FILTER,
    NO_CONNECTION,
    TIME_OUT,
    RefusedError,
    Reply,
    TransientError,
    Usage,
    from_status,
)
from mlxtune.errors import MlxtuneError


class OpenAICaptioner:
    """The key comes from OPENAI_API_KEY, the address from `base_url` or OPENAI_BASE_URL; own servers need no key."""

    name = "openai"
    inline = False
    concurrency = 4

    def __init__(self, model: str | None, *, base_url: str | None, timeout_s: float) -> None:
        try:
            import openai
        except ImportError as error:
            raise MlxtuneError("--with openai needs a library of that name: pip install 'mlxtune[captions]'") from error
        if not model:
            raise MlxtuneError("--with openai needs --model: the name of a model on that server that sees pictures")
        own_server = base_url or os.environ.get("OPENAI_BASE_URL")
        key = os.environ.get("OPENAI_API_KEY") or ("none" if own_server else None)
        if key is None:
            raise MlxtuneError(
                "no key for OpenAI. Set OPENAI_API_KEY in the environment or .env, or give --base-url of your server"
            )
        self.model = model
        # max_retries=0: retrying is in one place, where it is counted.
        self._client = openai.OpenAI(api_key=key, base_url=base_url, timeout=timeout_s, max_retries=0)

    def describe(self, image: bytes, prompt: str) -> Reply:
        address = "data:image/jpeg;base64," + base64.b64encode(image).decode("ascii")
        parts = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": address}}]
        messages = [{"role": "user", "content": parts}]
        return _reply(_call(lambda: self._client.chat.completions.create(model=self.model, messages=messages)))

    def forget(self, image: bytes) -> None:
        """Nothing is kept on the server."""

    def close(self) -> None:
        self._client.close()


def _call(request: Any) -> Any:
    """What `request` returns; the library's errors become ours."""
    import openai

    try:
        return request()
    except openai.APIStatusError as error:
        headers = {key.lower(): value for key, value in error.response.headers.items()}
        raise from_status(error.status_code, headers=headers, body=error.response.text) from error
    except openai.APITimeoutError as error:
        raise TransientError(TIME_OUT, error.message) from error
    except openai.APIConnectionError as error:
        cause = str(error.__cause__ or "")
        if "CERTIFICATE_VERIFY_FAILED" in cause:
            message = "the server's certificate is not trusted. Set SSL_CERT_FILE to the root certificate that signed it"
            raise RefusedError(NO_CONNECTION, message) from error
        raise TransientError(NO_CONNECTION, cause or error.message) from error
    except openai.OpenAIError as error:
        raise RefusedError(BAD_REQUEST, str(error)) from error
    except (ValueError, TypeError) as error:  # a body that is no JSON
        raise TransientError(BAD_REPLY, f"not the JSON of an answer ({type(error).__name__})") from error


def _reply(answer: Any) -> Reply:
    # The library checks neither the body nor its type: what is no answer may come as text, or as an object of empty fields.
    choices = getattr(answer, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    if message is None:
        raise TransientError(BAD_REPLY, "no answer in the reply")
    if choices[0].finish_reason == "content_filter" or getattr(message, "refusal", None):
        raise RefusedError(CONTENT_FILTER, getattr(message, "refusal", None) or "the server's content filter stopped the answer")
    if not isinstance(message.content, str):
        raise TransientError(BAD_REPLY, "the reply holds no text")
    usage = getattr(answer, "usage", None)
    counts = Usage(getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
    return Reply(message.content, counts, cut=choices[0].finish_reason == "length")
