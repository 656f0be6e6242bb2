"""The pictures that a row names, and what the recipe says of rows without one (`data.text_only`, `data.missing_image`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from mlxtune.errors import RowError
from mlxtune.images import FindPicture, ImageRef, describe
from mlxtune.tasks.fields import Fields
from mlxtune.types import Example

_LOST = ("picture missing", "picture unreadable")  # what data.missing_image speaks of
_MOST_PICTURES = 1000  # of one row: more is a column of something else


def named_pictures(fields: Fields) -> list[Any]:
    """What the row's picture column holds, one entry a picture; empty where there is no column or nothing in it."""
    name = fields.name("image")
    value = fields.row[name] if name is not None else None
    values = value if isinstance(value, list) else [value]  # not a tuple: a StoredImage is one
    if len(values) > _MOST_PICTURES:
        raise fields.refusal(f"field '{name}' is no picture but {describe(value)}. Set data.image", reason="field wrong")
    return [item for item in values if not is_nothing(item)]


def is_nothing(value: Any) -> bool:
    """Whether a picture's cell is empty; Parquet writes ``{"bytes": null, "path": null}`` for null."""
    if isinstance(value, Mapping):
        return "bytes" in value and "path" in value and all(value[key] in (None, "", b"") for key in ("bytes", "path"))
    return value is None or (isinstance(value, (str, bytes)) and not value.strip())


def find_pictures(values: Collection[Any], fields: Fields, *, find: FindPicture) -> list[ImageRef | None]:
    """A reference for each value; None for a picture that is lost where the recipe asks on without it. Raises RowError."""
    return [_found(value, fields, find=find) for value in values]


def _found(value: Any, fields: Fields, *, find: FindPicture) -> ImageRef | None:
    if not _may_be_picture(value):
        raise fields.refusal(
            f"a picture cannot be {describe(value)}. Set data.image to the column of pictures", reason="field wrong"
        )
    try:
        return find(value, where=fields.where)
    except RowError as error:
        if error.reason in _LOST and fields.spec.missing_image == "text_only":
            return None
        raise


def _may_be_picture(value: Any) -> bool:
    """Whether `find` can take it, or refuse it in words: it must not meet what cannot even be printed."""
    if isinstance(value, Mapping):
        return any(isinstance(value.get(key), (str, bytes)) for key in ("bytes", "path")) and not any(
            map(_is_nested, value.values())
        )
    return not isinstance(value, list) and not (isinstance(value, int) and abs(value) >= 2**63)


def _is_nested(value: Any) -> bool:
    return isinstance(value, (list, Mapping)) or (isinstance(value, int) and abs(value) >= 2**63)


def check_text_only(fields: Fields, *, named: int, usual: str) -> None:
    """Raises RowError where the row names no picture and the policy leaves such rows out.

    usual: the task's own policy, "keep" or "skip", for a recipe that says nothing.
    """
    if named or (fields.spec.text_only or usual) == "keep":
        return
    if usual == "skip" and fields.columns.image and fields.name("image") is None:
        raise fields.missing(fields.columns.image[0], role="image")
    raise fields.refusal(
        "the row names no picture. Remove it, or set data.text_only: keep to ask without one", reason="no picture"
    )


def without_images(example: Example, keys: Collection[str] | None = None) -> Example:
    """The example without its pictures, or without those of these keys: their parts go from the turns, the text stays.

    Raises RowError("picture missing") where a turn would be left with nothing to say.
    """
    gone = [keys is None or image.key in keys for image in example.images]
    left = iter(gone)
    messages = []
    for turn in example.messages:
        content = [part for part in turn["content"] if part["type"] != "image" or not next(left)]
        if not content:
            raise RowError(f"{_where(example)}: a turn is only a picture, which is missing", reason="picture missing")
        messages.append({**turn, "content": content})
    images = tuple(image for image, is_gone in zip(example.images, gone, strict=True) if not is_gone)
    return replace(example, messages=messages, images=images)


def _where(example: Example) -> str:
    return next((image.where for image in example.images if image.where), example.id or "a row")
