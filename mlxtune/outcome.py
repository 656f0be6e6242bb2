"""What came of a run: its figures and their causes go into files, and what a person is shown at the end is made from these."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxtune.evaluate.advice import advise
from mlxtune.evaluate.analysis import error_analysis
from mlxtune.evaluate.figures import figures_of
from mlxtune.evaluate.results import OWN, benchmark_results, folder
from mlxtune.events import Change, Finished, Sample
from mlxtune.prepare import Setup
from mlxtune.runs import RunFolder

_SAMPLES = 3
_ADVICE = 3  # pieces that are shown; all are in the files


def write_results(run: RunFolder) -> dict[str, Any]:
    """Writes benchmark_results.json and, where anything was asked, error_analysis.json; gives the content of the first."""
    results = benchmark_results(run)
    advice: list[dict[str, Any]] = []
    if results["sets"]:
        analysis = error_analysis(_lines(run, "before"), _lines(run, "after"))
        advice = [piece.to_dict() for piece in advise(figures_of(run, results=results, analysis=analysis))]
        run.write_json("error_analysis.json", {**analysis, "advice": advice})
    run.write_json("benchmark_results.json", {**results, "advice": advice})
    return {**results, "advice": advice}


def story(run: RunFolder, *, commands: Sequence[tuple[str, str]] = (), wall_s: float | None = None) -> Finished:
    """What a person is told of a finished run, from its files. commands: (what it does, command line) to try next."""
    results = run.read_json("benchmark_results.json") or {"sets": {}, "advice": [], "wall_s": 0.0}
    sets = results["sets"]
    analysis = run.read_json("error_analysis.json") or {}
    buckets = {name: bucket["n"] for name, bucket in (analysis.get("buckets") or {}).items()}
    return Finished(
        run=run.path,
        changes=tuple(change for name, found in sets.items() for change in _changes(name, found)),
        samples=_samples(_lines(run, "before") or [], _lines(run, "after") or []),
        buckets=buckets,
        controls=next(iter(sets.values()))["controls"] if sets else None,
        advice=tuple(piece["text"] for piece in results["advice"][:_ADVICE]),
        test_rows=sum(found["rows"] for found in sets.values()),
        wall_s=wall_s if wall_s is not None else results["wall_s"] or 0.0,
        report=next((file for file in [run.path / "report.html"] if file.exists()), None),
        commands=tuple(commands),
    )


def next_commands(setup: Setup, run: RunFolder) -> tuple[tuple[str, str], ...]:
    adapter = run.path / "adapter"
    recipe_path, model = setup.recipe_path, setup.recipe.model.path
    if not adapter.exists():
        return (("fine-tune it", shlex.join(["mlxtune", "finetune", _shown(recipe_path)])),)
    rows = setup.sets[0].examples[:1] if setup.sets else ()
    image = next((image.source for row in rows for image in row.images if isinstance(image.source, Path)), Path("IMAGE"))
    question = rows[0].question if rows else "QUESTION"
    ask = ["mlxtune", "ask", _shown(image), question, "--model", _shown(model), "--adapter", _shown(adapter)]
    score = ["mlxtune", "evaluate", _shown(recipe_path), "--adapter", _shown(adapter)]
    return ("ask it yourself", shlex.join(ask)), ("score the adapter again", shlex.join(score))


def _lines(run: RunFolder, phase: str) -> list[dict[str, Any]] | None:
    """Answers to the recipe's own test rows, or else to the first further set."""
    for name in (OWN, *run.recipe().evaluate.sets):
        if read := run.read_evaluation(folder(phase, name)):
            return read[0]
    return None


def _changes(name: str, found: Mapping[str, Any]) -> list[Change]:
    def value(told: Mapping[str, Any], phase: str) -> float | None:
        return told[phase]["value"] if told[phase] else None

    return [
        Change(
            metric,
            before=value(told, "before"),
            after=value(told, "after"),
            scale=told["scale"],
            asked=name,
            told=_sides(told["after"], told["scale"]) if told["change"] is None else told["change"]["text"],
            detectable=told["change"] is None or told["change"]["detectable"],
        )
        for metric, told in found["metrics"].items()
    ]


def _sides(score: Mapping[str, Any] | None, scale: float) -> str:
    if not score or score["low"] is None:
        return ""
    low, high = (side * 100 / scale for side in (score["low"], score["high"]))
    return f"95 %: {low:.1f} … {high:.1f}"


def _samples(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> tuple[Sample, ...]:
    """Test rows spread evenly over the split, so that they show what there is and not what looks best."""
    rows = after or before
    earlier, later = ({line["id"]: line["prediction"] for line in lines} for lines in (before, after))
    chosen = rows[:: max(1, len(rows) // _SAMPLES)][:_SAMPLES]
    return tuple(Sample(r["question"], r["target"], earlier.get(r["id"]), later.get(r["id"])) for r in chosen)


def _shown(path: Path | str) -> str:
    """A path below the current folder as a person would type it; anything else, a hub id too, as it is."""
    inside = Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd())
    return os.path.relpath(path) if inside else str(path)
