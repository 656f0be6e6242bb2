"""What is asked: templates with columns in braces, and the turns of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from string import Formatter
from typing import Any

from mlxtune.errors import RecipeError
from mlxtune.images import describe
from mlxtune.tasks.fields import Fields, answer_text, is_absent, shown_name

Message = dict[str, Any]


def fill(template: str, fields: Fields, values: Mapping[str, Any]) -> str:
    """The template with columns put in their places: "{{" is a brace, null is empty text.

    values: what names stand for beside the row's own columns (they win over columns of the same name).
    Raises RecipeError where the template itself is wrong, RowError where the row has no such column or it is no text.
    """
    parts = []
    for literal, name in template_parts(template):
        parts.append(literal)
        if name is not None:
            parts.append(_value(name, fields, values))
    text = "".join(parts)
    if not text.strip():
        raise fields.refusal("data.prompt gives an empty question for this row. Mend the row", reason="field missing")
    return fields.checked(text, name="data.prompt")


@lru_cache(maxsize=64)
def template_parts(template: str) -> tuple[tuple[str, str | None], ...]:
    """(text, the column behind it or None at the end) of a template. Raises RecipeError where it cannot be read."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise RecipeError(f"data.prompt: {error} in {template!r}. Write columns as {{name}} and a brace itself twice") from error
    for _, name, form, conversion in parsed:
        if name is not None and (not name.strip() or form or conversion):
            raise RecipeError(f"data.prompt: only plain column names may stand in braces; mend {template!r}")
    return tuple((literal, name.strip() if name is not None else None) for literal, name, _, _ in parsed)


def columns_of(template: str) -> set[str]:
    return {name for _, name in template_parts(template) if name is not None}


def _value(name: str, fields: Fields, values: Mapping[str, Any]) -> str:
    if name not in values and name not in fields.row:
        own = f", and {', '.join(map(shown_name, values))}" if values else ""
        raise fields.refusal(
            f"data.prompt names '{{{name}}}'; the row has {fields.listed()}{own}. Mend data.prompt", reason="field missing"
        )
    value = values[name] if name in values else fields.row[name]
    if isinstance(value, str):
        return value
    if is_absent(value):
        return ""
    if (text := answer_text(value)) is None:
        raise fields.refusal(
            f"data.prompt names '{{{name}}}', which is {describe(value)}. Name columns of texts or numbers", reason="field wrong"
        )
    return text


def system_turn(text: str | None) -> list[Message]:
    """The turn in front of all others, or none."""
    return [{"role": "system", "content": [{"type": "text", "text": text}]}] if text else []


def user_message(prompt: str, *, images: int) -> list[Message]:
    """One user turn: the pictures first, then the text."""
    parts: list[dict[str, str]] = [{"type": "image"}] * images
    return [{"role": "user", "content": [dict(part) for part in parts] + [{"type": "text", "text": prompt}]}]
