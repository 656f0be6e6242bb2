"""What a run tells while it goes on. Whoever watches (terminal, log file, test) gets these values and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.metrics import Score

Phase = str  # what is being asked and when: "before", "after", or either with "/" and the name of a further set


@dataclass(frozen=True)
class Reading:
    """Rows are being read, before anything else is known. total: None where it cannot be told."""

    path: str
    rows: int
    total: int | None


@dataclass(frozen=True)
class Planned:
    """All that is known before the first step. splits: name -> (rows, distinct pictures). steps: 0 where nothing is trained."""

    run: Path
    model: str
    family: str
    parameters: int
    task: str
    data: str
    splits: Mapping[str, tuple[int, int]]
    sites: Mapping[str, int]  # site group -> number of adapted layers
    trainable: int  # parameters
    backend: str
    backend_reason: str
    device: str
    precision: str
    seed: int
    steps: int
    batch_size: int


@dataclass(frozen=True)
class Notice:
    """Something the user should know though nothing failed."""

    text: str


@dataclass(frozen=True)
class LookProgress:
    """Pictures that have gone through the vision tower, once for all that follows. phase: what they are for."""

    phase: Phase
    done: int
    total: int


@dataclass(frozen=True)
class EvaluationProgress:
    phase: Phase
    done: int
    total: int


@dataclass(frozen=True)
class Evaluated:
    phase: Phase
    scores: Mapping[str, Score]
    wall_s: float


@dataclass(frozen=True)
class StepDone:
    """One optimizer step; these fields, less `total_steps`, are a line of train.jsonl."""

    step: int  # counts from 1
    total_steps: int
    loss: float  # nats per supervised token
    learning_rate: float
    grad_norm: float  # before clipping
    tokens: int  # all real tokens of the step, pictures included
    supervised_tokens: int
    samples: int
    wall_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Validated:
    """A look at the validation rows. value: the loss, or the metric that `train.best` names. best: better than all before.

    scores: of `train.validation_metrics`, on their own scales; None where nothing could be graded.
    """

    step: int
    name: str
    value: float
    loss: float
    best: bool
    scores: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    step: int
    folder: Path


@dataclass(frozen=True)
class Change:
    """One metric of the comparison; values are on the metric's own scale, None where nothing could be graded.

    asked: name of the set. told: the change in words with its 95 % interval; where there is no before, the score's interval.
    """

    metric: str
    before: float | None
    after: float | None
    scale: float  # 1.0 or 100.0: what a perfect answer scores
    asked: str = "test"
    told: str = ""
    detectable: bool = True


@dataclass(frozen=True)
class Sample:
    question: str
    reference: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Finished:
    """The end of a run. commands: (what it does, command line) to try next.

    buckets: answers by what became of them ("fixed", "broken", "still right", "still wrong"). controls: see
    `mlxtune.evaluate.controls`. advice: the first few recommendations.
    """

    run: Path
    changes: tuple[Change, ...]
    samples: tuple[Sample, ...]
    test_rows: int
    wall_s: float
    commands: tuple[tuple[str, str], ...]
    buckets: Mapping[str, int] = field(default_factory=dict)
    controls: Mapping[str, Any] | None = None
    advice: tuple[str, ...] = ()
    report: Path | None = None


Event = Reading | Planned | Notice | LookProgress | EvaluationProgress | Evaluated | StepDone | Validated | Saved | Finished
Observer = Callable[[Event], None]
