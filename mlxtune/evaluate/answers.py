"""Answers to questions and their scores: one function for before, after, validation, controls and evaluation alone."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from mlxtune.engine import Engine
from mlxtune.evaluate.options import option_likelihoods
from mlxtune.events import Evaluated, EvaluationProgress, Observer, Phase
from mlxtune.generation import Generation, generate
from mlxtune.metrics import Item, Score, answer_figures, count_statuses, score
from mlxtune.recipe import EvaluateSpec
from mlxtune.types import Example

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Evaluation:
    """predictions: the lines of predictions.jsonl, in the examples' order. about: how the answers were made and how fast."""

    predictions: list[dict[str, Any]]
    scores: dict[str, Score]
    about: dict[str, Any]
    wall_s: float


def evaluate(
    engine: Engine, examples: Sequence[Example], metrics: Sequence[str], spec: EvaluateSpec, *, phase: Phase, observe: Observer
) -> Evaluation:
    """Answers to all examples, scored with each metric: generated text, or the likeliest letter with `answer_mode: options`."""
    begin = time.perf_counter()
    observe(EvaluationProgress(phase, 0, len(examples)))
    by_letter = spec.answer_mode == "options"
    wanted = by_letter or "option_accuracy" in metrics
    likelihoods = option_likelihoods(engine, examples, batch_size=spec.batch_size) if wanted else [None] * len(examples)
    spoken = [number for number in range(len(examples)) if not (by_letter and likelihoods[number])]
    answers = _generated(engine, [examples[number] for number in spoken], spec, phase=phase, observe=observe)
    replies = dict(zip(spoken, answers, strict=True))
    lines = [_line(example, replies.get(n), likelihoods[n], engine) for n, example in enumerate(examples)]
    scores, items = score(metrics, [item_of(*pair) for pair in zip(examples, lines, strict=True)])
    predictions = [{**line, "scores": graded} for line, graded in zip(lines, items, strict=True)]
    wall_s = time.perf_counter() - begin
    about = _about(engine, examples, answers, predictions, spec, wall_s=wall_s)
    observe(Evaluated(phase, scores, wall_s))
    return Evaluation(predictions, scores, about, wall_s)


def item_of(example: Example, line: Mapping[str, Any]) -> Item:
    """What metrics see of an answer. line: a line of predictions.jsonl, or at least its "prediction"."""
    return Item(
        prediction=line["prediction"],
        references=example.references,
        choices=example.choices,
        names=example.names,
        group=example.group,
        meta=example.meta,
        likelihoods=line.get("likelihoods"),
    )


def spread(rows: Sequence[Kind], limit: int | None) -> Sequence[Kind]:
    """At most `limit` of the rows, evenly over all of them; None = all."""
    if limit is None or len(rows) <= limit:
        return rows
    return [rows[number * len(rows) // limit] for number in range(limit)]


def items_sha256(predictions: Sequence[Mapping[str, Any]]) -> str:
    """Identity of the question set: ids, questions, accepted answers and pictures, whatever was answered."""
    asked = [[line["id"], line["question"], line["references"], line["images"]] for line in predictions]
    return hashlib.sha256(json.dumps(asked, ensure_ascii=True).encode()).hexdigest()


def _generated(
    engine: Engine, examples: Sequence[Example], spec: EvaluateSpec, *, phase: Phase, observe: Observer
) -> list[Generation]:
    prompts = [engine.processor.encode(example, max_tokens=None, answer=False) for example in examples]
    return generate(
        engine,
        prompts,
        batch_size=spec.batch_size,
        max_new_tokens=spec.max_new_tokens,
        num_beams=spec.num_beams,
        progress=lambda done: observe(EvaluationProgress(phase, done, len(examples))),
    )


def _line(example: Example, answer: Generation | None, likelihoods: Mapping[str, float] | None, engine: Engine) -> dict[str, Any]:
    if answer is None:
        assert likelihoods, "what is not generated is chosen among options"
        text, finish, new_tokens = max(likelihoods, key=lambda letter: likelihoods[letter]), "stop", 0
    else:
        text, finish, new_tokens = engine.processor.decode(answer.ids), answer.finish, len(answer.ids)
    optional = {
        "meta": dict(example.meta),
        "choices": dict(example.choices),
        "group": example.group,
        "names": list(example.names),
        "likelihoods": likelihoods,
    }
    return {
        "id": example.id,
        "question": example.question,
        "target": example.target,
        "references": list(example.references),
        "prediction": text,
        "finish": finish,
        "new_tokens": new_tokens,
        "images": [image.key for image in example.images],
        **{key: value for key, value in optional.items() if value},
    }


def _about(
    engine: Engine,
    examples: Sequence[Example],
    answers: Sequence[Generation],
    predictions: Sequence[Mapping[str, Any]],
    spec: EvaluateSpec,
    *,
    wall_s: float,
) -> dict[str, Any]:
    new_tokens = sum(len(answer.ids) for answer in answers)
    return {
        "rows": len(examples),
        "items_sha256": items_sha256(predictions),
        "settings": {
            "decoding": "greedy" if spec.num_beams == 1 else "beam search",
            "num_beams": spec.num_beams,
            "answer_mode": spec.answer_mode,
            "max_new_tokens": spec.max_new_tokens,
            "batch_size": spec.batch_size,
            "prompt": engine.processor.rendered(examples[0].messages) if len(examples) else None,
        },
        "speed": {
            "wall_s": wall_s,
            "new_tokens": new_tokens,
            "answers_per_s": len(examples) / wall_s,
            "tokens_per_s": new_tokens / wall_s,
            "first_token_s": median(answer.first_token_s for answer in answers) if answers else None,
        },
        "status": count_statuses(predictions),
        "answers": figures._asdict() if (figures := answer_figures([line["prediction"] for line in predictions])) else None,
        "peak_bytes": engine.backend.memory().peak_bytes,
    }
