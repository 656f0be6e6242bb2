"""The training loop: steps, looks at the validation rows, checkpoints. Every step is a function of the recipe and its number."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from mlxtune.adapters import Adapter
from mlxtune.batching import micro_batches
from mlxtune.engine import EncodedRows, Engine
from mlxtune.errors import RunError
from mlxtune.evaluate import evaluate
from mlxtune.events import Event, Observer, Saved, StepDone, Validated
from mlxtune.metrics import METRICS
from mlxtune.recipe import Recipe
from mlxtune.runs import Checkpoint, RunFolder
from mlxtune.schedule import lr_at, rows_of_step, total_steps
from mlxtune.types import Batch, Encoded, Example


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
        self._validation_rows = EncodedRows(self.engine.processor, self.validation, max_tokens=self.recipe.train.max_tokens)

    def train(self, *, resume: bool = False) -> None:
        """From the first step, or the one after the newest checkpoint, to the last."""
        done = self._restore() if resume else 0
        for step in range(done + 1, self._total + 1):
            self._step(step)
            if self._due(step, self.recipe.train.evaluate_every) and self.validation:
                self._validate(step)
            if self._due(step, self.recipe.train.save_every):
                self._save(step)

    def _due(self, step: int, every: int | None) -> bool:
        return step == self._total or (every is not None and step % every == 0)

    def _step(self, step: int) -> None:
        spec, begin = self.recipe.train, time.perf_counter()
        rows = [self.rows[i] for i in rows_of_step(step, len(self.rows), spec)]
        lr = lr_at(step, self._total, spec)
        result = self.engine.backend.train_step(
            list(self._batches(rows)), lr=lr, clip=spec.clip, seed=spec.seed * 1_000_003 + step
        )
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
            wall_s=time.perf_counter() - begin,
            peak_bytes=self.engine.backend.memory().peak_bytes,
        )
        self.run.log_step({key: value for key, value in asdict(event).items() if key != "total_steps"})
        self.observe(event)

    def _batches(self, rows: Sequence[Encoded]) -> Iterator[Batch]:
        spec = self.recipe.train
        return micro_batches(rows, size=spec.micro_batch_size, pad_id=self.engine.processor.pad_id, pictures=self.engine.pictures)

    def _validate(self, step: int) -> None:
        loss = validation_loss(self.engine, self._validation_rows, size=self.recipe.train.micro_batch_size)
        name = self.recipe.train.best or "loss"
        value = loss if name == "loss" else self._metric(name)
        better = name in METRICS and METRICS[name].higher_is_better
        best = self._best is None or (value > self._best if better else value < self._best)
        if best:
            self._best = value
            self.run.save_best(self.adapter, self.engine.backend.adapter(), step=step, base=self.recipe.model.path)
        self.observe(Validated(step=step, name=name, value=value, loss=loss, best=best))

    def _metric(self, name: str) -> float:
        result = evaluate(self.engine, self.validation, [name], self.recipe.evaluate, phase="evaluate", observe=_silent)
        value = result.scores[name].value
        return float("-inf") if value is None else value

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
        return checkpoint.step


def validation_loss(engine: Engine, rows: EncodedRows, *, size: int) -> float:
    """Mean nats per supervised token over all rows."""
    batches = micro_batches(
        [rows[i] for i in range(len(rows))], size=size, pad_id=engine.processor.pad_id, pictures=engine.pictures
    )
    return sum(engine.backend.loss(batch) for batch in batches)


def _silent(event: Event) -> None:
    """The validation's own evaluation is told as one `Validated`."""
