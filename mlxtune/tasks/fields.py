"""The cells of one row, read as a task needs them. Each refusal names the row, the field and what to change."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlxtune.errors import RecipeError, RowError
from mlxtune.images import describe
from mlxtune.recipe.spec import RowsSpec
from mlxtune.types import Row

ROLES = ("image", "question", "target", "id")
# Other people's names for the four columns; a refusal suggests one of them.
_SYNONYMS = {
    "image": ("image", "images", "picture", "img", "imgname", "imageid", "image_id", "image_path", "file_name", "filename")
    + ("file", "path", "photo"),
    "question": ("question", "query", "prompt", "instruction", "input", "text", "conversations", "conversation", "messages"),
    "target": ("answer", "label", "target", "response", "output", "answers", "caption", "text", "completion"),
    "id": ("id", "index", "question_id", "uid", "key"),
}
_SYNONYMS_OF = {role: frozenset(words) for role, words in _SYNONYMS.items()}
_WORDS = re.compile(r"[\W_]+")
_MOST_COLUMNS = 30  # that a message lists


@dataclass(frozen=True)
class Columns:
    """Column names of a task, tried in order where the recipe names none; a role without names is not read from a column."""

    image: tuple[str, ...] = ("image",)
    question: tuple[str, ...] = ("question",)
    target: tuple[str, ...] = ("answer",)
    id: tuple[str, ...] = ("id",)


@dataclass(frozen=True)
class Fields:
    """One row beside what the recipe and the task say of its columns. Everything raises RowError where the row is at fault."""

    row: Row
    where: str
    spec: RowsSpec
    columns: Columns

    def refusal(self, text: str, *, reason: str) -> RowError:
        return RowError(f"{self.where}: {text}", reason=reason)

    def name(self, role: str) -> str | None:
        """The row's column for a role, None where there is none; one that the recipe names must be there."""
        chosen, usual = getattr(self.spec, role), getattr(self.columns, role)
        if chosen is not None and not usual:
            raise RecipeError(f"data.{role}: task '{self.spec.task}' reads no such column. Leave data.{role} out")
        found = next((name for name in ((chosen,) if chosen is not None else usual) if name in self.row), None)
        if found is None and chosen is not None:
            raise self.missing(chosen, role=role)
        return found

    def required(self, role: str) -> str:
        """The row's column for a role; a refusal lists the columns there are."""
        if (found := self.name(role)) is None:
            raise self.missing(getattr(self.columns, role)[0], role=role)
        return found

    def missing(self, name: str, *, role: str) -> RowError:
        free = [column for column in self.row if isinstance(column, str) and column not in self._taken(role)]
        near = difflib.get_close_matches(name, free, n=1, cutoff=0.75)
        lowered = {column.lower(): column for column in free}
        guess = near or [lowered[word] for word in _SYNONYMS[role] if word in lowered]
        guess = guess or [column for column in free if not _SYNONYMS_OF[role].isdisjoint(_WORDS.split(column.lower()))]
        remedy = f"Set data.{role}: {guess[0]}" if guess else f"Set data.{role} to the column that holds the {role}"
        return self.refusal(f"no field '{name}'; it has {self.listed()}. {remedy}", reason="field missing")

    def listed(self) -> str:
        """The row's columns, for messages."""
        names = [shown_name(column) for column in self.row]
        more = [f"… ({len(names)} in all)"] if len(names) > _MOST_COLUMNS else []
        return ", ".join([*names[:_MOST_COLUMNS], *more]) or "no fields"

    def _taken(self, role: str) -> set[str]:
        taken = set()
        for other in ROLES:
            names = (getattr(self.spec, other),) if getattr(self.spec, other) else getattr(self.columns, other)
            taken |= {name for name in names[:1] if other != role and name in self.row}
        return taken

    def question(self) -> str:
        return self.text(self.required("question"), kind="a question")

    def answers(self) -> tuple[str, ...]:
        """Every accepted answer, the first is the one to learn; a list of several counts, a text that looks like one does not."""
        name = self.required("target")
        value = self.row[name]
        answers = [answer_text(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
        if not answers or None in answers:
            raise self.refusal(
                f"field '{name}' is not an answer but {describe(value)}. Give text, a number or a list of them",
                reason="field missing" if value is None or value == "" else "field wrong",
            )
        # An answer that several people gave stands there several times: VQA accuracy counts them.
        return tuple(self.checked(answer, name=name) for answer in answers if answer is not None)

    def identity(self) -> str:
        """The row's id, "" where it has none."""
        name = self.name("id")
        value = self.row[name] if name is not None else None
        if value is None or value == "":
            return ""
        text = None if isinstance(value, bool) else answer_text(value)
        if text is None:
            raise self.refusal(
                f"field '{name}' is not an id but {describe(value)}. Set data.id to a column of texts or numbers",
                reason="field wrong",
            )
        return self.checked(text, name=name or "id")

    def text(self, name: str, *, kind: str = "text") -> str:
        """A column's text, as it stands; blank text is refused."""
        value = self.row[name]
        if not isinstance(value, str) or not value.strip():
            nothing = value is None or (isinstance(value, str) and not value.strip())
            raise self.refusal(
                f"field '{name}' is not {kind} but {describe(value)}. Write it as text, or remove the row",
                reason="field missing" if nothing else "field wrong",
            )
        return self.checked(value, name=name)

    def meta(self, names: Iterable[str]) -> dict[str, str | int | float | bool]:
        """The columns of these names that the row has and that are not null."""
        return {name: self._meta(self.row[name], name=name) for name in names if self.row.get(name) is not None}

    def _meta(self, value: Any, *, name: str) -> str | int | float | bool:
        if isinstance(value, str):
            return self.checked(value, name=name)
        if not is_number(value):
            raise self.refusal(
                f"field '{name}' is {describe(value)}; scores are broken down by texts and numbers. Rename or mend it",
                reason="field wrong",
            )
        return value

    def checked(self, text: str, *, name: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON may hold half of a surrogate pair; no tokenizer takes it
            raise self.refusal(
                f"field '{name}' holds broken Unicode at character {error.start}. Mend the text or remove the row",
                reason="broken text",
            ) from error
        return text


def answer_text(value: Any) -> str | None:
    """A cell as an answer: text without space around it, a number without ".0", true or false; None for anything else."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if not is_number(value):
        return None
    return str(int(value)) if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15) else repr(value)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; True and False are."""
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def is_absent(value: Any) -> bool:
    """Whether a cell says nothing: null, blank, NaN, or the "nan" that tables of text make of it."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan")
    return value is None or (isinstance(value, float) and math.isnan(value))


def shown_name(name: Any) -> str:
    """A column's name, printable and not too long."""
    text = f"'{name}'" if isinstance(name, str) and name.isprintable() else describe(name)
    return text if len(text) <= 60 else text[:58] + "…'"
