"""The training loop: steps, looks at the validation rows, checkpoints. Every step is a function of the recipe and its number."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from typing import NamedTuple

from mlxtune.adapters import Adapter
from mlxtune.batching import micro_batches
from mlxtune.engine import EncodedRows, Engine
from mlxtune.errors import RunError
from mlxtune.evaluate import evaluate, spread
from mlxtune.events import Event, Notice, Observer, Saved, StepDone, Validated
from mlxtune.images import ImageRef
from mlxtune.metrics import METRICS
from mlxtune.recipe import Recipe
from mlxtune.runs import Checkpoint, RunFolder
from mlxtune.schedule import lr_at, rows_of_step, rows_used, total_steps
from mlxtune.tasks import get_task
from mlxtune.types import Batch, Encoded, Example


class Prepared(NamedTuple):
    step: int  # counts from 1
    rows: list[Encoded]
    batches: list[Batch]
    waited_s: float  # that the step had to wait for them


@dataclass
class Trainer:
    """adapter: attached to the engine's backend before `train` is called. validation: may be empty; then nothing is looked at."""

    engine: Engine
    recipe: Recipe
    run: RunFolder
    adapter: Adapter
    rows: EncodedRows
    validation: Sequence[Example]
    observe: Observer

    def __post_init__(self) -> None:
        self._total = total_steps(len(self.rows), self.recipe.train)
        self._best: float | None = None
        self._looks_since_best = 0
        self._validation_rows = EncodedRows(self.engine.processor, self.validation, max_tokens=self.recipe.train.max_tokens)

    def pictures(self) -> Iterator[ImageRef]:
        """Those of the rows that the steps will use, and of the validation rows."""
        used = rows_used(len(self.rows), self.recipe.train, pictures=self.rows.pictures)
        rows = (self.rows.examples[index] for index in used)
        return (image for row in chain(rows, self.validation) for image in row.images)

    def train(self, *, resume: bool = False) -> None:
        """From the first step, or the one after the newest checkpoint, to the last, or until patience is over."""
        done = self._restore() if resume else 0
        for prepared in self._prepared(range(done + 1, self._total + 1)):
            step = prepared.step
            if self._patience_is_over():
                self.observe(Notice(f"stopped before step {step}: {self._looks_since_best} looks brought nothing better"))
                return
            self._step(prepared)
            if self._due(step, self.recipe.train.evaluate_every) and self.validation:
                self._validate(step)
            if self._due(step, self.recipe.train.save_every):
                self._save(step)

    def _prepared(self, steps: range) -> Iterator[Prepared]:
        """What each step learns from. Where that is safe, the next step's pictures are read and resized while one runs."""
        ahead = self.engine.pictures.ahead
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._prepare, steps[0]) if ahead and steps else None
            for step in steps:
                begin = time.perf_counter()
                rows, batches = following.result() if following else self._prepare(step)
                waited_s = time.perf_counter() - begin
                following = pool.submit(self._prepare, step + 1) if ahead and step < steps[-1] else None
                yield Prepared(step, rows, batches, waited_s)

    def _prepare(self, step: int) -> tuple[list[Encoded], list[Batch]]:
        rows = [self.rows[i] for i in rows_of_step(step, len(self.rows), self.recipe.train, pictures=self.rows.pictures)]
        return rows, list(self._batches(rows))

    def _patience_is_over(self) -> bool:
        patience = self.recipe.train.patience
        return patience is not None and self._looks_since_best >= patience

    def _due(self, step: int, every: int | None) -> bool:
        return step == self._total or (every is not None and step % every == 0)

    def _step(self, prepared: Prepared) -> None:
        spec, begin = self.recipe.train, time.perf_counter()
        step, rows, batches, waited_s = prepared
        lr = lr_at(step, self._total, spec)
        result = self.engine.backend.train_step(batches, lr=lr, clip=spec.clip, seed=spec.seed * 1_000_003 + step)
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            raise RunError(
                f"step {step}: the loss is {result.loss}, the gradient norm {result.grad_norm}. "
                "Lower train.learning_rate, or raise model.precision"
            )
        event = StepDone(
            step=step,
            total_steps=self._total,
            loss=result.loss,
            learning_rate=lr,
            grad_norm=result.grad_norm,
            tokens=sum(len(row.input_ids) for row in rows),
            supervised_tokens=int(sum(row.weights.sum() for row in rows)),
            samples=len(rows),
            wall_s=waited_s + time.perf_counter() - begin,
            peak_bytes=self.engine.backend.memory().peak_bytes,
        )
        self.run.log_step({key: value for key, value in asdict(event).items() if key != "total_steps"})
        self.observe(event)

    def _batches(self, rows: Sequence[Encoded]) -> Iterator[Batch]:
        spec = self.recipe.train
        return micro_batches(
            rows,
            size=spec.micro_batch_size,
            pad_id=self.engine.processor.pad_id,
            pictures=self.engine.pictures,
            share=spec.max_tokens if self.engine.shares_prefixes else None,
            fill=self.recipe.speed.packing == "auto",
        )

    def _validate(self, step: int) -> None:
        loss, scores = self._validation_loss(), self._validation_scores()
        name = self.recipe.train.best or "loss"
        value = loss if name == "loss" else scores[name]
        best = self._is_best(name, value)
        if best:
            self._best, self._looks_since_best = value, 0
            self.run.save_best(self.adapter, self.engine.backend.adapter(), step=step, base=self.recipe.model.path)
        else:
            self._looks_since_best += 1
        self.run.log_validation({"step": step, "loss": loss, "scores": scores, "best": best})
        self.observe(Validated(step=step, name=name, value=value, loss=loss, best=best, scores=scores))

    def _is_best(self, name: str, value: float | None) -> bool:
        if value is None or self._best is None:
            return value is not None
        better = name in METRICS and METRICS[name].higher_is_better
        return value > self._best if better else value < self._best

    def _validation_loss(self) -> float:
        """Mean nats per supervised token over all validation rows."""
        rows = [self._validation_rows[i] for i in range(len(self._validation_rows))]
        return sum(self.engine.backend.loss(batch) for batch in self._batches(rows))

    def _validation_scores(self) -> dict[str, float | None]:
        """Of rows spread evenly over the validation rows, so that a look costs the same however many there are."""
        spec = self.recipe.train
        followed = (
            list(get_task(self.recipe.data.task).metrics[:1]) if spec.validation_metrics is None else spec.validation_metrics
        )
        names = list(dict.fromkeys([*followed, *([spec.best] if spec.best not in (None, "loss") else [])]))
        if not names:
            return {}
        rows = spread(self.validation, spec.validation_limit)
        result = evaluate(self.engine, rows, names, self.recipe.evaluate, phase="validation", observe=_silent)
        return {name: result.scores[name].value for name in names}

    def _save(self, step: int) -> None:
        backend = self.engine.backend
        checkpoint = Checkpoint(step, self._best, backend.adapter(), backend.optimizer())
        self.observe(Saved(step, self.run.save_checkpoint(checkpoint, self.adapter, base=self.recipe.model.path)))

    def _restore(self) -> int:
        checkpoint = self.run.latest_checkpoint()
        self.run.forget_steps_after(checkpoint.step if checkpoint else 0)
        if checkpoint is None:
            return 0
        self.engine.backend.set_adapter(checkpoint.adapter)
        self.engine.backend.set_optimizer(checkpoint.optimizer)
        self._best = checkpoint.best
        self._looks_since_best = self.run.looks_since_best()
        return checkpoint.step


def _silent(event: Event) -> None:
    """The validation's own evaluation is told as one `Validated`."""
