"""The terminal display: what is done stays above as text, what goes on is drawn below it and wiped when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
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

_NARROW = 80  # columns below which samples are stacked instead of side by side
_LABEL = 10  # columns that the name of a phase takes
_COLOURS = {1: "green", -1: "red", 0: "dim"}


class LiveView:
    def __init__(self, console: Console, *, program: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._program = program
        self._clock = clock
        self._course = facts.Course(clock=clock)
        self._plan: Planned | None = None
        self._live: Live | None = None
        self._started = clock()  # of the phase that goes on

    def __call__(self, event: Event) -> None:
        match event:
            case Reading() if event.rows == event.total:
                self.close()  # models are loaded now, and libraries may draw download bars of their own
            case Reading():
                of = f" of {event.total:,}" if event.total else ""
                self._show(_waiting(f"reading {one_line(place(event.path))}: {event.rows:,}{of} rows"))
            case Planned():
                self._plan = event
                self._print(Text(facts.backend_line(event), style="bold"))
                self._print(_plan(event))
                self._show(_waiting("loading"))
            case Notice():
                self._print(Text.assemble(("note ", "yellow"), one_line(event.text, longest=1000)))
            case LookProgress():
                if event.done == 0:
                    self._started = self._clock()
                self._show(self._bar("pictures", event))
            case EvaluationProgress():
                if event.done == 0:
                    self._started = self._clock()
                self._show(self._bar(facts.phase_name(event.phase, self._plan), event))
            case Evaluated():
                self._evaluated(event)
            case StepDone():
                self._course.add(event)
                self._show(self._training())
                if event.step == event.total_steps:
                    self._trained()
            case Validated():
                self._course.validated = event
                note = ("  best so far", "green") if event.best else ""
                self._print(Text.assemble((f"  step {event.step:<6}", "dim"), f"validation {facts.validated_text(event)}", note))
            case Saved():
                pass  # the folder stands in the run folder, which is named at the end
            case Finished():
                self.close()
                self._finished(event)

    def close(self) -> None:
        """Wipes the moving part; the cursor is the user's again."""
        if self._live:
            self._live.stop()
            self._live = None

    def _print(self, what: RenderableType) -> None:
        self._console.print(what, highlight=False)

    def _show(self, what: RenderableType) -> None:
        if self._live is None:
            self._live = Live(what, console=self._console, transient=True, refresh_per_second=8)
            self._live.start()
        else:
            self._live.update(what)

    def _bar(self, name: str, event: EvaluationProgress | LookProgress) -> RenderableType:
        spent = self._clock() - self._started
        left = duration(spent / event.done * (event.total - event.done)) + " left" if event.done else ""
        return _bar(name, event.done, event.total, note=left)

    def _evaluated(self, event: Evaluated) -> None:
        phase = facts.phase_name(event.phase, self._plan)
        self._print(self._summary(phase, facts.score_items(event.scores), note=duration(event.wall_s)))
        for warning in facts.warnings(event, phase=phase):
            self._print(Text.assemble(("note ", "yellow"), warning))
        self._show(_waiting(facts.what_follows(event.phase, self._plan)))

    def _training(self) -> RenderableType:
        last = self._course.last
        assert last
        bar = _bar("training", last.step, last.total_steps, note=f"{duration(self._course.left_s)} left")
        cells = [Text.assemble((f"{label} ", "dim"), text) for label, text in self._course.numbers().items()]
        return Group(bar, Padding(Columns(cells, padding=(0, 3), equal=True), (0, 0, 0, 2)))

    def _trained(self) -> None:
        last, numbers = self._course.last, self._course.numbers()
        assert last
        shown = [f"{key} {numbers[key]}" for key in ("loss", "tokens/s", "samples/s", "peak memory")]
        self._print(self._summary("training", [f"{last.total_steps:,} steps", *shown]))
        self._show(_waiting("saving"))

    def _summary(self, label: str, items: Sequence[str], *, note: str = "") -> Text:
        """What stays of a phase: `items` on as many lines as they need, none broken ("10.1" on one line, "%" on the next)."""
        lines = [""]
        for item in items:
            longer = f"{lines[-1]}, {item}" if lines[-1] else item
            if lines[-1] and len(longer) + _LABEL + 1 > self._console.width:
                lines[-1] += ","
                lines.append(item)
            else:
                lines[-1] = longer
        text = Text.assemble((f"{label:<{_LABEL - 1}} ", "bold cyan"), f"\n{' ' * _LABEL}".join(lines))
        fits = len(lines[-1]) + _LABEL + 2 + len(note) <= self._console.width
        return text.append(f"  {note}" if fits else f"\n{' ' * _LABEL}{note}", style="dim") if note else text

    def _finished(self, event: Finished) -> None:
        columns = facts.headings(event)
        if event.changes:
            self._print(_scores(event, columns))
        if event.samples:
            self._print(_samples(event, compared="before" in columns, narrow=self._console.width < _NARROW))
        if verdict := facts.verdict_lines(event):
            self._print(_grid(verdict))
        self._print(Text(facts.ending(event), style="dim"))
        # soft_wrap: a path or a command that is broken over two lines cannot be copied.
        self._console.print(Text.assemble(("run folder  ", "bold"), place(event.run)), soft_wrap=True)
        for what, command in facts.commands(event, program=self._program):
            self._console.print(Text.assemble((f"{what}\n", "dim"), f"  {command}"), soft_wrap=True, highlight=False)


def _plan(event: Planned) -> Panel:
    return Panel(_grid(facts.plan_lines(event)), title="mlxtune", title_align="left", border_style="cyan", box=box.ROUNDED)


def _grid(lines: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in lines:
        grid.add_row(label, Text(text))
    return grid


def _waiting(what: str) -> RenderableType:
    return Spinner("dots", text=Text(f" {what} …", style="dim"), style="cyan")


def _bar(label: str, done: int, total: int, *, note: str) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for column in ({"min_width": 8}, {"ratio": 1}, {"justify": "right", "no_wrap": True}, {"justify": "right", "no_wrap": True}):
        grid.add_column(**column)
    bar = ProgressBar(total=max(total, 1), completed=done)
    grid.add_row(Text(label, style="bold cyan"), bar, f"{done:,}/{total:,}", Text(note, style="dim"))
    return grid


def _scores(event: Finished, columns: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        told = column in ("metric", "change", "interval")  # in words
        table.add_column(column, justify="left" if told else "right", no_wrap=not told)
    for item in event.changes:
        *cells, last = map(Text, facts.row(item, columns))
        if columns[-1] == "change":
            last.stylize(_COLOURS[facts.direction(item)])
        table.add_row(*cells, last)
    return table


def _samples(event: Finished, *, compared: bool, narrow: bool) -> RenderableType:
    samples = [facts.sample_lines(sample, compared=compared) for sample in event.samples]
    if narrow:
        return _grid([line for lines in samples for line in (*lines, ("", ""))])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for number, (label, _) in enumerate(samples[0]):
        table.add_column(label, ratio=3 if number == 0 else 2, overflow="fold")
    for lines in samples:
        table.add_row(*(Text(text) for _, text in lines))
    return table
