"""``mlxtune list``: what can be named in a recipe, from the registries themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from mlxtune.cli.options import debug_option


@click.group("list")
@debug_option
def list_group() -> None:
    """Show what there is: models, tasks, metrics or recipes."""


@list_group.command("models")
@debug_option
def models() -> None:
    """Model families and published models of them: size, memory, tokens of a picture, licence."""
    from mlxtune.families import FAMILIES
    from mlxtune.ui.models import show_models

    show_models(FAMILIES.values())


@list_group.command("tasks")
@debug_option
def tasks() -> None:
    """Tasks: which columns they read and how answers are scored (data.task)."""
    from mlxtune.tasks import TASKS

    rows = []
    for task in TASKS.values():
        columns = task.columns
        named = (("image", columns.image), ("question", columns.question), ("target", columns.target), ("id", columns.id))
        described = "\n".join(f"{role}: {' or '.join(names)}" for role, names in named if names)
        rows.append((task.name, task.description, described, ", ".join(task.metrics)))
    _table(("task", "description", "columns", "metrics"), rows)


@list_group.command("metrics")
@debug_option
def metrics() -> None:
    """Metrics: definition, caveat and source (evaluate.metrics)."""
    from mlxtune.metrics import METRICS

    rows = [
        (metric.name, f"{metric.scale:g}", "\n".join(text for text in (metric.definition, metric.caveat, metric.source) if text))
        for metric in METRICS.values()
    ]
    _table(("metric", "best", "definition, caveat, source"), rows, lines=True)


@list_group.command("recipes")
@debug_option
def recipes() -> None:
    """Ready recipes of the folder recipes/."""
    from mlxtune.errors import RecipeError

    here, checkout = Path("recipes"), Path(__file__).parents[2] / "recipes"
    folder = here if here.is_dir() else checkout
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise RecipeError("no folder recipes/ with YAML files here. Run this in a checkout of mlxtune")
    _table(("recipe", "about"), [(str(file), _first_comment(file)) for file in files])


def _first_comment(file: Path) -> str:
    """The first line of the file's own comment; the line before it may be for editors."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# yaml-language-server"):
            return line.lstrip("# ")
    return ""


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, lines: bool = False) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mlxtune.ui.text import clean

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=lines)
    for number, heading in enumerate(headings):
        table.add_column(heading, style="bold" if number == 0 else None, overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    Console(highlight=False).print(table)
