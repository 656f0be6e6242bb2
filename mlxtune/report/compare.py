"""Several runs side by side: seeds of one recipe together, what differs between the others, and what the difference is worth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from mlxtune.errors import RunError
from mlxtune.evaluate.answers import items_sha256
from mlxtune.evaluate.buckets import pair_up
from mlxtune.metrics import METRICS, item_of_line, score
from mlxtune.report.answer import OWN
from mlxtune.report.page import render
from mlxtune.report.plots import compared_losses
from mlxtune.runs import RunFolder
from mlxtune.statistics import Paired, metric_interval, paired, paired_metric, row_clusters
from mlxtune.text import NOTHING, one_line, value

_UNSAID = ("out", "report", "backend")  # of a recipe: where files go, and what run.json says better
_SEED = "train.seed"
_TRAINING = ("train", "lora")  # of a recipe: without meaning where nothing was trained
_FEWEST = 2

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One run. lines, scores: its answers after training (of a run without, before) and their metrics.json, by set.

    keys: its recipe, flat, and what run.json says of it; the seed is apart.
    """

    folder: RunFolder
    label: str
    seed: Any
    keys: Mapping[str, Any]
    results: Mapping[str, Any]
    lines: Mapping[str, Sequence[Line]]
    scores: Mapping[str, Mapping[str, Any]]
    earlier: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """A metric over the runs of a group. deviation: standard deviation over the seeds (n - 1), None for one run.

    before: mean of the same runs before training. low, high: 95 % interval over the questions, of a single run.
    """

    value: float | None
    deviation: float | None = None
    before: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone. told: the keys in which groups differ. cells: by set, then by metric.

    against: by set, the deciding metric beside the first group, on the same questions; None for the first.
    """

    label: str
    runs: Sequence[Run]
    told: Mapping[str, str]
    cells: Mapping[str, Mapping[str, Cell]]
    against: Mapping[str, Paired | None]
    wall_s: float | None
    peak_bytes: float | None

    @property
    def seeds(self) -> str:
        return ", ".join(str(run.seed) for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """rows: set -> questions that were compared. left_out: set -> questions that not all runs share (only with `intersect`)."""

    groups: Sequence[Group]
    keys: Sequence[str]
    sets: Mapping[str, str]  # name -> deciding metric
    rows: Mapping[str, int]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, list[str]]:
        return {name: list(self.groups[0].cells[name]) for name in self.sets}


def compare(runs: Sequence[RunFolder], *, intersect: bool = False) -> Comparison:
    """Runs over the same questions; each needs its benchmark_results.json.

    intersect: of runs over other questions those that all share are compared, scored anew. Raises RunError where there are
    fewer than two runs, where they have no set in common, or where their questions differ and `intersect` is off.
    """
    if len({run.path.resolve() for run in runs}) < _FEWEST:
        raise RunError("a comparison needs two different runs. Name the folders of two or more: mlxtune compare RUN RUN")
    read = [_read(run) for run in runs]
    names = [name for name in read[0].lines if all(name in run.lines for run in read)]
    if not names:
        told = "; ".join(f"{run.label}: {', '.join(run.lines) or 'none'}" for run in read)
        raise RunError(f"the runs have no set of answers in common ({told}). Compare runs with the same evaluate.sets")
    left_out = {}
    for name in names:
        if len({_items(run.lines[name]) for run in read}) > 1:
            if not intersect:
                raise RunError(_differing(read, name))
            read, left = _intersected(read, name)
            left_out[name] = left
    groups = _grouped(read)
    keys = _differing_keys([members[0] for members in groups])
    metrics = {name: next(iter(read[0].scores[name])) for name in names}
    made = [_group(members, groups[0], keys=keys, metrics=metrics) for members in groups]
    return Comparison(made, keys, metrics, {name: len(read[0].lines[name]) for name in names}, left_out)


def compare_page(told: Comparison) -> str:
    """The comparison as HTML; `render` says what holds for every page."""
    from mlxtune.report.run_page import words

    curves = [
        (f"{number}, seed {run.seed}" if len(group.runs) > 1 else str(number), run.folder.steps(), run.folder.validations())
        for number, group in enumerate(told.groups, start=1)
        for run in group.runs
    ]
    return render("compare.html.j2", told=told, plots=compared_losses(curves), **words(), cell_text=cell_text, sides=sides)


def cell_text(cell: Cell, metric: str) -> str:
    """ "78.3 % ± 1.2" for several seeds, "78.3 %" for one run."""
    scale = METRICS[metric].scale if metric in METRICS else 1.0
    shown = value(cell.value, scale=scale)
    return shown if cell.deviation is None else f"{shown} ± {100 * cell.deviation / scale:.1f}"


def sides(cell: Cell, metric: str) -> str:
    """ "73.6 … 82.9"; "" where there is no interval."""
    if cell.low is None or cell.high is None:
        return ""
    scale = METRICS[metric].scale if metric in METRICS else 1.0
    return f"{100 * cell.low / scale:.1f} … {100 * cell.high / scale:.1f}"


# -- reading ----------------------------------------------------------------------------------------------------------


def _read(folder: RunFolder) -> Run:
    results, info = folder.read_json("benchmark_results.json"), folder.info()
    if results is None:
        raise RunError(f"{folder.path}: no benchmark_results.json. Make it: mlxtune report {folder.path}")
    lines, scores, earlier = {}, {}, {}
    for name in results["sets"]:
        place = {phase: phase if name == OWN else f"{phase}/{name}" for phase in ("before", "after")}
        before, after = (folder.read_evaluation(place[phase]) for phase in ("before", "after"))
        if newest := after or before:
            lines[name], scores[name] = newest
            earlier[name] = before[1] if before and after else {}
    recipe = dict(_flat(folder.recipe().model_dump(mode="json")))
    seed = recipe.pop(_SEED, None)
    unsaid = _UNSAID if info.get("kind") == "finetune" else (*_UNSAID, *_TRAINING)
    keys = {key: value for key, value in recipe.items() if key.split(".")[0] not in unsaid}
    keys |= {key: info.get(key) for key in ("kind", "backend", "device", "adapter")}
    return Run(folder, folder.path.name, seed, keys, results, lines, scores, earlier)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _items(lines: Sequence[Line]) -> str:
    return items_sha256(sorted(lines, key=lambda line: str(line["id"])))


def _differing(runs: Sequence[Run], name: str) -> str:
    counts = "; ".join(f"{run.label} {len(run.lines[name]):,} rows, items {_items(run.lines[name])[:8]}" for run in runs)
    return (
        f"the runs were asked different questions in '{name}' ({counts}). Ask all the same (data, evaluate.limit), "
        "or compare the rows that all share: --intersect"
    )


def _intersected(runs: Sequence[Run], name: str) -> tuple[list[Run], int]:
    """The runs with the rows alone that all have, in the first one's order, scored anew; and how many rows fell out."""
    metrics = [key for key in runs[0].scores[name] if all(key in run.scores[name] for run in runs)]
    shared = list(runs[0].lines[name])
    for run in runs[1:]:
        pairs = pair_up(run.lines[name], shared, metric=metrics[0], intersect=True)  # refuses one id for two questions
        shared = [pair.line for pair in pairs]
    ids = {line["id"]: place for place, line in enumerate(shared)}
    every = {line["id"] for run in runs for line in run.lines[name]}
    made = []
    for run in runs:
        lines = sorted((line for line in run.lines[name] if line["id"] in ids), key=lambda line: ids[line["id"]])
        scores, values = score(metrics, [item_of_line(line) for line in lines])
        lines = [{**line, "scores": own} for line, own in zip(lines, values, strict=True)]
        found = {key: one.to_dict() for key, one in scores.items()}
        made.append(
            Run(
                **{
                    **vars(run),
                    "lines": {**run.lines, name: lines},
                    "scores": {**run.scores, name: found},
                    "earlier": {**run.earlier, name: {}},
                }
            )
        )
    return made, len(every) - len(ids)


# -- grouping ---------------------------------------------------------------------------------------------------------


def _grouped(runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = hashlib.sha256(json.dumps(run.keys, sort_keys=True, default=str).encode()).hexdigest()
        groups.setdefault(key, []).append(run)
    return [sorted(members, key=lambda run: (str(type(run.seed)), run.seed)) for members in groups.values()]


def _differing_keys(runs: Sequence[Run]) -> list[str]:
    """Keys with two values among the runs that have them."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, own in run.keys.items():
            values.setdefault(key, set()).add(json.dumps(own, default=str))
    return [key for key, found in values.items() if len(found) > 1]


def _group(runs: Sequence[Run], first: Sequence[Run], *, keys: Sequence[str], metrics: Mapping[str, str]) -> Group:
    told = {key: _shown(runs[0].keys[key]) if key in runs[0].keys else NOTHING for key in keys}
    values = [
        f"{key.split('.')[-1]} {value}" for key, value in told.items() if len(value) <= 40 and key not in ("kind", "adapter")
    ]
    short = f"{runs[0].folder.info().get('name') or runs[0].label}, {', '.join([*values, f'{len(runs)} seeds'])}"
    walls, peaks = ([run.results.get(key) for run in runs] for key in ("wall_s", "peak_bytes"))
    return Group(
        label=one_line(runs[0].label if len(runs) == 1 else short, longest=80),
        runs=runs,
        told=told,
        cells={name: _cells(runs, name) for name in metrics},
        against={name: None if runs is first else _against(first, runs, name, metric) for name, metric in metrics.items()},
        wall_s=_mean(walls),
        peak_bytes=_mean(peaks),
    )


def _cells(runs: Sequence[Run], name: str) -> dict[str, Cell]:
    cells = {}
    for metric in runs[0].scores[name]:
        values = [run.scores[name].get(metric, {}).get("value") for run in runs]
        before = _mean([run.earlier[name].get(metric, {}).get("value") for run in runs])
        if len(runs) == 1:
            lines = runs[0].lines[name]
            sure = metric_interval(
                metric,
                [item_of_line(line) for line in lines],
                values=[line["scores"].get(metric) for line in lines],
                clusters=row_clusters(lines),
            )
            cells[metric] = Cell(values[0], before=before, low=sure.low, high=sure.high)
        else:
            known = [value for value in values if value is not None]
            cells[metric] = Cell(_mean(values), stdev(known) if len(known) > 1 else None, before)
    return cells


def _against(first: Sequence[Run], runs: Sequence[Run], name: str, metric: str) -> Paired | None:
    """The change from the first group to this one on the same questions; of several seeds, each question's mean over them.

    None where a metric over the whole set has no value for a single question, and there are several seeds.
    """
    order = [line["id"] for line in first[0].lines[name]]
    clusters = row_clusters(first[0].lines[name])
    if len(first) == len(runs) == 1:
        lines = [_in_order(run.lines[name], order) for run in (first[0], runs[0])]
        items = [[item_of_line(line) for line in side] for side in lines]
        values = tuple([line["scores"].get(metric) for line in side] for side in lines)
        return paired_metric(metric, *items, values=values, clusters=clusters)
    if METRICS[metric].sums or METRICS[metric].values:
        return None
    means = [_item_means(group, name, metric, order) for group in (first, runs)]
    return paired(*means, clusters=clusters, scale=METRICS[metric].scale)


def _item_means(runs: Sequence[Run], name: str, metric: str, order: Sequence[str]) -> list[float | None]:
    columns = [[line["scores"].get(metric) for line in _in_order(run.lines[name], order)] for run in runs]
    return [_mean(values) if None not in values else None for values in zip(*columns, strict=True)]


def _in_order(lines: Sequence[Line], order: Sequence[str]) -> list[Line]:
    by_id = {line["id"]: line for line in lines}
    return [by_id[id] for id in order]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return "null" if value is None else one_line(str(value), longest=80)
