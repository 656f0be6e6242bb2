"""Tables of commands that print once and end: as wide as the terminal, and whole where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlxtune.ui.text import clean

_WIDE = 2000  # columns of a pipe: a log's lines are as long as they are


def console() -> Console:
    """Standard output."""
    shown = Console(highlight=False)
    return shown if shown.is_interactive else Console(highlight=False, width=_WIDE)


def show_table(out: Console, headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Foreign text is cleaned and taken as text. right: columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(Text(clean(heading)), justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    out.print(table)


def say(out: Console, text: str) -> None:
    out.print(Text(clean(text)), soft_wrap=True)
