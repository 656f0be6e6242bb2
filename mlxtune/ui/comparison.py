"""What `mlxtune compare` prints."""

from __future__ import annotations

from rich.console import Console

from mlxtune.report.compare import Comparison, Group, cell_text, sides
from mlxtune.text import NOTHING, duration, memory, name, one_line
from mlxtune.ui.tables import say, show_table

_KEYS = 4  # differing keys with a column of their own; the page has all


def show_comparison(told: Comparison, out: Console) -> None:
    """The runs under numbers with what they differ in; then, for each set, their scores side by side."""
    columns = list(told.keys[:_KEYS])
    rows = [_about(number, group, columns) for number, group in enumerate(told.groups, start=1)]
    show_table(out, ("", "run", *columns, "seed", "time", "memory"), rows, right=(0, len(columns) + 3, len(columns) + 4))
    if len(told.keys) > _KEYS:
        say(out, f"they also differ in {one_line(', '.join(told.keys[_KEYS:]), longest=1000)}")
    numbers = [str(number) for number, _ in enumerate(told.groups, start=1)]
    for key, metric in told.sets.items():
        say(out, f"{told.rows[key]:,} questions of {key}{_left_out(told, key)}; below the scores: 95 % intervals")
        rows = [(name(one), *(_cell(group, key, one) for group in told.groups)) for one in told.metrics[key]]
        show_table(out, ("metric", *numbers), rows, right=range(1, len(numbers) + 1))
        for number, group in enumerate(told.groups, start=1):
            if change := group.against[key]:
                say(out, f"{name(metric)} of {number} against 1: {change.sentence()}")
    if any(len(group.runs) > 1 for group in told.groups):
        say(out, "± is the standard deviation over seeds; intervals are over the questions and say nothing about further seeds")


def _about(number: int, group: Group, columns: list[str]) -> list[str]:
    wall = NOTHING if group.wall_s is None else duration(group.wall_s)
    peak = NOTHING if group.peak_bytes is None else memory(int(group.peak_bytes))
    return [str(number), group.label, *(one_line(group.told[key], longest=40) for key in columns), group.seeds, wall, peak]


def _cell(group: Group, key: str, metric: str) -> str:
    """The score, and its interval on a line of its own."""
    cell = group.cells[key].get(metric)
    if cell is None:
        return NOTHING
    sure = sides(cell, metric)
    return f"{cell_text(cell, metric)}\n{sure}" if sure else cell_text(cell, metric)


def _left_out(told: Comparison, key: str) -> str:
    left = told.left_out.get(key)
    return f" that all share, scored anew ({left:,} left out)" if left else ""
