"""Which captioners there are. A new one is a class with the methods of `base.Captioner` and an entry of `CAPTIONERS`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mlxtune.caption.base import Captioner
from mlxtune.errors import MlxtuneError


def _gigachat(model: str | None, *, base_url: str | None, timeout_s: float) -> Captioner:
    from mlxtune.caption.with_gigachat import GigaChatCaptioner

    return GigaChatCaptioner(model, base_url=base_url, timeout_s=timeout_s)


def _openai(model: str | None, *, base_url: str | None, timeout_s: float) -> Captioner:
    from mlxtune.caption.with_openai import OpenAICaptioner

    return OpenAICaptioner(model, base_url=base_url, timeout_s=timeout_s)


def _local(model: str | None, *, base_url: str | None, timeout_s: float) -> Captioner:
    from mlxtune.caption.with_local import LocalCaptioner

    return LocalCaptioner(model, base_url=base_url, timeout_s=timeout_s)


CAPTIONERS: dict[str, Callable[..., Captioner]] = {"gigachat": _gigachat, "openai": _openai, "local": _local}


def open_captioner(
    name: str | None = None, *, model: str | None = None, base_url: str | None = None, timeout_s: float = 120.0
) -> Captioner:
    """A captioner that is ready to ask; what credentials the environment lacks is taken from ``.env`` here or above.

    name: None takes the one whose credentials there are. Raises MlxtuneError where the library, the credentials or the
    model are missing.
    """
    read_dotenv()
    chosen = name or _by_credentials()
    if chosen not in CAPTIONERS:
        raise MlxtuneError(f"no captioner '{chosen}'. There are: {', '.join(CAPTIONERS)}")
    return CAPTIONERS[chosen](model, base_url=base_url, timeout_s=timeout_s)


def read_dotenv() -> None:
    """Sets variables of the nearest ``.env``, here or in a folder above; those that are set already stay."""
    file = next((folder / ".env" for folder in (Path.cwd(), *Path.cwd().parents) if (folder / ".env").is_file()), None)
    if file is None:
        return
    try:
        from dotenv import load_dotenv
    except ImportError as error:
        raise MlxtuneError(f"{file}: reading it needs python-dotenv. Install it: pip install 'mlxtune[captions]'") from error
    load_dotenv(file, override=False)


def _by_credentials() -> str:
    found = [name for name, key in (("gigachat", "GIGACHAT_CREDENTIALS"), ("openai", "OPENAI_API_KEY")) if os.environ.get(key)]
    if len(found) != 1:
        why = "credentials for both GigaChat and OpenAI are set" if found else "no credentials for GigaChat or OpenAI are set"
        raise MlxtuneError(f"{why}. Say which captioner to use: --with gigachat, --with openai or --with local")
    return found[0]
