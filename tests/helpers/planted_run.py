"""A made-up run folder, clean or with one fault planted: what `figures_of` and the rules of advice are tried on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.evaluate.answers import items_sha256
from mlxtune.metrics import item_of_line, score
from mlxtune.recipe import Recipe
from mlxtune.runs import RunFolder, new_run
from tests.helpers.planted import COLORS_EN, THINGS_RU

ROWS, STEPS = 300, 200
_METRICS = ("exact_match",)


@dataclass
class Plan:
    """A run before it is written. A fault changes some of it. right_*: of ten rows, how many are right."""

    rows: int = ROWS
    right_before: int = 4
    right_after: int = 8
    answer: Callable[[dict[str, Any]], dict[str, Any]] | None = None  # for a wrong answer after training
    row: Callable[[dict[str, Any]], dict[str, Any]] | None = None  # for every row, before and after
    also: Callable[[dict[str, Any]], dict[str, Any]] | None = None  # for every row after training
    losses: Callable[[int], float] = lambda step: 0.2 + 3 * math.exp(-step / 20)
    norms: Callable[[int], float] = lambda step: 1.0 + 0.1 * math.sin(step)
    validation: Sequence[float] = (1.2, 0.7, 0.52, 0.515)
    controls: dict[str, float] = field(default_factory=lambda: {"full": 0.8, "blank": 0.3, "shuffled": 0.35, "majority": 0.4})
    data: dict[str, Any] = field(default_factory=dict)
    general: tuple[int, int] = (7, 7)  # right of ten in the set "general", before and after
    recipe: dict[str, Any] = field(default_factory=dict)


def write_run(folder: Path, plan: Plan) -> RunFolder:
    """The folder of a finished run, as `mlxtune finetune` writes it, less the weights."""
    sets = {"evaluate": {"sets": {"general": {"path": "general.jsonl", "task": "qa"}}}}
    base: dict[str, Any] = {"model": {"path": "m"}, "data": {"path": "d", "task": "qa"}, **sets}
    run = new_run(folder, "planted", Recipe.model_validate({**base, **plan.recipe}))
    run.update_info(name="planted", kind="finetune", status="finished", data={"own": _record(plan)})
    _write_answers(run, "before", [_row(plan, n, plan.right_before) for n in range(plan.rows)])
    _write_answers(run, "after", [_after(plan, n) for n in range(plan.rows)])
    for phase, right in zip(("before", "after"), plan.general, strict=True):
        _write_answers(run, f"{phase}/general", [_row(Plan(), n, right) for n in range(200)])
    run.write_json("after/controls.json", {"metric": _METRICS[0], "rows": 64, **plan.controls})
    for step in range(1, STEPS + 1):
        values = {"loss": plan.losses(step), "grad_norm": plan.norms(step), "learning_rate": 1e-4, "peak_bytes": 1}
        run.log_step({"step": step, **values})
    for look, loss in enumerate(plan.validation, start=1):
        run.log_validation({"step": look * STEPS // len(plan.validation), "loss": loss, "scores": {}, "best": False})
    return run


def _row(plan: Plan, number: int, right: int) -> dict[str, Any]:
    """One row; of every ten `right` are answered rightly, in every kind alike."""
    kind = ("color", "предмет", "value")[number % 3]
    value = str(100 + 7 * number)
    reference = {"color": COLORS_EN[number // 3 % 9], "предмет": THINGS_RU[number // 3 % 9], "value": value}[kind]
    wrong = {"color": COLORS_EN[9], "предмет": THINGS_RU[9], "value": str(2 * int(value) + 1)}[kind]
    question = {
        "color": f"What color is bar {number}?",
        "предмет": f"Что под номером {number}?",
        "value": f"How tall is bar {number}?",
    }[kind]
    row = {
        "id": f"row-{number}",
        "question": question,
        "target": reference,
        "references": [reference],
        "prediction": reference if number // 3 % 10 < right else wrong,
        "finish": "stop",
        "new_tokens": 3,
        "images": [f"{number}.png"],
        "meta": {"kind": kind},
    }
    return {**row, **plan.row(row)} if plan.row else row


def _after(plan: Plan, number: int) -> dict[str, Any]:
    row = _row(plan, number, plan.right_after)
    if plan.answer and row["prediction"] != row["target"]:
        row = {**row, **plan.answer(row)}
    return {**row, **plan.also(row)} if plan.also else row


def _write_answers(run: RunFolder, phase: str, rows: list[dict[str, Any]]) -> None:
    scores, values = score(_METRICS, [item_of_line(row) for row in rows])
    lines = [{**row, "scores": own} for row, own in zip(rows, values, strict=True)]
    about = {"set": "test", "task": "qa", "rows": len(rows), "items_sha256": items_sha256(lines), "speed": {"answers_per_s": 1.0}}
    run.write_evaluation(phase, json.loads(json.dumps(lines)), scores, about)


def _record(plan: Plan) -> dict[str, Any]:
    splits = {"train": 1000, "validation": 100, "test": plan.rows}
    told = {name: {"rows": rows, "distinct": rows, "pictures": rows} for name, rows in splits.items()}
    return {"splits": told, "skipped": {}, "shared_pictures": [], **plan.data}


def _twice(row: dict[str, Any]) -> bool:
    return int(row["id"].split("-")[1]) % 2 == 0


def _half(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The change for every second wrong answer; the others stay wrong in their own way."""
    return lambda row: answer(row) if _twice(row) else {}


def _sentence(row: dict[str, Any]) -> dict[str, Any]:
    russian = row["meta"]["kind"] == "предмет"
    return {"prediction": f"Скорее всего, там {row['target']}." if russian else f"One can see that it is {row['target']}."}


def _foreign(row: dict[str, Any]) -> dict[str, Any]:
    return {"prediction": {"color": "какой-то цвет", "предмет": "some thing", "value": row["prediction"]}[row["meta"]["kind"]]}


def _close(row: dict[str, Any]) -> dict[str, Any]:
    return {"prediction": str(round(int(row["target"]) * 1.06))} if row["meta"]["kind"] == "value" else {}


def _unfinished(row: dict[str, Any]) -> dict[str, Any]:
    russian = row["meta"]["kind"] == "предмет"
    return {"prediction": "Для начала рассмотрим то, что" if russian else "Well, let us first look", "finish": "length"}


def _denied(row: dict[str, Any]) -> dict[str, Any]:
    """A stray full stop behind the reference of every tenth row."""
    return {"references": [f"{row['target']}."]} if row["id"].endswith("0") else {}


def _weak(row: dict[str, Any]) -> dict[str, Any]:
    """The kind "value" is mostly wrong, so that the others carry the score."""
    return {"prediction": "99999"} if row["meta"]["kind"] == "value" and int(row["target"]) % 5 else {}


# Each planted fault and the one rule that is to find it; the rule's name is the fault's.
FAULTS: dict[str, Plan] = {
    "wrong_form": Plan(answer=_half(_sentence)),
    "wrong_language": Plan(answer=_foreign),
    "references_doubtful": Plan(row=_denied),
    "cut_off": Plan(answer=_half(_unfinished)),
    "near_misses": Plan(answer=_close),
    "repetition": Plan(answer=_half(lambda row: {"prediction": "and so on " * 6})),
    "refusals": Plan(answer=_half(lambda row: {"prediction": "К сожалению, не могу ответить." if row["target"] > "z" else ""})),
    "pictures_missing": Plan(answer=lambda row: {"prediction": "I see no image here."} if _twice(row) else {}),
    "weak_kind": Plan(also=_weak, right_after=9),
    "overfit": Plan(validation=(1.2, 0.6, 0.55, 0.9)),
    "plateau": Plan(losses=lambda step: 4.1 - 0.0005 * step),
    "loss_without_score": Plan(right_after=4),
    "got_worse": Plan(right_before=8, right_after=3, losses=lambda step: 0.5),
    "gradient_spikes": Plan(norms=lambda step: 90.0 if step % 25 == 0 else 1.0),
    "still_improving": Plan(validation=(1.2, 0.9, 0.7, 0.5)),
    "seen_in_training": Plan(data={"shared_pictures": [{"splits": ["train", "test"], "pictures": 40, "first": ["a", "a"]}]}),
    "picture_not_needed": Plan(controls={"full": 0.8, "blank": 0.74, "shuffled": 0.4, "majority": 0.4}),
    "picture_not_used": Plan(controls={"full": 0.8, "blank": 0.4, "shuffled": 0.78, "majority": 0.4}),
    "majority_is_as_good": Plan(controls={"full": 0.8, "blank": 0.4, "shuffled": 0.4, "majority": 0.8}),
    "forgetting": Plan(general=(8, 5)),
    "rows_skipped": Plan(data={"skipped": {"train": {"picture missing": 90, "field missing": 4}}}),
    "too_few_test_rows": Plan(rows=21, right_before=5, right_after=6, losses=lambda step: 0.5),
}
