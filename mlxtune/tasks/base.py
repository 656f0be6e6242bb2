"""What a task is: which columns it reads, how a row becomes an `Example`, and which metrics count."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.errors import DataError
from mlxtune.images import ImageRef, describe, image_ref
from mlxtune.types import Example, Row

# Other people's names for the four columns; a refusal suggests one of them.
_SYNONYMS = {
    "image": ("image", "picture", "img", "imgname", "image_path", "file_name", "filename", "file", "path", "photo"),
    "question": ("question", "query", "prompt", "instruction", "input", "text"),
    "target": ("answer", "label", "target", "response", "output", "answers", "caption", "completion"),
    "id": ("id", "index", "question_id", "uid", "key"),
}


@dataclass(frozen=True)
class Columns:
    """Column names of a task, tried in order where the recipe names none."""

    image: tuple[str, ...] = ("image",)
    question: tuple[str, ...] = ("question",)
    target: tuple[str, ...] = ("answer",)
    id: tuple[str, ...] = ("id",)


@dataclass(frozen=True)
class Task:
    """One question, its pictures, one or more accepted answers. A task of another form overrides `example`.

    suffix: put behind every question unless the recipe sets `data.suffix`. metrics: scored unless the recipe names others.
    meta: columns that, where a row has them, scores are broken down by. needs_image: refuse rows without a picture.
    """

    name: str
    description: str
    metrics: tuple[str, ...]
    columns: Columns = Columns()
    suffix: str = ""
    meta: tuple[str, ...] = ()
    needs_image: bool = False

    def example(self, row: Row, *, where: str, spec: Any, folder: Path | None = None) -> Example:
        """The row as an `Example`; `id` is "" where the row has none. Pictures are referred to, not opened.

        where: where the row stands, as in "data/train.jsonl:17". spec: a DataSpec (image, question, target, id, suffix).
        folder: what relative picture paths start from. Raises DataError that names the row and what to change.
        """
        columns = {role: self._column(role, row, where=where, spec=spec) for role in ("image", "question", "target", "id")}
        asked, answered = columns["question"], columns["target"]
        assert asked is not None and answered is not None
        question = _question(row[asked], name=asked, where=where)
        references = _answers(row[answered], name=answered, where=where)
        images = _images(row.get(columns["image"]) if columns["image"] else None, folder=folder, where=where)
        if self.needs_image and not images:
            raise DataError(
                f"{where}: field '{columns['image']}' has no picture, and task '{self.name}' needs one. Remove the row"
            )
        prompt = question + (self.suffix if spec.suffix is None else spec.suffix)
        return Example(
            id=_identity(row.get(columns["id"]) if columns["id"] else None, name=columns["id"], where=where),
            messages=user_message(prompt, images=len(images)),
            question=question,
            target=references[0],
            references=references,
            images=images,
            meta={name: _meta(row[name], name=name, where=where) for name in self.meta if row.get(name) is not None},
        )

    def _column(self, role: str, row: Row, *, where: str, spec: Any) -> str | None:
        """The row's column for a role, None for a picture or an id that need not be there."""
        chosen: str | None = getattr(spec, role)
        names = (chosen,) if chosen is not None else getattr(self.columns, role)
        if found := next((name for name in names if name in row), None):
            return found
        if chosen is None and (role == "id" or (role == "image" and not self.needs_image)):
            return None
        raise DataError(_no_field(names[0], role, row, where=where, taken=self._taken(role, row, spec)))

    def _taken(self, role: str, row: Row, spec: Any) -> set[str]:
        taken = set()
        for other in ("image", "question", "target", "id"):
            names = (getattr(spec, other),) if getattr(spec, other) else getattr(self.columns, other)
            taken |= {name for name in names[:1] if other != role and name in row}
        return taken


def user_message(prompt: str, *, images: int) -> list[dict[str, Any]]:
    """One user turn: the pictures first, then the text."""
    parts: list[dict[str, str]] = [{"type": "image"}] * images
    return [{"role": "user", "content": [dict(part) for part in parts] + [{"type": "text", "text": prompt}]}]


def answer_text(value: Any) -> str | None:
    """A cell as an answer: text without space around it, or a number without ".0"; None for anything else or nothing."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool) or not _is_number(value):
        return None
    return str(int(value)) if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15) else repr(value)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _question(value: Any, *, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field '{name}' is not a question but {describe(value)}. Write it as text, or remove the row")
    return _checked(value, name=name, where=where)


def _answers(value: Any, *, name: str, where: str) -> tuple[str, ...]:
    answers = [answer_text(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
    if not answers or None in answers:
        raise DataError(
            f"{where}: field '{name}' is not an answer but {describe(value)}. "
            "Give text, a number or a list of them, or remove the row"
        )
    return tuple(dict.fromkeys(_checked(answer, name=name, where=where) for answer in answers if answer is not None))


def _images(value: Any, *, folder: Path | None, where: str) -> tuple[ImageRef, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(image_ref(item, folder=folder, where=where) for item in values if item is not None and item != "")


def _identity(value: Any, *, name: str | None, where: str) -> str:
    if value is None or value == "":
        return ""
    text = None if isinstance(value, bool) else answer_text(value)
    if text is None:
        raise DataError(
            f"{where}: field '{name}' is not an id but {describe(value)}. Set data.id to a column of texts or numbers"
        )
    return _checked(text, name=name or "id", where=where)


def _meta(value: Any, *, name: str, where: str) -> str | int | float | bool:
    if isinstance(value, str):
        return _checked(value, name=name, where=where)
    if not _is_number(value):
        raise DataError(
            f"{where}: field '{name}' is {describe(value)}; scores are broken down by texts and numbers. Rename or mend it"
        )
    return value


def _checked(text: str, *, name: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON may hold half of a surrogate pair; no tokenizer takes it
        raise DataError(
            f"{where}: field '{name}' holds broken Unicode at character {error.start}. Mend the text or remove the row"
        ) from error
    return text


def _no_field(name: str, role: str, row: Mapping[str, Any], *, where: str, taken: set[str]) -> str:
    free = [column for column in row if column not in taken]
    near = difflib.get_close_matches(name, free, n=1, cutoff=0.75)
    lowered = {column.lower(): column for column in free}
    guess = near or [lowered[word] for word in _SYNONYMS[role] if word in lowered]
    has = ", ".join(f"'{column}'" for column in row) or "no fields"
    remedy = f"Set data.{role}: {guess[0]}" if guess else f"Set data.{role} to the column that holds the {role}"
    return f"{where}: no field '{name}'; it has {has}. {remedy}"
