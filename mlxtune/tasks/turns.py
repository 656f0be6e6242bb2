"""Turns of a conversation, from the forms that data sets write them in, with every picture at its place.

LLaVA: ``{"from": "human", "value": "<image>\\nWhat is it?"}``; OpenAI: ``{"role": "user", "content": "…"}`` with content parts
``{"type": "text", "text"}``, ``{"type": "image_url", "image_url": {"url"}}`` and, as in Hugging Face data, ``{"type": "image"}``,
which stands for the next picture of the row's picture column, or for that of its ``index``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mlxtune.images import describe
from mlxtune.tasks.fields import Fields, answer_text
from mlxtune.tasks.pictures import is_nothing

PLACEHOLDER = "<image>"
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant", "system": "system"}
_IMAGE_TYPES = ("image", "image_url", "input_image")
_TEXT_TYPES = ("text", "input_text", "output_text")


class Place(NamedTuple):
    """A picture in a turn: a cell of its own, or a place for one of the row's picture column."""

    cell: Any = None
    index: int | None = None  # which of the column; None = the next one


@dataclass(frozen=True)
class Turn:
    role: str  # "system", "user" or "assistant"
    parts: list[str | Place] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def places(self) -> list[Place]:
        return [part for part in self.parts if isinstance(part, Place)]


def read_turns(fields: Fields, *, name: str) -> list[Turn]:
    """The turns of the conversation in column `name`: system at most first, then user and assistant in turn, assistant last.

    Raises RowError for every other order, unknown roles and parts that are neither text nor picture.
    """
    value = fields.row[name]
    if isinstance(value, Mapping) and value and all(isinstance(column, (list, tuple)) for column in value.values()):
        # `datasets` keeps a list of records as a record of lists.
        value = [dict(zip(value, cells, strict=False)) for cells in zip(*value.values(), strict=False)]
    if not isinstance(value, (list, tuple)) or not value:
        raise fields.refusal(
            f"field '{name}' is not a list of turns but {describe(value)}. Set data.question to the conversation's column",
            reason="field missing" if value is None or value == [] else "field wrong",
        )
    turns = [_turn(item, fields, at=f"{name}[{number}]") for number, item in enumerate(value)]
    _check_order(turns, fields, name=name)
    return turns


def _turn(item: Any, fields: Fields, *, at: str) -> Turn:
    if not isinstance(item, Mapping):
        raise fields.refusal(f"turn {at} is not an object but {describe(item)}. Mend the row", reason="field wrong")
    said_by = next((item[key] for key in ("role", "from") if item.get(key) is not None), None)
    role = _ROLES.get(said_by.strip().lower()) if isinstance(said_by, str) else None
    if role is None:
        raise fields.refusal(
            f"turn {at} is said by {describe(said_by)}; known are {', '.join(_ROLES)}, under 'from' or 'role'. Mend the row",
            reason="field wrong",
        )
    content = next((item[key] for key in ("content", "value") if item.get(key) is not None), None)
    if isinstance(content, (list, tuple)):
        places = (_part(part, fields, at=f"{at}.content[{number}]") for number, part in enumerate(content))
        parts: list[str | Place] = [part for part in places if part != ""]
    else:
        parts = list(_split(_text(content, fields, at=at), fields, at=at, role=role))
    if not parts:
        raise fields.refusal(f"turn {at} says nothing. Mend or remove the row", reason="field missing")
    if role != "user" and any(isinstance(part, Place) for part in parts):
        raise fields.refusal(f"turn {at} of the {role} holds a picture; only the user's may. Mend the row", reason="field wrong")
    return Turn(role, parts)


def _text(value: Any, fields: Fields, *, at: str) -> str:
    text = answer_text(value) if not isinstance(value, str) else value.strip()
    if text is None:
        raise fields.refusal(
            f"turn {at} is not text but {describe(value)}. Mend or remove the row",
            reason="field missing" if value is None else "field wrong",
        )
    return fields.checked(text, name=at)


def _split(text: str, fields: Fields, *, at: str, role: str) -> list[str | Place]:
    """Text cut at its placeholders, without the space around them: chat templates put their own."""
    if role != "user" or PLACEHOLDER not in text:
        return [text] if text else []
    pieces: list[str | Place] = []
    for number, piece in enumerate(text.split(PLACEHOLDER)):
        pieces += [Place()] if number else []
        pieces += [piece.strip()] if piece.strip() else []
    return pieces


def _part(part: Any, fields: Fields, *, at: str) -> str | Place:
    if isinstance(part, str):
        return _text(part, fields, at=at)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _TEXT_TYPES:
        return _text(part.get("text"), fields, at=at)
    if kind in _IMAGE_TYPES:
        return _place(part, fields, at=at)
    raise fields.refusal(
        f"part {at} is neither text nor picture but {describe(kind if isinstance(part, Mapping) else part)}. Mend the row",
        reason="field wrong",
    )


def _place(part: Mapping[str, Any], fields: Fields, *, at: str) -> Place:
    for key in ("image_url", "image", "url", "path", "base64", "bytes"):
        cell = part.get(key)
        if isinstance(cell, Mapping) and "url" in cell:
            cell = cell["url"]
        if not is_nothing(cell):
            return Place(cell=cell.removeprefix("file://") if isinstance(cell, str) else cell)
    if part["type"] == "image_url":
        raise fields.refusal(f"part {at} holds no 'image_url'. Mend or remove the row", reason="field missing")
    index = part.get("index")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
        raise fields.refusal(f"part {at}: index {describe(index)} is no number. Mend the row", reason="field wrong")
    return Place(index=index)


def _check_order(turns: list[Turn], fields: Fields, *, name: str) -> None:
    roles = [turn.role for turn in turns]
    talk = roles[1:] if roles[0] == "system" else roles
    if talk and talk[-1] == "user":
        raise fields.refusal(
            f"field '{name}' ends with a question that has no answer. Remove its last turn, or the row", reason="field missing"
        )
    if not talk or talk != ["user", "assistant"] * (len(talk) // 2):
        order = ", ".join(roles[:6]) + (", …" if len(roles) > 6 else "")
        raise fields.refusal(
            f"field '{name}' has turns {order}; user and assistant must take turns, the user first. Mend the row",
            reason="field wrong",
        )
