"""A row made into an example, or refused, as the loader does it, with pictures named but not looked for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlxtune.errors import RowError
from mlxtune.images import FindPicture, ImageRef, image_ref
from mlxtune.recipe.spec import RowsSpec
from mlxtune.tasks import get_task
from mlxtune.types import Example

WHERE = "data/train.jsonl:17"


def make(task: str, row: dict[str, Any], *, find: FindPicture = image_ref, **given: Any) -> Example:
    """given: keys of the recipe's `data` section."""
    return get_task(task).example(row, where=WHERE, spec=RowsSpec(**{"task": task, "path": "x"} | given), find=find)


def refusal(task: str, row: dict[str, Any], *, find: FindPicture = image_ref, reason: str | None = None, **given: Any) -> str:
    """The message of the RowError, one line that begins with the row's place."""
    with pytest.raises(RowError) as error:
        make(task, row, find=find, **given)
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"{WHERE}: ") and message.encode()
    assert reason is None or error.value.reason == reason
    return message


def find_in(folder: Path) -> FindPicture:
    """Pictures of a folder; one that is not there is refused as the loader refuses it."""

    def find(value: Any, *, where: str) -> ImageRef:
        ref = partial(image_ref, folder=folder)(value, where=where)
        if isinstance(ref.source, Path) and not ref.source.is_file():
            raise RowError(f"{where}: picture '{ref.key}' does not exist", reason="picture missing")
        return ref

    return find


def parts(example: Example) -> list[tuple[str, list[str]]]:
    """The turns, each with its parts: a text as it is, a picture as "<picture>"."""
    return [(turn["role"], [part.get("text", "<picture>") for part in turn["content"]]) for turn in example.messages]
