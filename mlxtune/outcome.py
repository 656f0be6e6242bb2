"""What came of a run: the change of each metric, a few answers side by side, and what to do next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlxtune.events import Change, Finished, Sample
from mlxtune.metrics import METRICS
from mlxtune.runs import RunFolder, write_json
from mlxtune.types import Example

_SAMPLES = 6


def outcome(
    run: RunFolder, *, metrics: Sequence[str], test: Sequence[Example], model: str, recipe_path: Path, wall_s: float
) -> Finished:
    """Reads the run's evaluations, writes benchmark_results.json and gives what a person is shown at the end."""
    before, after = run.read_evaluation("before"), run.read_evaluation("after")
    changes = tuple(
        Change(name, before[1][name]["value"] if before else None, after[1][name]["value"], METRICS[name].scale)
        for name in (metrics if after else ())
    )
    table = {
        c.metric: {"before": c.before, "after": c.after, "change": _difference(c.before, c.after), "scale": c.scale}
        for c in changes
    }
    results = {"test_rows": len(test), "wall_s": round(wall_s, 3), "best_step": run.best_step(), "metrics": table}
    write_json(run.path / "benchmark_results.json", results)
    return Finished(
        run=run.path,
        changes=changes,
        samples=_samples(before[0] if before else [], after[0] if after else []),
        test_rows=len(test),
        wall_s=wall_s,
        commands=_commands(run, test, model=model, recipe_path=recipe_path),
    )


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _samples(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> tuple[Sample, ...]:
    """Test rows spread evenly over the split, so that they show what there is and not what looks best."""
    rows = after or before
    earlier, later = ({line["id"]: line["prediction"] for line in lines} for lines in (before, after))
    chosen = rows[:: max(1, len(rows) // _SAMPLES)][:_SAMPLES]
    return tuple(Sample(r["question"], r["target"], earlier.get(r["id"]), later.get(r["id"])) for r in chosen)


def _commands(run: RunFolder, test: Sequence[Example], *, model: str, recipe_path: Path) -> tuple[tuple[str, str], ...]:
    adapter = run.path / "adapter"
    if not adapter.exists():
        return (("fine-tune it", shlex.join(["mlxtune", "finetune", _shown(recipe_path)])),)
    image = next((image.source for row in test for image in row.images if isinstance(image.source, Path)), Path("IMAGE"))
    question = test[0].question if test else "QUESTION"
    ask = ["mlxtune", "ask", _shown(image), question, "--model", _shown(model), "--adapter", _shown(adapter)]
    score = ["mlxtune", "evaluate", _shown(recipe_path), "--adapter", _shown(adapter)]
    return ("ask it yourself", shlex.join(ask)), ("score the adapter again", shlex.join(score))


def _shown(path: Path | str) -> str:
    """A path below the current folder as a person would type it; anything else, a hub id too, as it is."""
    inside = Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd())
    return os.path.relpath(path) if inside else str(path)
