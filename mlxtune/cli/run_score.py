"""``mlxtune score``: answers that any tool produced, scored as a run's own are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlxtune.cli.options import debug_option

_file = click.Path(path_type=Path, dir_okay=False)


@click.command("score", short_help="Score answers that any tool produced.")
@click.argument("predictions", type=_file)
@click.option("--task", required=True, metavar="NAME", help="Whose metrics count; mlxtune list tasks shows them.")
@click.option("--against", type=_file, metavar="FILE", help="Earlier answers to the same rows: the 'before' of a comparison.")
@click.option(
    "--out",
    type=_file,
    metavar="FILE",
    help="Where metrics.json is written; benchmark_results.json and error_analysis.json come to stand beside it.",
)
@debug_option
def score(predictions: Path, task: str, against: Path | None, out: Path | None) -> None:
    """Score the answers of PREDICTIONS, a JSON Lines file with 'id', 'prediction' and 'target' (or 'references') in each line.

    \b
    What the task needs may stand beside them: 'index', 'category', 'kind', 'choices' (a list, letter to text, or
    columns A, B, …), 'names', 'likelihoods'; 'question', 'image', 'group' and 'finish' make the analysis better.

    \b
    mlxtune score answers.jsonl --task chartqa
    mlxtune score after.jsonl --task mmbench_ru --against before.jsonl --out scores/metrics.json
    """
    from mlxtune.evaluate.score_file import file_results, score_file
    from mlxtune.ui.scores import show_scores
    from mlxtune.ui.tables import console, say

    if out:
        _check_place(out)
    after = score_file(predictions, task=task)
    results, analysis = file_results(after, score_file(against, task=task) if against else None)
    screen = console()
    show_scores(results, analysis, screen)
    if out:
        _write(out, metrics=after.metrics, results=results, analysis=analysis)
        say(screen, f"written: {out}, with benchmark_results.json and error_analysis.json beside it")


def _check_place(out: Path) -> None:
    from mlxtune.errors import RunError
    from mlxtune.evaluate.schemas import SCHEMAS

    if (out.parent / "run.json").exists():
        raise RunError(f"{out.parent}: the folder of a run, whose results would be replaced. Name a file in another folder")
    if out.name in SCHEMAS:
        raise RunError(f"{out}: that name is kept for a file of another content. Name it metrics.json")


def _write(out: Path, *, metrics: dict[str, Any], results: dict[str, Any], analysis: dict[str, Any]) -> None:
    from mlxtune.errors import RunError
    from mlxtune.runs import write_json

    try:
        write_json(out, metrics)
        write_json(out.with_name("benchmark_results.json"), results)
        write_json(out.with_name("error_analysis.json"), analysis)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror or error}). Name another file with --out") from error
