"""Answers to questions and their scores: one function for before, after, validation and evaluation alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.engine import Engine
from mlxtune.events import Evaluated, EvaluationProgress, Observer, Phase
from mlxtune.generation import Generation, generate
from mlxtune.metrics import Score, score
from mlxtune.recipe import EvaluateSpec
from mlxtune.types import Example


@dataclass(frozen=True)
class Evaluation:
    """predictions: the lines of predictions.jsonl, in the examples' order."""

    predictions: list[dict[str, Any]]
    scores: dict[str, Score]
    wall_s: float


def evaluate(
    engine: Engine, examples: Sequence[Example], metrics: Sequence[str], spec: EvaluateSpec, *, phase: Phase, observe: Observer
) -> Evaluation:
    """Greedy answers to all examples, scored with each metric."""
    begin = time.perf_counter()
    observe(EvaluationProgress(phase, 0, len(examples)))
    prompts = [engine.processor.encode(example, max_tokens=None, answer=False) for example in examples]
    answers = generate(
        engine,
        prompts,
        batch_size=spec.batch_size,
        max_new_tokens=spec.max_new_tokens,
        progress=lambda done: observe(EvaluationProgress(phase, done, len(examples))),
    )
    texts = [engine.processor.decode(answer.ids) for answer in answers]
    scores, items = score(metrics, texts, [example.references for example in examples])
    predictions = [_line(*row) for row in zip(examples, answers, texts, items, strict=True)]
    result = Evaluation(predictions, scores, time.perf_counter() - begin)
    observe(Evaluated(phase, scores, result.wall_s))
    return result


def _line(example: Example, answer: Generation, text: str, scores: dict[str, float | None]) -> dict[str, Any]:
    return {
        "id": example.id,
        "question": example.question,
        "target": example.target,
        "references": list(example.references),
        "prediction": text,
        "finish": answer.finish,
        "new_tokens": len(answer.ids),
        "images": [image.key for image in example.images],
        "scores": scores,
        **({"meta": dict(example.meta)} if example.meta else {}),
    }
