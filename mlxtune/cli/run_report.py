"""``mlxtune report`` and ``mlxtune compare``: finished runs as pages and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxtune.cli.options import debug_option, own_name

if TYPE_CHECKING:
    from mlxtune.images import ImageRef
    from mlxtune.recipe import Recipe
    from mlxtune.runs import RunFolder

_folder = click.Path(path_type=Path)


@click.command("report", short_help="A finished run as HTML, Markdown and in the terminal.")
@click.argument("run", type=_folder)
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@debug_option
def report(run: Path, open_page: bool) -> None:
    """Write report.html and report.md into the folder of RUN, and show what came of it.

    \b
    mlxtune report runs/charts-tiny-2026-11-21-1
    """
    from mlxtune.outcome import story
    from mlxtune.report import write_report
    from mlxtune.ui import watch

    folder = _opened(run)
    picture = _pictures(folder.recipe())
    with _readable(run):
        page, _ = write_report(folder, picture=picture)
        finished = story(folder)
    with watch(program=own_name()) as observe:
        observe(finished)
    if open_page:
        click.launch(str(page))


@click.command("compare", short_help="Several runs side by side: seeds, backends, ranks, resolutions.")
@click.argument("runs", type=_folder, nargs=-1, required=True, metavar="RUN RUN...")
@click.option(
    "--html", "page", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the comparison as a page too."
)
@click.option("--intersect", is_flag=True, help="Of runs over different questions, compare those that all share, scored anew.")
@debug_option
def compare(runs: tuple[Path, ...], page: Path | None, intersect: bool) -> None:
    """Put runs over the same questions side by side. Runs that differ by their seed alone are one line: mean ± deviation.

    \b
    mlxtune compare runs/rank-8 runs/rank-16 runs/rank-16-seed-1
    """
    from mlxtune.report.compare import compare as compared
    from mlxtune.report.compare import compare_page
    from mlxtune.ui.comparison import show_comparison
    from mlxtune.ui.tables import console, say

    folders = [_opened(run) for run in runs]
    with _readable(*runs):
        told = compared(folders, intersect=intersect)
        html = compare_page(told) if page else ""
    out = console()
    show_comparison(told, out)
    if page:
        _write(page, html)
        say(out, f"page: {page}")


def _opened(path: Path) -> RunFolder:
    """The run's folder with its results as this version writes them. Raises RunError."""
    from mlxtune.errors import RecipeError, RunError
    from mlxtune.outcome import write_results
    from mlxtune.runs import RunFolder

    run = RunFolder(path)
    if not (path / "recipe.yaml").is_file() or not (path / "run.json").is_file():
        raise RunError(f"{path}: not the folder of a run; one has a recipe.yaml and a run.json. Name a folder below runs/")
    bare = [file.parent for file in path.glob("[ba][ef]*/**/metrics.json") if not (file.parent / "evaluation.json").is_file()]
    if bare:
        raise RunError(
            f"{bare[0]}: no evaluation.json says how these answers were made; the run is of an earlier version. "
            f"Ask anew: mlxtune evaluate {path / 'recipe.yaml'} --adapter {path / 'adapter'}"
        )
    with _readable(path):
        run.info()
        try:
            run.recipe()
        except RecipeError as error:
            raise RunError(f"{path}: its recipe.yaml is of another version of mlxtune, or was changed:\n{error}") from error
        if _outdated(run):
            write_results(run)
    return run


@contextmanager
def _readable(*paths: Path) -> Iterator[None]:
    """What a run's files do to those who read them, as a RunError: they may be cut short, changed, or not to be read at all."""
    from mlxtune.errors import RunError

    runs = ", ".join(map(str, paths))
    try:
        yield
    except OSError as error:
        raise RunError(f"{runs}: {error.strerror or error}. Make the folder readable and writable") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RunError(
            f"{runs}: files of the run are damaged ({what}). Restore them, or run again; --debug shows where"
        ) from error


def _outdated(run: RunFolder) -> bool:
    """Whether what follows from the answers is missing, older than they are, or of an earlier form."""
    from pydantic import ValidationError

    from mlxtune.evaluate.schemas import SCHEMAS

    answers = [*run.path.glob("before/**/*.json*"), *run.path.glob("after/**/*.json*"), run.path / "run.json"]
    newest = max(file.stat().st_mtime_ns for file in answers)
    for name, schema in SCHEMAS.items():
        file = run.path / name
        if not file.exists():
            if name == "error_analysis.json" and not any(answers[:-1]):
                continue
            return True
        try:
            schema.model_validate_json(file.read_bytes())
        except ValidationError:
            return True
        if file.stat().st_mtime_ns < newest:
            return True
    return False


def _pictures(recipe: Recipe) -> Callable[[str], ImageRef | None]:
    """Pictures of the test rows by key. Where the data cannot be read any more there are none, and the user is told why."""
    from mlxtune.data import load_data, load_set
    from mlxtune.errors import MlxtuneError

    try:
        data = load_data(recipe.data)
        rows = [*data.splits.get("test", ())]
        for name, spec in recipe.evaluate.sets.items():
            rows += load_set(spec, name=name, beside=data).splits[name]
    except MlxtuneError as error:
        click.echo(f"note: the report has no pictures, because the data cannot be read: {str(error).splitlines()[0]}", err=True)
        return lambda key: None
    pictures = {image.key: image for row in rows for image in row.images}
    return pictures.get


def _write(page: Path, html: str) -> None:
    from mlxtune.errors import RunError
    from mlxtune.runs import write_text

    try:
        write_text(page, html)
    except OSError as error:
        raise RunError(
            f"{page}: the page cannot be written ({error.strerror or error}). Name another file with --html"
        ) from error
