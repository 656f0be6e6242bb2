"""Conversations of one or more turns with pictures anywhere: what the tasks `llava`, `chartllama` and `messages` share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlxtune.images import FindPicture, ImageRef
from mlxtune.recipe.spec import RowsSpec
from mlxtune.tasks.base import Task
from mlxtune.tasks.fields import Fields
from mlxtune.tasks.pictures import check_text_only, find_pictures, named_pictures
from mlxtune.tasks.prompts import Message, fill, system_turn
from mlxtune.tasks.turns import PLACEHOLDER, Place, Turn, read_turns
from mlxtune.types import Example, Row

CONVERSATION_METRICS = ("rougeL", "rouge1", "rouge2", "bleu", "chrf", "token_f1", "exact_match")


@dataclass(frozen=True)
class ConversationTask(Task):
    """All turns up to the last question are the prompt, the last answer is the target.

    A picture stands where its placeholder does; without any placeholder the row's pictures come first. `data.prompt` and
    `data.suffix` change the last question only; `data.system` takes the place of the conversation's own system turn.
    """

    def example(self, row: Row, *, where: str, spec: RowsSpec, find: FindPicture) -> Example:
        fields = Fields(row, where=where, spec=spec, columns=self.columns)
        fields.name("target")  # who sets data.target means another task
        *earlier, last, answer = read_turns(fields, name=fields.required("question"))
        target = _answer(answer, fields)
        column = named_pictures(fields)
        asked = _with_places([*earlier, self._asked(last, fields)], pictures=len(column))
        cells = _cells(asked, column, fields)
        check_text_only(fields, named=len(cells), usual=self.text_only)
        found = find_pictures(cells, fields, find=find)
        messages = list(_messages(asked, iter(found), fields))
        return Example(
            id=fields.identity(),
            messages=messages,
            question=last.text or asked[-1].text,
            target=target,
            references=(target,),
            images=tuple(image for image in found if image is not None),
            meta=self.meta_of(fields),
        )

    def _asked(self, last: Turn, fields: Fields) -> Turn:
        """The last question as the recipe wants it asked."""
        suffix = self.suffix if fields.spec.suffix is None else fields.spec.suffix
        template = fields.spec.prompt or self.prompt
        if template is not None:
            known = {} if "question" in fields.row else {"question": last.text}
            text = fill(template, fields, known | dict(self.values(fields)))
            return Turn(last.role, [*last.places, text + suffix])
        if not suffix:
            return last
        if isinstance(last.parts[-1], str):
            return Turn(last.role, [*last.parts[:-1], last.parts[-1] + suffix])
        return Turn(last.role, [*last.parts, suffix.lstrip("\n")])


def _answer(turn: Turn, fields: Fields) -> str:
    if not turn.text.strip():
        raise fields.refusal("the last answer is empty. Mend or remove the row", reason="field missing")
    return turn.text


def _with_places(turns: list[Turn], *, pictures: int) -> list[Turn]:
    """The turns; where none holds a place for a picture, all pictures go in front of the first question."""
    if not pictures or any(turn.places for turn in turns):
        return turns
    first = next(number for number, turn in enumerate(turns) if turn.role == "user")
    opened = Turn("user", [*(Place() for _ in range(pictures)), *turns[first].parts])
    return [*turns[:first], opened, *turns[first + 1 :]]


def _cells(turns: list[Turn], column: list[Any], fields: Fields) -> list[Any]:
    """The pictures in the order of their places: those of the row's column, and those that parts bring along."""
    places = [place for turn in turns for place in turn.places]
    _check_places([place for place in places if place.cell is None], fields, pictures=len(column))
    following = iter(column)
    return [_cell(place, column, following) for place in places]


def _cell(place: Place, column: list[Any], following: Iterator[Any]) -> Any:
    if place.cell is not None:
        return place.cell
    return column[place.index] if place.index is not None else next(following)


def _check_places(places: list[Place], fields: Fields, *, pictures: int) -> None:
    numbered = [place.index for place in places if place.index is not None]
    used = len(set(numbered)) if numbered else len(places)
    in_order = not numbered or (len(numbered) == len(places) and all(0 <= index < pictures for index in numbered))
    if used == pictures and in_order:
        return
    if not pictures:
        raise fields.refusal(
            f"the turns have {len(places)} places for pictures ({PLACEHOLDER}), but the row names none. Set data.image, or "
            "take the places out",
            reason="field missing",
        )
    raise fields.refusal(
        f"the turns have {len(places)} places for pictures, but the row names {pictures}. Mend or remove the row",
        reason="field wrong",
    )


def _messages(turns: list[Turn], found: Iterator[ImageRef | None], fields: Fields) -> Iterator[Message]:
    system = system_turn(fields.spec.system)
    yield from system
    for turn in turns:
        if turn.role == "system" and system:
            continue
        content = []
        for part in turn.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            elif next(found) is not None:
                content.append({"type": "image"})
        if not content:
            raise fields.refusal("a turn is only a picture, which is missing. Remove the row", reason="picture missing")
        yield {"role": turn.role, "content": content}
