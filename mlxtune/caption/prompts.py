"""What a captioner is asked: prompts with placeholders, from a `base_prompts.json` or built in (Russian and English)."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mlxtune.errors import DataError

T = TypeVar("T")

LANGUAGES = ("ru", "en")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")  # the braces of a JSON example hold more than a word
_Text = Annotated[str, Field(min_length=1)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CaptionPrompt(_Form):
    """prompt: what the captioner is asked, with the name. question: what the trained model is asked, without it."""

    prompt: _Text
    question: _Text | Annotated[list[_Text], Field(min_length=1)]

    @field_validator("prompt")
    @classmethod
    def _names(cls, value: str) -> str:
        return _checked(value, known=("name",), needed=("name",))

    @field_validator("question")
    @classmethod
    def _names_nobody(cls, value: str | list[str]) -> str | list[str]:
        for text in [value] if isinstance(value, str) else value:
            if "{name}" in text:
                raise ValueError("holds {name}: a question that names who is shown teaches nobody to recognise him")
        return value

    def asked(self, identity: str) -> str:
        """One of the questions, always the same one for the same row."""
        if isinstance(self.question, str):
            return self.question
        return _pick(self.question, identity)


class QuestionPrompt(_Form):
    prompt: _Text

    @field_validator("prompt")
    @classmethod
    def _names(cls, value: str) -> str:
        return _checked(value, known=("name", "count"), needed=("name", "count"))


class Prompts(_Form):
    """captions: one after the other is used for a picture's captions. questions: one of them is used for a
    picture's question/answer pairs.

    reminder: put behind a prompt whose answer lacked the name. avoid: put behind a prompt for further questions.
    """

    captions: Annotated[dict[_Text, CaptionPrompt], Field(min_length=1)]
    questions: Annotated[dict[_Text, QuestionPrompt], Field(min_length=1)]
    reminder: _Text
    avoid: _Text

    @field_validator("reminder")
    @classmethod
    def _reminds(cls, value: str) -> str:
        return _checked(value, known=("name",), needed=("name",))

    @field_validator("avoid")
    @classmethod
    def _avoids(cls, value: str) -> str:
        return _checked(value, known=("questions",), needed=("questions",))

    def caption(self, number: int) -> CaptionPrompt:
        """number: from 1."""
        return list(self.captions.values())[(number - 1) % len(self.captions)]

    def pairs(self, identity: str) -> QuestionPrompt:
        """One of them, always the same one for the same picture."""
        return _pick(list(self.questions.values()), identity)


def read_prompts(path: Path | str) -> Prompts:
    """A file of prompts, or the built-in ones by their language ("ru", "en"). What a file leaves out is taken from the
    built-in prompts of its "language". Raises DataError."""
    if str(path) in LANGUAGES:
        return Prompts.model_validate(_built_in(str(path)))
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Give a JSON file with prompts, or one of {', '.join(LANGUAGES)}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). Mend it, or start from the example in the docs") from error
    if not isinstance(values, dict):
        raise DataError(f'{path}: holds no object with "captions" and "questions". Start from the example in the docs')
    language = values.pop("language", None)
    if language is not None and language not in LANGUAGES:
        raise DataError(f"{path}: language is {language!r}. Write one of {', '.join(LANGUAGES)}, or leave it out")
    base = _built_in(language or ("ru" if has_cyrillic(json.dumps(values, ensure_ascii=False)) else "en"))
    try:
        return Prompts.model_validate(base | values)
    except ValidationError as error:
        raise DataError(f"{path}: {_first(error)}") from error


def filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with its placeholders filled in; other braces stay."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


def has_cyrillic(text: str) -> bool:
    return re.search(r"[\u0400-\u04ff]", text) is not None


def _pick(items: Sequence[T], identity: str) -> T:
    return items[int(hashlib.sha256(identity.encode()).hexdigest(), 16) % len(items)]


def _built_in(language: str) -> dict[str, Any]:
    return json.loads(Path(__file__).with_name(f"prompts_{language}.json").read_text(encoding="utf-8"))


def _checked(text: str, *, known: tuple[str, ...], needed: tuple[str, ...]) -> str:
    names = _PLACEHOLDER.findall(text)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"no placeholder {{{name}}}; {'did you mean' if near else 'there is'} {{{(near or known)[0]}}}")
    for name in needed:
        if name not in names:
            raise ValueError(f"lacks the placeholder {{{name}}}")
    return text


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
