"""Who is in the picture: an image folder with a class in each subfolder, or an annotation file with questions of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mlxtune.entities import Entity, find_entity, read_entities
from mlxtune.images import describe
from mlxtune.tasks.captions import CAPTION_METRICS, CaptionTask
from mlxtune.tasks.fields import Columns, Fields, shown_name

RECOGNITION = "Who is in the picture?"
_CLASS, _KIND = "class", "kind"


@dataclass(frozen=True)
class CharacterTask(CaptionTask):
    """A row without question and answer is the recognition question: the answer is the display name of its class.

    Rows of an annotation file keep their own. Display names come from `data.names`; without it the class is the name.
    """

    def usual_question(self, fields: Fields) -> str:
        return super().usual_question(fields) if _has_answer(fields) else RECOGNITION

    def references(self, fields: Fields) -> tuple[str, ...]:
        if _has_answer(fields):
            return super().references(fields)
        if (asked := self.question(fields)) is not None:
            raise fields.refusal(f"question {describe(asked)} has no answer. Answer it or remove the row", reason="field missing")
        entity = _entity(fields)
        if entity is None:
            raise fields.refusal(
                f"no field '{_CLASS}' says who it is; the row has {fields.listed()}. Give a folder with a subfolder a class",
                reason="field missing",
            )
        return tuple(dict.fromkeys((entity.name, *entity.aliases)))

    def names(self, fields: Fields) -> tuple[str, ...]:
        """All names of the class; none for a question that is answered without the name, which tests no recognition."""
        if (entity := _entity(fields)) is None:
            return ()
        about_else = fields.row.get(_KIND) == "question" and not _named(entity, self.references(fields))
        return () if about_else else entity.all_names

    def meta_of(self, fields: Fields) -> dict[str, Any]:
        kind = {_KIND: "recognition"} if not _has_answer(fields) else {}
        return super().meta_of(fields) | kind


def _has_answer(fields: Fields) -> bool:
    name = fields.name("target")
    return name is not None and fields.row[name] not in (None, "")


def _named(entity: Entity, answers: tuple[str, ...]) -> bool:
    return any(name.casefold() in answer.casefold() for answer in answers for name in entity.all_names)


def _entity(fields: Fields) -> Entity | None:
    """The entity of the row's class; None where the row has none. Raises RowError where the names' file lacks it."""
    if fields.row.get(_CLASS) in (None, ""):
        return None
    key = fields.text(_CLASS, kind="a class").strip()
    if fields.spec.names is None:
        return Entity(key, key)
    entities = _entities(fields.spec.names)
    if (entity := find_entity(entities, key)) is None:
        raise fields.refusal(
            f"class {shown_name(key)} has no name in {fields.spec.names}; it has "
            f"{', '.join(map(shown_name, list(entities)[:30]))}. Add it there",
            reason="field wrong",
        )
    return entity


def _entities(path: str) -> Mapping[str, Entity]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return read_entities(path)  # which says what is wrong
    return _read_once(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _read_once(path: str, _changed_ns: int, _bytes: int) -> Mapping[str, Entity]:
    return read_entities(path)


CHARACTERS = CharacterTask(
    name="characters",
    description="who is in the picture: a subfolder a class, display names in data.names; or an annotation file of questions",
    metrics=("recognition_rate", "exact_match", "token_f1", *CAPTION_METRICS),
    columns=Columns(image=("image", "file_name"), target=("answer", "caption", "text")),
    meta=("class", "kind"),
    text_only="skip",
)
