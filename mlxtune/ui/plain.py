"""Plain lines for logs and pipes: no control characters, no line that is written twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from mlxtune.events import (
    Evaluated,
    EvaluationProgress,
    Event,
    Finished,
    LookProgress,
    Notice,
    Planned,
    Reading,
    Saved,
    StepDone,
    Validated,
)
from mlxtune.ui import facts
from mlxtune.ui.text import duration, one_line, place

_SHARE = 20  # a line every 1/20 of the steps …
_LONGEST_SILENCE = 30.0  # … or after so many seconds
_QUARTERS = 4
_LONG_READING = 5.0


class PlainView:
    def __init__(self, console: Console, *, program: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._program = program
        self._clock = clock
        self._course = facts.Course(clock=clock)
        self._plan: Planned | None = None
        self._quarter = 0
        self._spoke = clock()

    def __call__(self, event: Event) -> None:
        match event:
            case Reading():
                if self._clock() - self._spoke >= _LONG_READING:
                    self._line(f"reading {one_line(place(event.path))}: {event.rows:,} rows so far")
            case Planned():
                self._plan = event
                self._line(facts.backend_line(event))
                for label, text in facts.plan_lines(event):
                    self._line(f"{label:<12}{text}")
            case Notice():
                self._line(f"note: {one_line(event.text, longest=1000)}")
            case LookProgress():
                self._looked(event)
            case EvaluationProgress():
                self._progress(event)
            case Evaluated():
                self._evaluated(event)
            case StepDone():
                self._step(event)
            case Validated():
                self._course.validated = event
                best = " (best so far)" if event.best else ""
                self._line(f"step {event.step}: validation {facts.validated_text(event)}{best}")
            case Saved():
                self._line(f"step {event.step}: saved {place(event.folder)}")
            case Finished():
                self._finished(event)

    def close(self) -> None:
        """Nothing is held open."""

    def _line(self, text: str = "") -> None:
        # soft_wrap: a log's lines are as long as they are. highlight, markup: numbers and "[bold]" are only text here.
        self._console.print(Text(text), soft_wrap=True, highlight=False, markup=False)
        self._spoke = self._clock()

    def _looked(self, event: LookProgress) -> None:
        if event.done == 0:
            self._looking = self._spoke = self._clock()
        elif event.done == event.total or self._clock() - self._spoke > _LONGEST_SILENCE:
            spent = duration(self._clock() - self._looking)
            self._line(f"pictures: {event.done:,}/{event.total:,} through the vision tower ({spent})")

    def _progress(self, event: EvaluationProgress) -> None:
        if event.done == 0 or not event.total:
            self._quarter = 0
            return
        quarter = event.done * _QUARTERS // event.total
        if quarter > self._quarter:
            self._line(f"{facts.phase_name(event.phase, self._plan)}: {event.done}/{event.total} answered")
        self._quarter = quarter % _QUARTERS

    def _evaluated(self, event: Evaluated) -> None:
        self._quarter = 0
        phase = facts.phase_name(event.phase, self._plan)
        self._line(f"{phase}: {', '.join(facts.score_items(event.scores))} ({duration(event.wall_s)})")
        for warning in facts.warnings(event, phase=phase):
            self._line(f"note: {warning}")

    def _step(self, event: StepDone) -> None:
        first = self._course.last is None
        self._course.add(event)
        running = list(self._course.numbers().items())[:6]  # validation has a line of its own
        every = max(1, event.total_steps // _SHARE)
        due = event.step % every == 0 or self._clock() - self._spoke >= _LONGEST_SILENCE
        if first or due or event.step == event.total_steps:
            numbers = ", ".join(f"{label} {text}" for label, text in running)
            self._line(f"step {event.step}/{event.total_steps}: {numbers}, {duration(self._course.left_s)} left")

    def _finished(self, event: Finished) -> None:
        columns = facts.headings(event)
        if event.changes:
            self._line()
            self._table([columns, *(facts.row(item, columns) for item in event.changes)])
        for sample in event.samples:
            self._line()
            for label, text in facts.sample_lines(sample, compared="before" in columns):
                self._line(f"{label:<12}{text}")
        if verdict := facts.verdict_lines(event):
            self._line()
            for label, text in verdict:
                self._line(f"{label:<12}{text}")
        self._line()
        self._line(facts.ending(event))
        self._line(f"run folder: {place(event.run)}")
        for what, command in facts.commands(event, program=self._program):
            self._line(f"{what}: {command}")

    def _table(self, rows: Sequence[Sequence[str]]) -> None:
        """Words to the left (the first and the last column), numbers to the right."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for first, *numbers, last in rows:
            cells = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:-1], strict=True)]
            self._line("  ".join([f"{first:<{widths[0]}}", *cells, last]).rstrip())
