"""Run folders with real pictures and no model: what reports are made from, of any size, and with any text in every place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mlxtune.evaluate.answers import items_sha256
from mlxtune.images import ImageRef, image_ref
from mlxtune.metrics import answer_figures, item_of_line, score
from mlxtune.outcome import write_results
from mlxtune.recipe import Recipe
from mlxtune.runs import RunFolder, new_run

METRICS = ("relaxed_accuracy", "exact_match", "token_f1")
_COLOURS = ("navy", "crimson", "seagreen", "orange", "purple")
_KINDS = ("color", "value", "count")


@dataclass(frozen=True, kw_only=True)
class Fake:
    """A run before it is written. right_*: share of right answers. texts: foreign texts that go everywhere, row by row.

    recipe: keys in which its recipe differs, as {"lora": {"rank": 4}}. first: number of the first question.
    """

    rows: int = 60
    first: int = 0
    seed: int = 0
    right_before: float | None = 0.2
    right_after: float | None = 0.7
    steps: int = 80
    looks: bool = True
    controls: bool = True
    general: bool = True
    texts: tuple[str, ...] = ()
    recipe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    drawn: bool = True  # whether there are pictures on disk

    @property
    def text(self) -> str:
        return self.texts[0] if self.texts else ""


def fake_run(folder: Path, fake: Fake = Fake(), *, name: str = "fake") -> RunFolder:
    """The folder of a finished run, its data set beside it in `folder`/data, results written."""
    data = folder / "data"
    data.mkdir(parents=True)
    if fake.drawn:
        draw_pictures(data, fake)
    write_rows(data, fake)
    run = new_run(folder, name, _recipe(data, fake))
    kind = "evaluate" if fake.right_before is None and not fake.steps else "finetune"
    run.update_info(**_info(fake, kind=kind, name=name))
    for phase, share in (("before", fake.right_before), ("after", fake.right_after)):
        if share is not None:
            write_answers(run, phase, answers(fake, phase, share))
            if fake.general:
                write_answers(run, f"{phase}/general", answers(Fake(rows=20, first=5000), phase, 0.5), set_name="general")
    if fake.controls and fake.right_after is not None:
        run.write_json(
            "after/controls.json",
            {"metric": METRICS[0], "rows": 32, "full": 0.7, "blank": 0.3, "shuffled": 0.25, "majority": None},
        )
    _write_training(run, fake)
    write_results(run)
    return run


def pictures(run: RunFolder) -> Callable[[str], ImageRef | None]:
    folder = Path(run.recipe().data.path)

    def find(key: str) -> ImageRef | None:
        file = folder / key
        return image_ref(key, folder=folder) if len(key) < 100 and "\x00" not in key and file.is_file() else None

    return find


def draw_pictures(folder: Path, fake: Fake) -> None:
    (folder / "images").mkdir()
    for number in {_picture(fake.first + row) for row in range(fake.rows)}:
        chart(number).save(folder / f"images/{number}.png")


def write_rows(folder: Path, fake: Fake) -> None:
    """The test split, so that `load_data` finds the pictures."""
    rows = [
        {"image": line["images"][0], "query": line["question"], "label": line["references"], "kind": line["meta"]["kind"]}
        for line in answers(Fake(rows=fake.rows, first=fake.first), "after", 1.0)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def answers(fake: Fake, phase: str, share: float) -> list[dict[str, Any]]:
    """Lines of predictions.jsonl without their scores. Which rows are right is drawn for each phase and seed."""
    draw = np.random.default_rng([fake.seed, len(phase)])
    lines = []
    for place in range(fake.rows):
        number, right = fake.first + place, bool(draw.random() < share)
        kind = _KINDS[number % 3]
        reference = {"color": _COLOURS[number % 5], "value": str(10 + 3 * number), "count": str(number % 7)}[kind]
        wrong = [f"The answer is {reference} here.", "I cannot tell.", "", "42", "navy navy navy navy navy"][number % 5]
        line = {
            "id": f"row-{number}",
            "question": f"What {kind} has bar {number}?",
            "target": reference,
            "references": [reference],
            "prediction": reference if right else wrong,
            "finish": "stop",
            "new_tokens": 3,
            "images": [f"images/{_picture(number)}.png"],
            "meta": {"kind": kind, "chart": ("bar", "pie")[number % 2]},
        }
        lines.append(_with_text(line, fake.texts[place % len(fake.texts)], place) if fake.texts else line)
    return lines


def write_answers(run: RunFolder, phase: str, lines: list[dict[str, Any]], *, set_name: str = "test") -> None:
    scores, values = score(METRICS, [item_of_line(line) for line in lines])
    predictions = [{**line, "scores": own} for line, own in zip(lines, values, strict=True)]
    figures = answer_figures([line["prediction"] for line in lines])
    about = {
        "set": set_name,
        "task": "chartqa",
        "rows": len(lines),
        "items_sha256": items_sha256(lines),
        "settings": {"decoding": "greedy", "max_new_tokens": 16, "batch_size": 8, "prompt": lines[0]["question"]},
        "speed": {"wall_s": 12.5, "new_tokens": 900, "answers_per_s": 4.8, "tokens_per_s": 72.0, "first_token_s": 0.21},
        "answers": figures._asdict() if figures else None,
        "peak_bytes": 600_000_000,
    }
    run.write_evaluation(phase, predictions, scores, about)


def _with_text(line: dict[str, Any], text: str, place: int) -> dict[str, Any]:
    """The text in every field that a data set or a model writes; two rows keep their own, so that filters have values."""
    if place < 2:
        return line
    return {
        **line,
        "id": f"{text} {place}",
        "question": text,
        "target": f"{text} right",
        "references": [f"{text} right", text],
        "prediction": f"{text} right" if line["prediction"] == line["target"] else f"{text} said",
        "images": line["images"] if place % 2 else [text],
        "choices": {"A": text, "B": f"{text} 2"} if place % 3 == 0 else {},
        "meta": {text or "kind": text, "kind": text},
        "names": [text] if place % 4 == 0 else [],
    }


def _recipe(data: Path, fake: Fake) -> Recipe:
    text = "".join(char for char in fake.text if char.isprintable())  # YAML takes no control characters
    values: dict[str, dict[str, Any]] = {
        "model": {"path": f"models/{text}x"},
        "data": {"path": str(data), "task": "chartqa", "splits": {"train": None, "validation": None, "test": "test"}},
        "train": {"seed": fake.seed, "steps": fake.steps or None},
        "evaluate": {"sets": {"general": {"path": str(data), "task": "chartqa"}}} if fake.general else {},
        "report": {"title": text or None},
    }
    for section, keys in fake.recipe.items():
        values.setdefault(section, {}).update(keys)
    return Recipe.model_validate(values)


def _info(fake: Fake, *, kind: str, name: str) -> dict[str, Any]:
    sizes = {"rows": fake.rows, "distinct": fake.rows, "pictures": fake.rows}
    split = {**sizes, "sha256": "ab" * 32, "how": fake.text or "split 'test'"}
    return {
        "kind": kind,
        "status": "finished",
        "name": fake.text or name,
        "started": "2026-11-21T07:56:05+00:00",
        "seed": fake.seed,
        "backend": "torch",
        "device": fake.text or "CPU",
        "platform": fake.text or "Linux",
        "python": "3.11.7",
        "versions": {"mlxtune": "0.1.0", fake.text or "torch": fake.text or "2.13.0"},
        "data": {
            "own": {
                "splits": {"test": split},
                "skipped": {"test": {fake.text or "picture missing": 2}},
                "without_picture": {},
                "shared_pictures": [],
            }
        },
        "wall_s": 65.2,
    }


def _write_training(run: RunFolder, fake: Fake) -> None:
    draw = np.random.default_rng(fake.seed)
    for step in range(1, fake.steps + 1):
        loss = 0.3 + 3 * math.exp(-step / (0.2 * fake.steps)) + 0.2 * float(draw.random())
        values = {"learning_rate": 1e-3 * step / fake.steps, "grad_norm": 1 + float(draw.random()), "wall_s": 0.5}
        sizes = {"tokens": 700, "supervised_tokens": 20, "samples": 8, "peak_bytes": 610_000_000}
        run.log_step({"step": step, "loss": loss, **values, **sizes})
    if fake.looks and fake.steps:
        for step in range(fake.steps // 4, fake.steps + 1, max(1, fake.steps // 4)):
            scores = {"relaxed_accuracy": 0.6 * step / fake.steps}
            run.log_validation({"step": step, "loss": 0.5 + 20 / step, "scores": scores, "best": True})


def _picture(number: int) -> int:
    return number // 3  # three questions about each


def chart(number: int, *, side: int = 160) -> Image.Image:
    image = Image.new("RGB", (side, side * 2 // 3), "white")
    draw = ImageDraw.Draw(image)
    for bar in range(5):
        height = (number * (bar + 3) * 7) % 60 + 10
        left = side * (bar + 0.5) // 6
        draw.rectangle(
            (left, image.height * (1 - height / 80), left + side // 9, image.height), fill=_COLOURS[(number + bar) % 5]
        )
    return image


def photo(number: int, *, side: int) -> Image.Image:
    """Noise, which compresses worse than any photograph."""
    small = np.random.default_rng(number).integers(0, 256, (side // 2, side // 2, 3), np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
