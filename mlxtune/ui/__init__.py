"""What a person sees of a run: a live display on a terminal, plain lines everywhere else. Both only listen to events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from mlxtune.events import Observer
from mlxtune.ui.live import LiveView
from mlxtune.ui.plain import PlainView
from mlxtune.ui.text import clean

__all__ = ["clean", "watch"]


@contextmanager
def watch(console: Console | None = None, *, program: str = "mlxtune") -> Iterator[Observer]:
    """Shows the events of one run on `console` (default: standard output) until the block is left, also by an error.

    program: how the user calls mlxtune; stands in the commands that are suggested at the end.
    """
    # A Console without a terminal assumes 80 columns for tables; plain lines take whatever length they need.
    console = console or Console(highlight=False)
    view = LiveView(console, program=program) if console.is_interactive else PlainView(console, program=program)
    try:
        yield view
    finally:
        view.close()
