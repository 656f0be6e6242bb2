"""``mlxtune data``: a look at the rows before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from mlxtune.cli.options import debug_option, set_option

if TYPE_CHECKING:
    from mlxtune.data import Data
    from mlxtune.survey import Survey

_EVERY = 64  # rows between two looks at the clock


@click.command("data", short_help="Look at the rows: counts, lengths, answers, pictures, problems.")
@click.argument("recipe")
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the page of samples is written. [default: data-NAME.html in the recipe's out]",
)
@click.option("--no-html", is_flag=True, help="Write no page.")
@click.option("--examples", type=click.IntRange(min=0), default=3, show_default=True, metavar="N", help="Examples shown here.")
@set_option
@debug_option
def data(recipe: str, page: Path | None, no_html: bool, examples: int, overrides: tuple[str, ...]) -> None:
    """Show the rows that RECIPE trains on and asks, exactly as a run reads them: how many, how long, how alike, what to mend.

    \b
    mlxtune data recipes/charts-tiny.yaml
    mlxtune data recipes/charts-tiny.yaml --html charts.html --set data.limit.train=200

    Rows that are left out are listed beside the page. If they are too many to go on, --set data.max_skipped=1 lists them all.
    """
    if no_html and page:
        raise click.UsageError("--html names a page and --no-html wants none; give one of them.")
    from mlxtune.recipe import load_recipe, recipe_name

    spec = load_recipe(recipe, overrides=overrides)
    from rich.console import Console

    from mlxtune.data import load_data, load_set
    from mlxtune.survey import survey
    from mlxtune.ui.survey import show

    name = recipe_name(recipe)
    with _progress() as progress:
        rows = load_data(spec.data, progress=progress.read)
        sets = {key: load_set(one, name=key, beside=rows, progress=progress.read) for key, one in spec.evaluate.sets.items()}
        facts = survey(spec, rows, name=name, sets=sets, samples=max(60, examples), tick=progress.walk)
        files = {}
        if not no_html:
            progress.say("writing the page")
            files = _write(page or Path(spec.out) / f"data-{name}.html", facts, [rows, *sets.values()])
    show(facts, Console(highlight=False), examples=examples, files=files)


class _Progress(NamedTuple):
    read: Callable[[int, int | None], None]
    walk: Callable[[str, int, int], None]
    say: Callable[[str], None]


@contextmanager
def _progress() -> Iterator[_Progress]:
    """A line on standard error that is wiped at the end; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[rows]}", markup=False))
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as bar:
        task = bar.add_task("opening", total=None, rows="")

        def read(done: int, total: int | None) -> None:
            bar.update(task, description="reading", completed=done, total=total, rows=f"{done:,} rows")

        def walk(split: str, done: int, total: int) -> None:
            if done % _EVERY == 0 or done == total:
                bar.update(task, description="looking", completed=done, total=total, rows=f"{done:,} of {total:,} rows")

        def say(what: str) -> None:
            bar.update(task, description=what, total=None, rows="")

        yield _Progress(read, walk, say)


def _write(page: Path, facts: Survey, parts: Sequence[Data]) -> dict[str, Path]:
    """The page of samples and, where rows were left out, a list of them beside it; by what they hold."""
    from mlxtune.errors import RunError
    from mlxtune.report.samples import samples_page
    from mlxtune.runs import write_lines, write_text

    html, skipped = samples_page(facts), page.with_suffix(".skipped.jsonl")
    try:
        write_text(page, html)
        if not any(len(part.skipped) for part in parts):
            skipped.unlink(missing_ok=True)  # of an earlier look
            return {"samples": page}
        write_lines(skipped, (line for part in parts for line in part.skipped_lines()))
    except OSError as error:
        raise RunError(
            f"{page}: the page cannot be written ({error.strerror or error}). Name another file with --html"
        ) from error
    return {"samples": page, "left out": skipped}
