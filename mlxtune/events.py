"""What a run tells while it goes on. Whoever watches (terminal, log file, test) gets these values and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlxtune.metrics import Score

Phase = Literal["before", "after", "evaluate"]


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
    """A look at the validation rows. value: the loss, or the metric that `train.best` names. best: better than all before."""

    step: int
    name: str
    value: float
    loss: float
    best: bool


@dataclass(frozen=True)
class Saved:
    step: int
    folder: Path


@dataclass(frozen=True)
class Change:
    """One metric of the comparison; values are on the metric's own scale, None where nothing could be graded."""

    metric: str
    before: float | None
    after: float | None
    scale: float  # 1.0 or 100.0: what a perfect answer scores


@dataclass(frozen=True)
class Sample:
    question: str
    reference: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Finished:
    """The end of a run. commands: (what it does, command line) to try next."""

    run: Path
    changes: tuple[Change, ...]
    samples: tuple[Sample, ...]
    test_rows: int
    wall_s: float
    commands: tuple[tuple[str, str], ...]


Event = Planned | Notice | EvaluationProgress | Evaluated | StepDone | Validated | Saved | Finished
Observer = Callable[[Event], None]
