"""Everything that a report says, read from a run's folder once; the page and the Markdown file are two views of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.errors import RunError
from mlxtune.metrics import METRICS
from mlxtune.report.answer import OWN, Answer, answer_of
from mlxtune.report.examples import FindImage, Shown, examples
from mlxtune.runs import RunFolder
from mlxtune.text import percent, place

_VALUES = 30  # of a column that a table shows
_PHASES = ("before", "after")

BUCKETS = {
    "fixed": "wrong before, right after",
    "broken": "right before, wrong after",
    "still_right": "right both times",
    "still_wrong": "wrong both times",
    "ungraded": "could not be graded",
    "wrong": "wrong answers",
    "right": "right answers",
}
CONTROLS = {
    "full": ("as asked", "the same rows as they were asked"),
    "blank": ("blank pictures", "grey pictures of the same size: what the words alone give away"),
    "shuffled": ("other pictures", "each row with the pictures of another row"),
    "majority": ("commonest answers", "no model: the commonest training answer to this kind of question"),
}


@dataclass(frozen=True)
class Cause:
    """Wrong answers with one primary cause. before, after: how many, None where that side was not asked."""

    name: str
    family: str
    description: str
    before: int | None
    after: int | None
    also: int


@dataclass(frozen=True)
class Contents:
    """results, analysis: the content of benchmark_results.json and error_analysis.json (None without test rows).

    scores: phase -> metrics.json of the first set. about: phase -> evaluation.json of it. missing: sections that this run has
    nothing for, and why. commands: (what it does, command line).
    """

    run: Path
    name: str
    title: str
    info: Mapping[str, Any]
    recipe: str
    results: Mapping[str, Any]
    analysis: Mapping[str, Any] | None
    answer: Answer
    scores: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Mapping[str, Any]]
    steps: Sequence[Mapping[str, Any]]
    looks: Sequence[Mapping[str, Any]]
    checkpoints: tuple[int, ...]
    examples: Sequence[Shown]
    rows: int
    commands: tuple[tuple[str, str], ...]
    missing: tuple[str, ...] = field(default=())

    @property
    def compared(self) -> bool:
        return bool(self.analysis and self.analysis["buckets"] is not None)

    @property
    def trained(self) -> bool:
        return bool(self.steps)

    @property
    def own(self) -> Mapping[str, Any] | None:
        """The first set: the recipe's own test rows, where they were asked."""
        return next(iter(self.results["sets"].values()), None)

    @property
    def own_name(self) -> str:
        return next(iter(self.results["sets"]), OWN)

    @property
    def further(self) -> dict[str, Any]:
        return dict(list(self.results["sets"].items())[1:])

    @property
    def newest(self) -> str:
        """The phase whose answers are looked at."""
        return "after" if self.analysis and self.analysis["after"] else "before"

    @property
    def phases(self) -> list[str]:
        return [phase for phase in _PHASES if self.analysis and self.analysis[phase]]

    @property
    def causes(self) -> list[Cause]:
        """The commonest first, by the newest answers."""
        if self.analysis is None:
            return []
        sides = {phase: self.analysis[phase] for phase in _PHASES}
        names = {name for side in sides.values() if side for name in side["causes"]}

        def count(side: Mapping[str, Any] | None, name: str, key: str = "n") -> int | None:
            return side["causes"].get(name, {key: 0})[key] if side else None

        found = [
            Cause(
                name,
                family=self.analysis["definitions"][name]["family"],
                description=self.analysis["definitions"][name]["description"],
                before=count(sides["before"], name),
                after=count(sides["after"], name),
                also=count(sides[self.newest], name, "also") or 0,
            )
            for name in self.analysis["definitions"]
            if name in names
        ]
        return sorted(found, key=lambda cause: (-(cause.after or 0), -(cause.before or 0)))

    @property
    def breakdowns(self) -> dict[str, tuple[dict[str, Any], int]]:
        """column -> (value -> its group of error_analysis.json, how many values are not shown)."""
        tables = self.analysis["by"] if self.analysis else {}
        shown = {column: dict(list(groups.items())[:_VALUES]) for column, groups in tables.items() if len(groups) > 1}
        return {column: (groups, len(tables[column]) - len(groups)) for column, groups in shown.items()}

    @property
    def confusion(self) -> tuple[list[str], dict[str, dict[str, int]]]:
        """(classes that answers name, class -> class named -> answers) of recognition_rate, newest phase; empty without it."""
        told = self.scores.get(self.newest, {}).get("recognition_rate", {}).get("confusion") or {}
        return list(dict.fromkeys([*told, *(named for counts in told.values() for named in counts)])), told

    @property
    def lengths(self) -> list[str]:
        """Of each phase how long its answers are and how many repeat themselves, in a sentence."""
        found = []
        for phase, about in self.about.items():
            if told := about.get("answers"):
                whose = f"{phase.capitalize()}: answers" if self.compared else "Answers"
                long = f"{told['words_mean']:.1f} words long on average, {told['words_longest']:,} at most"
                found.append(f"{whose} are {long}; {percent(told['repetitive'])} repeat themselves.")
        return found

    @property
    def beside(self) -> list[tuple[str, str, str]]:
        """(metric, phase, what metrics.json tells beside the value): precision and recall, signatures, notes."""
        found = []
        for phase, scores in self.scores.items():
            for metric, told in scores.items():
                extra = {key: value for key, value in told.items() if key not in ("value", "n", "ungraded")}
                plain = {key: value for key, value in extra.items() if not isinstance(value, (dict, list))}
                if plain:
                    found.append((metric, phase, ", ".join(f"{key} {_short(value)}" for key, value in plain.items())))
        return sorted(found, key=lambda item: list(METRICS).index(item[0]) if item[0] in METRICS else len(METRICS))

    @property
    def training(self) -> dict[str, float]:
        """Sums over train.jsonl: wall_s, samples, tokens, supervised_tokens."""
        keys = ("wall_s", "samples", "tokens", "supervised_tokens")
        return {key: sum(step.get(key) or 0 for step in self.steps) for key in keys}

    @property
    def splits(self) -> dict[str, Any]:
        """The splits of the run's own data, as run.json records them."""
        return ((self.info.get("data") or {}).get("own") or {}).get("splits") or {}

    @property
    def skipped(self) -> dict[str, dict[str, int]]:
        return ((self.info.get("data") or {}).get("own") or {}).get("skipped") or {}


def contents(run: RunFolder, *, picture: FindImage) -> Contents:
    """What the run's files hold. Raises RunError where benchmark_results.json is missing; `mlxtune report` writes it anew."""
    results = run.read_json("benchmark_results.json")
    if results is None:
        raise RunError(f"{run.path}: no benchmark_results.json, so there is nothing to report. Run: mlxtune report {run.path}")
    info = run.info()
    set_name = next(iter(results["sets"]), OWN)
    phases = {phase: run.read_evaluation(phase if set_name == OWN else f"{phase}/{set_name}") for phase in _PHASES}
    lines = {phase: read[0] if read else None for phase, read in phases.items()}
    steps, looks = run.steps(), run.validations()
    name = info.get("name") or run.path.name
    return Contents(
        run=run.path,
        name=name,
        title=results.get("title") or name,
        info=info,
        recipe=(run.path / "recipe.yaml").read_text(encoding="utf-8"),
        results=results,
        analysis=run.read_json("error_analysis.json") if results["sets"] else None,
        answer=answer_of(results),
        scores={phase: read[1] for phase, read in phases.items() if read},
        about={phase: _about(run, phase, set_name) for phase, read in phases.items() if read},
        steps=steps,
        looks=looks,
        checkpoints=_checkpoints(run.path),
        examples=examples(lines["before"], lines["after"], picture=picture),
        rows=len(lines["after"] or lines["before"] or ()),
        commands=_commands(run, info, results),
        missing=tuple(_missing(results, steps, looks)),
    )


def _about(run: RunFolder, phase: str, set_name: str) -> Mapping[str, Any]:
    return run.read_json(f"{phase if set_name == OWN else f'{phase}/{set_name}'}/evaluation.json") or {}


def _checkpoints(folder: Path) -> tuple[int, ...]:
    names = (path.name.removeprefix("step-") for path in (folder / "checkpoints").glob("step-*"))
    return tuple(sorted(int(name) for name in names if name.isdecimal()))


def _commands(run: RunFolder, info: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The run again, from its own resolved recipe."""
    recipe, adapter = place(run.path / "recipe.yaml"), run.path / "adapter"
    backend = ["--backend", str(info["backend"])] if info.get("backend") else []
    found = []
    if info.get("kind") == "evaluate":
        scored = ["--adapter", str(info["adapter"])] if info.get("adapter") else []
        found.append(("score it again", ["mlxtune", "evaluate", recipe, *scored, *backend]))
    else:
        found.append(("train and compare again, with every default as it was", ["mlxtune", "finetune", recipe, *backend]))
        if adapter.exists():
            again = ["mlxtune", "evaluate", recipe, "--adapter", place(adapter), *backend]
            found.append(("score the adapter again, without training", again))
    found.append(("write this report again", ["mlxtune", "report", place(run.path)]))
    return tuple((what, shlex.join(command)) for what, command in found)


def _missing(results: Mapping[str, Any], steps: Sequence[Any], looks: Sequence[Any]) -> list[str]:
    told = []
    if not results["sets"]:
        told.append("No test rows were asked (evaluate.limit: 0, or no test split), so there are no scores, causes or examples.")
    elif all(found["metrics"][found["metric"]]["change"] is None for found in results["sets"].values()):
        told.append("One model was scored, so there is no comparison of before and after.")
    own = next(iter(results["sets"].values()), None)
    if own and not own["controls"]:
        told.append("No controls were run (evaluate.controls), so it is not known how much the answers owe to the pictures.")
    if not steps:
        told.append("Nothing was trained in this run, so there are no curves.")
    elif not looks:
        told.append("There were no looks at validation rows (train.evaluate_every, data.splits.validation).")
    return told


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
