"""Pictures and what is to be said of them: rows with a caption, from a file or beside an image folder."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlxtune.tasks.base import Task
from mlxtune.tasks.fields import Columns, Fields
from mlxtune.tasks.prompts import columns_of, fill

QUESTION = "Describe the picture."
QUESTION_RU = "Опиши, что на картинке."
CAPTION_METRICS = ("rougeL", "rouge1", "rouge2", "bleu", "chrf")
_CYRILLIC = re.compile(r"[Ѐ-ӿ]")


@dataclass(frozen=True)
class CaptionTask(Task):
    """Rows need not say what is asked. A question of their own stays; `data.prompt` replaces the task's for all others.

    A prompt that names ``{question}`` is used for every row, with the row's question or else the task's in that place.
    """

    def question(self, fields: Fields) -> str | None:
        name = fields.name("question")
        if name is None or fields.row[name] in (None, ""):
            return None
        return fields.text(name, kind="a question")

    def ask(self, fields: Fields, question: str | None) -> str:
        template = fields.spec.prompt
        if template is None or (question is not None and "question" not in columns_of(template)):
            return question or self.usual_question(fields)
        return fill(template, fields, {"question": question or self.usual_question(fields)})

    def usual_question(self, fields: Fields) -> str:
        """The question in the language of the answer: Russian where it has Cyrillic letters, else English."""
        return QUESTION_RU if _CYRILLIC.search(self.references(fields)[0]) else QUESTION


CAPTIONS = CaptionTask(
    name="captions",
    description="pictures and their captions, from an image folder or a table; the question is data.prompt",
    metrics=CAPTION_METRICS,
    columns=Columns(image=("image", "file_name"), target=("caption", "text")),
    meta=("class", "kind"),
    text_only="skip",
)
