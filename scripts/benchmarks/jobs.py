"""One run of one side: what it is given, and what it tells of itself. Each runs in a fresh process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.memory import Meter
from benchmarks.works import Work

RANK, ALPHA, LEARNING_RATE = 16, 32, 1e-4


@dataclass(frozen=True)
class Job:
    """side: a name of sides.SIDES. rows, model: folders. precision: of the frozen weights. gradient checkpointing where a side
    leaves the choice: `checkpoint`. settings: `--set`s for mlxtune."""

    side: str
    family: str
    work: Work
    model: str
    rows: str
    out: str
    device: str = "cpu"
    precision: str = "float32"
    checkpoint: bool = False
    quantize: bool = False
    settings: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        work = f"{self.work.name}:{self.work.rows}x{self.work.epochs}"
        return " ".join(
            [
                self.side,
                Path(self.model).name,
                work,
                *(["checkpoint"] if self.checkpoint else []),
                *(["nf4"] if self.quantize else []),
                *self.settings,
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Job:
        settings = tuple(values["settings"])
        return Job(**{**values, "work": Work(**values["work"]), "settings": settings})


@dataclass
class Record:
    """What a side tells while it works; times are of time.monotonic(), which all processes of a machine share."""

    meter: Meter
    imported_at: float | None = None
    loaded_at: float | None = None
    steps_at: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    trainable: int | None = None
    vision_s: float | None = None  # of a pass of all pictures through the vision tower, where a side makes one
    figures: dict[str, float] = field(default_factory=dict)
    alone_s: list[float] = field(default_factory=list)  # of each step without what a probe did between them
    rates: list[float] = field(default_factory=list)  # FLOP/s of a matrix product before each of those, and behind the last
    done_at: float | None = None

    def imported(self) -> None:
        self.imported_at = time.monotonic()

    def loaded(self) -> None:
        """The model is in memory; what comes on top of it from now on is the side's own."""
        self.meter.start()
        self.loaded_at = time.monotonic()

    def step(self, loss: float) -> None:
        self.steps_at.append(time.monotonic())
        self.losses.append(float(loss))

    def done(self, written: Path | None = None) -> None:
        """The adapter, or the last answer, is there; written: since that file was, for a side that goes on with other work."""
        self.done_at = time.monotonic() - (time.time() - written.stat().st_mtime if written else 0.0)

    def to_dict(self) -> dict[str, Any]:
        values = {key: value for key, value in vars(self).items() if key != "meter"}
        return {**values, "memory": self.meter.result()}


Side = Callable[[Job, Record], None]
