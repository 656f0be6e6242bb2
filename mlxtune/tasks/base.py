"""What a task is: which columns it reads, how a row becomes an `Example`, and which metrics count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlxtune.images import FindPicture
from mlxtune.recipe.spec import PicturesSpec, RowsSpec
from mlxtune.tasks.fields import Columns, Fields
from mlxtune.tasks.pictures import check_text_only, find_pictures, named_pictures
from mlxtune.tasks.prompts import fill, system_turn, user_message
from mlxtune.types import Example, Row


@dataclass(frozen=True)
class Task:
    """One question, its pictures, one or more accepted answers.

    A task of another form overrides one of the small methods below, or `example` itself.

    metrics: scored unless the recipe names others. meta: columns that, where a row has them, scores are broken down by.
    prompt: what is asked, with columns in braces; None = the question as it is. suffix: put behind it.
    Both give way to the recipe's (`data.prompt`, `data.suffix`). text_only: what becomes of rows that name no picture.
    """

    name: str
    description: str
    metrics: tuple[str, ...]
    columns: Columns = Columns()
    prompt: str | None = None
    suffix: str = ""
    meta: tuple[str, ...] = ()
    text_only: str = "keep"  # or "skip"

    @property
    def needs_image(self) -> bool:
        """Whether rows without a picture are left out unless the recipe keeps them."""
        return self.text_only == "skip"

    def default_images(self, spec: RowsSpec) -> PicturesSpec | None:
        """Where the pictures are, for data that keeps them in a table of its own (`data.images` wins); None = in the rows."""
        return None

    def example(self, row: Row, *, where: str, spec: RowsSpec, find: FindPicture) -> Example:
        """The row as an `Example`; `id` is "" where the row has none. Pictures are referred to, not opened.

        where: where the row stands, as in "data/train.jsonl:17". find: turns a picture's cell into a reference.
        Raises RowError that names the row and what to change, RecipeError where a key of `spec` cannot be right for any row.
        """
        fields = Fields(row, where=where, spec=spec, columns=self.columns)
        question = self.question(fields)
        prompt = self.ask(fields, question)
        references = self.references(fields)
        named = named_pictures(fields)
        check_text_only(fields, named=len(named), usual=self.text_only)
        images = tuple(image for image in find_pictures(named, fields, find=find) if image is not None)
        suffix = self.suffix if spec.suffix is None else spec.suffix
        return Example(
            id=fields.identity(),
            messages=[*system_turn(spec.system), *user_message(prompt + suffix, images=len(images))],
            question=prompt if question is None else question,
            target=references[0],
            references=references,
            images=images,
            choices=self.choices(fields),
            names=self.names(fields),
            group=self.group(fields),
            meta=self.meta_of(fields),
        )

    # -- what a task of another form overrides ------------------------------------------------------------------------

    def question(self, fields: Fields) -> str | None:
        """The row's own question; None where it has none and the prompt says all."""
        if fields.spec.prompt is not None and fields.name("question") is None:
            return None
        return fields.question()

    def ask(self, fields: Fields, question: str | None) -> str:
        """The text of the prompt, without the suffix."""
        known = {} if question is None or "question" in fields.row else {"question": question}
        template = fields.spec.prompt or self.prompt
        if template is None:
            return question if question is not None else fields.question()
        return fill(template, fields, known | dict(self.values(fields)))

    def values(self, fields: Fields) -> Mapping[str, Any]:
        """What names in a prompt's braces stand for, beside the row's columns."""
        return {}

    def references(self, fields: Fields) -> tuple[str, ...]:
        """Every accepted answer; the first is learned."""
        return fields.answers()

    def choices(self, fields: Fields) -> Mapping[str, str]:
        return {}

    def names(self, fields: Fields) -> tuple[str, ...]:
        return ()

    def group(self, fields: Fields) -> str:
        return ""

    def meta_of(self, fields: Fields) -> dict[str, Any]:
        """The example's `meta`."""
        return dict(fields.meta(self.meta))
