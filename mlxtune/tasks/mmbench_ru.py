"""MMBench-ru: a question with up to four options, answered by a letter. Prompt: lmms-eval, tasks/mmbench.

The rotations of a question (its options in another order) share `index` modulo a million; they are one group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlxtune.images import describe
from mlxtune.tasks.base import Task
from mlxtune.tasks.fields import Columns, Fields, answer_text, is_absent

_LETTERS = ("A", "B", "C", "D")
_LEVEL_2 = "l2-category"


@dataclass(frozen=True)
class MMBenchTask(Task):
    def ask(self, fields: Fields, question: str | None) -> str:
        return super().ask(fields, question).lstrip(" ")  # a row without a hint

    def values(self, fields: Fields) -> Mapping[str, Any]:
        """`{options}`, a line each, and the question and hint as they count here."""
        hint = None if is_absent(fields.row.get("hint")) else fields.row["hint"]
        known = {} if fields.name("question") is None else {"question": fields.question()}
        options = "".join(f"{letter}. {text}\n" for letter, text in self.choices(fields).items())
        return known | {"hint": hint, "options": options}

    def references(self, fields: Fields) -> tuple[str, ...]:
        name, choices = fields.required("target"), self.choices(fields)
        value = fields.row[name]
        letter = value.strip().upper() if isinstance(value, str) else value
        if not isinstance(letter, str) or letter not in choices:
            raise fields.refusal(
                f"field '{name}' is {describe(value)}, no letter of the options {', '.join(choices)}. Mend or remove the row",
                reason="field missing" if is_absent(value) else "field wrong",
            )
        return (letter,)

    def choices(self, fields: Fields) -> Mapping[str, str]:
        options = {letter: fields.row[letter] for letter in _LETTERS if not is_absent(fields.row.get(letter))}
        if len(options) < 2:
            raise fields.refusal(
                f"fewer than two of the options {', '.join(_LETTERS)} are there; the row has {fields.listed()}. "
                "Take the data set with its options, or data.task: qa for rows without",
                reason="field missing",
            )
        return {letter: self._option(value, fields, letter=letter) for letter, value in options.items()}

    def group(self, fields: Fields) -> str:
        index = fields.row.get("index")
        if index is None:
            return ""
        text = answer_text(index) if not isinstance(index, bool) else None
        if text is None or not (text.isascii() and text.isdigit()):
            raise fields.refusal(f"field 'index' is not a number but {describe(index)}. Mend the row", reason="field wrong")
        return str(int(text[-6:]))  # of as many digits as there may be, the last six

    def meta_of(self, fields: Fields) -> dict[str, Any]:
        """`meta`, with the finer category under one name: it is "L2-category" in the original, "l2-category" on the hub."""
        name = next((name for name in fields.row if isinstance(name, str) and name.lower() == _LEVEL_2), _LEVEL_2)
        level = fields.meta([name])
        return super().meta_of(fields) | ({_LEVEL_2: level[name]} if level else {})

    def _option(self, value: Any, fields: Fields, *, letter: str) -> str:
        if (text := answer_text(value)) is None:
            raise fields.refusal(f"option '{letter}' is not text but {describe(value)}. Mend the row", reason="field wrong")
        return fields.checked(text, name=letter)


MMBENCH_RU = MMBenchTask(
    name="mmbench_ru",
    description="multiple choice in Russian, answered by a letter (MMBench-ru); rotations of a question are one group",
    metrics=("accuracy", "circular_accuracy", "option_accuracy"),
    columns=Columns(id=("index",)),
    prompt="{hint} {question} There are several options:\n{options}",
    suffix="\nВыбери правильный вариант ответа буквой.",
    meta=("category", "index"),
    text_only="skip",
)
