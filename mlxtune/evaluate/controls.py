"""Controls: how far the score comes without looking at the right picture, or without looking at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from mlxtune.engine import Engine
from mlxtune.evaluate.answers import evaluate, item_of, spread
from mlxtune.events import Event, Observer, Phase
from mlxtune.images import ImageRef
from mlxtune.metrics import score
from mlxtune.recipe import EvaluateSpec
from mlxtune.types import Example

_GREY = (128, 128, 128)
_LEARNED_FROM = 5000  # training rows that the majority answers are counted over


def controls(
    engine: Engine,
    examples: Sequence[Example],
    predictions: Sequence[dict[str, Any]],
    *,
    metric: str,
    train: Iterable[Example],
    spec: EvaluateSpec,
    observe: Observer,
) -> dict[str, Any]:
    """``{"metric", "rows", "full", "blank", "shuffled", "majority"}``: the score of the same few rows in four ways.

    full: as they were answered (`predictions`, in the examples' order). blank: every picture a grey one of its size.
    shuffled: with the pictures of another row. majority: the commonest training answer to this kind of question, without a
    model; None where there are no training rows. blank and shuffled are None where no row has a picture.
    """
    numbers = spread(range(len(examples)), spec.controls)
    rows = [examples[number] for number in numbers]
    seeing = any(row.images for row in rows)

    def asked(name: Phase, change: Callable[[Sequence[Example]], list[Example]]) -> float | None:
        return _score(engine, change(rows), metric, spec, phase=name, observe=observe) if seeing else None

    items = [item_of(row, predictions[number]) for number, row in zip(numbers, rows, strict=True)]
    return {
        "metric": metric,
        "rows": len(rows),
        "full": score([metric], items)[0][metric].value,
        "blank": asked("blank pictures", _blank),
        "shuffled": asked("shuffled pictures", _shuffled),
        "majority": _majority(rows, train, metric),
    }


def _score(
    engine: Engine, rows: Sequence[Example], metric: str, spec: EvaluateSpec, *, phase: Phase, observe: Observer
) -> float | None:
    def progress_only(event: Event) -> None:
        if type(event).__name__ == "EvaluationProgress":
            observe(event)

    return evaluate(engine, rows, [metric], spec, phase=phase, observe=progress_only).scores[metric].value


def _blank(rows: Sequence[Example]) -> list[Example]:
    return [replace(row, images=tuple(map(_grey, row.images))) for row in rows]


def _grey(image: ImageRef) -> ImageRef:
    width, height = image.size
    return ImageRef(Image.new("RGB", image.size, _GREY), key=f"grey:{width}x{height}")


def _shuffled(rows: Sequence[Example]) -> list[Example]:
    """Each row with the pictures of the next row that shows as many others, if there is one of another answer; else its own."""
    return [replace(row, images=_others(row, [*rows[number + 1 :], *rows[:number]])) for number, row in enumerate(rows)]


def _others(row: Example, following: Sequence[Example]) -> tuple[ImageRef, ...]:
    fitting = [other for other in following if len(other.images) == len(row.images) and not set(other.images) & set(row.images)]
    # Rows sorted by class would otherwise be shown their own class again.
    telling = [other for other in fitting if _shown(other) != _shown(row)]
    return next((other.images for other in (*telling, *fitting)), row.images)


def _shown(row: Example) -> Any:
    """What the answer tells of the picture: two sentences may name the same figure."""
    return row.names or row.target


def _majority(rows: Sequence[Example], train: Iterable[Example], metric: str) -> float | None:
    answers: dict[Any, Counter[str]] = {}
    for number, example in enumerate(train):
        if number >= _LEARNED_FROM:
            break
        for kind in {_kind(example), None}:
            answers.setdefault(kind, Counter())[example.target] += 1
    if not answers:
        return None
    commonest = {kind: counts.most_common(1)[0][0] for kind, counts in answers.items()}
    items = [item_of(row, {"prediction": commonest.get(_kind(row), commonest[None])}) for row in rows]
    return score([metric], items)[0][metric].value


def _kind(example: Example) -> Any:
    return example.meta.get("kind", example.meta.get("category"))
