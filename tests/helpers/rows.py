"""Questions about random pictures of several shapes, with answers of several lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from mlxtune.families import Family
from mlxtune.images import ImageRef, image_ref
from mlxtune.types import Example

SIZES = ((160, 100), (70, 120), (90, 90), (200, 60))  # width, height
ANSWERS = ("42", "Yes", "the blue bar is the longest one", "No, it is not", "3.5 percent of all", "A")
_QUESTIONS = ("How tall is the first bar?", "Is it blue?", "Which of the bars is the longest one in the whole chart?")


def picture(number: int, size: tuple[int, int] | None = None) -> ImageRef:
    """Coarse random colors, smoothly enlarged: differs from place to place as a picture does."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    return image_ref(Image.fromarray(coarse).resize(size or SIZES[number % len(SIZES)], Image.Resampling.BICUBIC))


def example(number: int, *, pictures: int = 1, question: str | None = None, target: str | None = None) -> Example:
    question = question if question is not None else f"{_QUESTIONS[number % len(_QUESTIONS)]} ({number})"
    target = target if target is not None else ANSWERS[number % len(ANSWERS)]
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
    images = tuple(picture(number + 100 * i) for i in range(pictures))
    return Example(
        id=f"row {number}",
        messages=[{"role": "user", "content": content}],
        question=question,
        target=target,
        references=(target,),
        images=images,
    )


def examples(count: int, *, first: int = 0) -> list[Example]:
    """Each with one picture; every fifth repeats the picture of the row before, every seventh has none, one in nine has two."""
    made = []
    for number in range(first, first + count):
        row = example(number, pictures=0 if number % 7 == 6 else 2 if number % 9 == 8 else 1)
        repeat = number % 5 == 4 and made and len(row.images) == len(made[-1].images)
        made.append(replace(row, images=made[-1].images) if repeat else row)
    return made


def fitting(rows: Sequence[Example], family: Family) -> list[Example]:
    """The rows, those whose number of pictures the family does not take with one picture instead."""
    fewest, most = family.pictures
    taken = [fewest <= len(row.images) and (most is None or len(row.images) <= most) for row in rows]
    return [row if takes else _with_one_picture(row) for row, takes in zip(rows, taken, strict=True)]


def _with_one_picture(row: Example) -> Example:
    *earlier, turn = row.messages
    text = [part for part in turn["content"] if part["type"] == "text"]
    messages = [*earlier, {**turn, "content": [{"type": "image"}, *text]}]
    return replace(row, messages=messages, images=(*row.images[:1], picture(len(row.target)))[:1])
