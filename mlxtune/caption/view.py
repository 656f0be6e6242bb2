"""What a person sees of `mlxtune caption`: a bar with counters on a terminal, plain lines elsewhere, and a table at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mlxtune.caption.run import Outcome, Plan
from mlxtune.caption.tally import Tally
from mlxtune.text import count, one_line, place

_SHARE = 20  # a plain line every 1/20 of the pictures …
_LONGEST_SILENCE = 30.0  # … or after so many seconds
_LISTED = 3  # pictures shown per reason; the file has all


class CaptionView:
    """Gets the plan and the counters (`run.caption(watch=…)`), and the outcome at the end."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._progress: Progress | None = None
        self._spoke = clock()
        self._said = 0
        self._stopping = False

    def __call__(self, event: Plan | Tally) -> None:
        if isinstance(event, Plan):
            for line in plan_lines(event):
                self._line(line)
            if event.captioner and self._console.is_interactive:
                self._start()
        elif event.stopping and not self._stopping:
            self._stopping = True
            self._line("stopping: waiting for the answers in flight, which are paid for; Ctrl-C again leaves at once")
        elif self._progress is not None:
            ended = event.done + len(event.failures)
            self._progress.update(self._progress.task_ids[0], total=event.pictures, completed=ended, numbers=numbers(event))
        else:
            self._plain(event)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def finish(self, outcome: Outcome, *, dry_run: bool, program: str = "mlxtune") -> None:
        self.close()
        if outcome.tally.requests:
            self._line(numbers(outcome.tally))
        for line in failure_lines(outcome):
            self._line(line)
        self._console.print(_table(outcome, dry_run=dry_run))
        for line in next_lines(outcome, dry_run=dry_run, program=program):
            self._line(line)

    def _start(self) -> None:
        counters = TextColumn("{task.fields[numbers]}", style="dim")
        self._progress = Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), counters, console=self._console)
        self._progress.add_task("pictures", numbers="")
        self._progress.start()

    def _plain(self, tally: Tally) -> None:
        ended = tally.done + len(tally.failures)
        due = ended * _SHARE // max(tally.pictures, 1)
        if due > self._said or self._clock() - self._spoke >= _LONGEST_SILENCE:
            self._said = due
            self._line(f"{ended}/{tally.pictures} pictures: {numbers(tally)}")

    def _line(self, text: str) -> None:
        # soft_wrap: a path or a command that is broken over two lines cannot be copied.
        self._console.print(Text(text), soft_wrap=True, highlight=False)
        self._spoke = self._clock()


def plan_lines(plan: Plan) -> list[str]:
    """What was found and will be done; a note for whatever a person may want to look at."""
    folder, merged = plan.folder, plan.merged
    lines = [f"pictures    {len(folder.pictures):,} in {len(folder.classes):,} classes, {len(plan.needs):,} to describe"]
    if plan.waiting:
        lines[0] += f", {plan.waiting:,} left for later"
    if plan.captioner:
        lines.append(f"captioner   {one_line(plan.captioner)}, {plan.concurrency} at once, {plan.requests:,} requests or more")
    changes = [("edited", merged.edited), ("rejected", merged.rejected), ("restored", merged.restored)]
    if any(number for _, number in changes):
        lines.append("review      " + ", ".join(f"{number:,} {what}" for what, number in changes if number))
    if merged.gone:
        lines.append(f"note: {merged.gone:,} rows set aside because their picture is gone; they come back with it")
    if folder.duplicates:
        lines.append(f"note: {folder.duplicates:,} files hold the same picture as another; it is described once")
    if folder.shared:
        first, second = folder.shared[0]
        more = f", and {len(folder.shared) - 1:,} more" if len(folder.shared) > 1 else ""
        lines.append(f"note: the same picture is in two classes: {place(first)}, {place(second)}{more}. Is that meant?")
    if folder.left_out:
        kinds = ", ".join(f"{suffix or 'no suffix'} {number:,}" for suffix, number in sorted(folder.left_out.items()))
        lines.append(f"note: files that are not read as pictures: {one_line(kinds)}. Convert them to JPEG or PNG")
    if plan.repaired:
        lines.append(f"note: {place(plan.out)} ended in half a line ({plan.repaired:,} bytes); it was removed")
    return lines


def numbers(tally: Tally) -> str:
    """The counters on one line; tokens are what servers said, replies without a count are told."""
    parts = [f"{tally.done:,} done"]
    parts += [f"{number:,} {what}" for what, number in (("flagged", tally.flagged), ("failed", len(tally.failures))) if number]
    parts.append(f"{tally.requests:,} requests")
    if retries := sum(tally.retries.values()):
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in tally.retries.most_common())
        parts.append(f"{retries:,} retries ({reasons})")
    if tally.replies > tally.uncounted:
        tokens = f"{count(tally.prompt_tokens)} + {count(tally.completion_tokens)} tokens"
        parts.append(tokens + (f" ({tally.uncounted:,} replies not counted)" if tally.uncounted else ""))
    return " · ".join(parts)


def failure_lines(outcome: Outcome) -> list[str]:
    lines = []
    failures = outcome.tally.failures
    for reason, number in Counter(failure.reason for failure in failures).most_common():
        of_it = [failure for failure in failures if failure.reason == reason]
        shown = ", ".join(place(failure.picture.path) for failure in of_it[:_LISTED])
        more = f", and {number - _LISTED:,} more" if number > _LISTED else ""
        lines.append(f"failed      {one_line(reason)}: {number:,} ({shown}{more}); the first says: {one_line(of_it[0].message)}")
    if failures:
        lines.append(f"            all of them: {place(outcome.failed)}; the same command tries them again")
    return lines


def next_lines(outcome: Outcome, *, dry_run: bool, program: str) -> list[str]:
    plan = outcome.plan
    if dry_run:
        return [f"a dry run: nothing was changed; it would take {plan.requests:,} requests or more"]
    lines = [f"annotations {place(plan.out)}"] if _exists(plan.out) else []
    if _exists(outcome.review):
        added = f" ({outcome.reviewable:,} new lines)" if outcome.reviewable else ""
        lines.append(
            f"review      {place(outcome.review)}{added}: edit it, then run the same command again to take the edits over"
        )
    if plan.waiting and not outcome.stopped:
        lines.append("more        the same command without --limit describes the rest")
    if lines and not outcome.stopped:
        names = f", names: {place(plan.names)}" if plan.names else ""
        lines.append(f"recipe      data: {{task: characters, path: {place(plan.out)}{names}}}")
        lines.append(f"next        {program} finetune RECIPE")
    return lines


def _exists(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _table(outcome: Outcome, *, dry_run: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    columns = ("class", "pictures", "to describe" if dry_run else "described", "captions", "questions", "flagged", "failed")
    for column in columns:
        table.add_column(column, justify="left" if column == "class" else "right", overflow="fold")
    for item in outcome.classes:
        told = item.new if dry_run else item.complete
        cells = (item.pictures, told, item.captions, item.questions, item.flagged, item.failed)
        table.add_row(Text(one_line(item.name, longest=40)), *(f"{cell:,}" for cell in cells))
    return table
