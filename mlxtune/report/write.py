"""report.html and report.md of a run's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlxtune.images import ImageRef
from mlxtune.runs import RunFolder, write_text


def write_report(run: RunFolder, *, picture: Callable[[str], ImageRef | None]) -> tuple[Path, Path]:
    """Writes report.html and report.md into the run's folder, from its files alone, and gives their paths.

    picture: the picture of a key of predictions.jsonl, None where it is gone. Raises RunError where the run has no
    benchmark_results.json, or its folder cannot be written.
    """
    from mlxtune.errors import RunError
    from mlxtune.report.contents import contents
    from mlxtune.report.markdown import markdown
    from mlxtune.report.run_page import run_page

    told = contents(run, picture=picture)
    html, text = run.path / "report.html", run.path / "report.md"
    try:
        write_text(html, run_page(told))
        write_text(text, markdown(told))
    except OSError as error:
        raise RunError(
            f"{run.path}: the report cannot be written ({error.strerror or error}). Make the folder writable"
        ) from error
    return html, text
