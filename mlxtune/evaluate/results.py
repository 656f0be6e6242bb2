"""What came of a run in numbers: every score with its interval, every change with its proof. Read from the run's folder alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlxtune.metrics import METRICS
from mlxtune.metrics.base import item_of_line
from mlxtune.metrics.status import count_statuses
from mlxtune.runs import RunFolder
from mlxtune.statistics import metric_interval, paired_metric, row_clusters

OWN = "test"  # the recipe's own test rows; all other sets are `evaluate.sets`

Line = Mapping[str, Any]


def benchmark_results(run: RunFolder) -> dict[str, Any]:
    """The content of benchmark_results.json, less its "advice". See mlxtune/evaluate/schemas for its form."""
    info, steps = run.info(), run.steps()
    recipe = run.recipe()
    return {
        "name": info.get("name"),
        "title": recipe.report.title,
        "kind": info.get("kind"),
        "model": recipe.model.path,
        "adapter": info.get("adapter"),
        "task": recipe.data.task,
        "backend": info.get("backend"),
        "device": info.get("device"),
        "precision": recipe.model.precision,
        "seed": info.get("seed"),
        "wall_s": info.get("wall_s"),
        "best_step": run.best_step(),
        "steps": len(steps),
        "peak_bytes": max((step["peak_bytes"] for step in steps), default=None),
        "sets": {name: set_results(run, name) for name in set_names(run)},
    }


def set_names(run: RunFolder) -> Iterator[str]:
    """What was asked in this run, its own test rows first."""
    for name in (OWN, *run.recipe().evaluate.sets):
        if any(run.read_evaluation(folder(phase, name)) for phase in ("before", "after")):
            yield name


def folder(phase: str, name: str) -> str:
    """Below the run's folder: "before" for the recipe's own test rows, "before/<name>" for a further set."""
    return phase if name == OWN else f"{phase}/{name}"


def set_results(run: RunFolder, name: str) -> dict[str, Any]:
    """One set: its scores before and after, what became of its answers, and how it was asked."""
    phases = {phase: run.read_evaluation(folder(phase, name)) for phase in ("before", "after")}
    about = {phase: run.read_json(f"{folder(phase, name)}/evaluation.json") for phase in phases}
    lines = {phase: read[0] if read else None for phase, read in phases.items()}
    last = "after" if phases["after"] else "before"
    scores = {phase: read[1] if read else None for phase, read in phases.items()}
    return {
        "task": about[last]["task"],
        "rows": len(lines[last]),
        "pictures": len({key for line in lines[last] for key in line["images"]}),
        "items_sha256": about[last]["items_sha256"],
        "metric": next(iter(scores[last])),
        "metrics": compared_metrics(lines["before"], lines["after"], scores),
        "status": {phase: dict(count_statuses(found)) if found else None for phase, found in lines.items()},
        "controls": run.read_json(f"{folder('after', name)}/controls.json"),
        "speed": {phase: told["speed"] if told else None for phase, told in about.items()},
    }


def compared_metrics(
    before: Sequence[Line] | None, after: Sequence[Line] | None, scores: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, Any]:
    """For each metric its value before and after with a 95 % interval, and the change on the same items.

    before, after: lines of predictions.jsonl over the same items in the same order, or None. scores: the two metrics.json.
    """
    lines = {phase: found for phase, found in (("before", before), ("after", after)) if found is not None}
    clusters = row_clusters(next(iter(lines.values())))
    items = {phase: [item_of_line(line) for line in found] for phase, found in lines.items()}
    names = next(read for read in (scores["after"], scores["before"]) if read)
    results = {}
    for name in names:
        metric = METRICS[name]
        values = {phase: [line["scores"].get(name) for line in found] for phase, found in lines.items()}
        told: dict[str, Any] = {"before": None, "after": None, "change": None}
        for phase, found in items.items():
            sure = metric_interval(name, found, values=values[phase], clusters=clusters)
            told[phase] = {"value": scores[phase][name]["value"], "low": sure.low, "high": sure.high}
            told[phase] |= {"n": scores[phase][name]["n"], "ungraded": scores[phase][name]["ungraded"]}
        if len(items) == 2:
            change = paired_metric(
                name, items["before"], items["after"], values=(values["before"], values["after"]), clusters=clusters
            )
            shown = ("difference", "low", "high", "p_value", "fixed", "broken", "method")
            told["change"] = {key: getattr(change, key) for key in shown}
            told["change"] |= {"detectable": change.detectable, "text": change.sentence()}
        results[name] = {**told, "scale": metric.scale, "higher_is_better": metric.higher_is_better}
    return results
