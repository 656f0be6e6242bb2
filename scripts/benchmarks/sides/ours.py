"""mlxtune through the call that `mlxtune finetune` and `mlxtune evaluate` make."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.jobs import ALPHA, LEARNING_RATE, RANK, Job, Record
from benchmarks.works import NEW_TOKENS


def train_mlx(job: Job, record: Record) -> None:
    train(job, record, "mlx")


def train_torch(job: Job, record: Record) -> None:
    train(job, record, "torch")


def answer_mlx(job: Job, record: Record) -> None:
    _answer(job, record, "mlx")


def answer_torch(job: Job, record: Record) -> None:
    _answer(job, record, "torch")


def train(job: Job, record: Record, backend: str, *, between: Callable[[], None] = lambda: None) -> None:
    """between: called after each step."""
    from mlxtune.process import own_process

    own_process()
    from mlxtune.events import LookProgress, Planned, StepDone
    from mlxtune.finetune import finetune

    record.imported()

    begin: list[float] = []

    def watch(event: Any) -> None:
        if isinstance(event, Planned):
            record.trainable = event.trainable
            record.loaded()
        elif isinstance(event, StepDone):
            record.step(event.loss)
            between()
        elif isinstance(event, LookProgress):
            begin.append(time.monotonic())
            record.vision_s = begin[-1] - begin[0]

    path, recipe = _recipe(job, split="train")
    finished = finetune(recipe, name="bench", recipe_path=path, backend=backend, out=Path(job.out), observe=watch)
    record.done(finished.run / "adapter" / "adapter_model.safetensors")  # before the report, which the others do not write


def _answer(job: Job, record: Record, backend: str) -> None:
    from mlxtune.process import own_process

    own_process()
    from mlxtune.events import Planned
    from mlxtune.finetune import evaluate_only

    record.imported()

    def watch(event: Any) -> None:
        if isinstance(event, Planned):
            record.loaded()

    path, recipe = _recipe(job, split="test")
    finished = evaluate_only(recipe, name="bench", recipe_path=path, backend=backend, out=Path(job.out), observe=watch)
    answers = finished.run / "after" / "predictions.jsonl"
    record.done(answers)
    lines = answers.read_text(encoding="utf-8").splitlines()
    record.answers = {line["id"]: line["prediction"] for line in map(json.loads, lines)}


def _recipe(job: Job, *, split: str) -> tuple[Path, Any]:
    # Features that an earlier run kept would be no work of this one.
    os.environ["MLXTUNE_CACHE"] = str(Path(job.out) / "cache")
    import yaml

    from mlxtune.recipe import load_recipe

    splits = {"train": None, "validation": None, "test": None, split: "all"}
    train = {"epochs": job.work.epochs or 1, "batch_size": job.work.batch, "micro_batch_size": job.work.batch, "max_tokens": 2048}
    train |= {"learning_rate": LEARNING_RATE, "schedule": "constant", "warmup": 0, "weight_decay": 0.0, "clip": None}
    train |= {"evaluate_every": None, "save_every": None, "best": None, "validation_metrics": []}
    evaluate = {"limit": None, "metrics": ["exact_match"], "controls": 0, "batch_size": job.work.batch}
    asked = {**evaluate, "max_new_tokens": NEW_TOKENS} if split == "test" else {"limit": 0, "controls": 0}
    model = {"path": job.model, "precision": job.precision, **({"quantize": "4bit"} if job.quantize else {})}
    written = {"model": model, "data": {"task": "qa", "path": str(Path(job.rows) / "rows.jsonl"), "splits": splits}}
    written |= {"lora": {"rank": RANK, "alpha": ALPHA, "sites": ["attention", "mlp"]}, "train": train, "evaluate": asked}
    written |= {"speed": {"gradient_checkpointing": job.checkpoint}}
    path = Path(job.out) / "bench.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    return path, load_recipe(path, overrides=job.settings)
