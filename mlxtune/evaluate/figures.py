"""Everything that advice follows from, read from a run's folder once. What a run does not tell is None, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxtune.evaluate.analysis import error_analysis
from mlxtune.evaluate.results import OWN, benchmark_results
from mlxtune.recipe import Recipe
from mlxtune.runs import RunFolder


@dataclass(frozen=True)
class KindFigures:
    """Test rows with one value of a column. right: of `n` graded ones, in the newest answers."""

    column: str
    value: str
    n: int
    right: int


@dataclass(frozen=True)
class ControlFigures:
    """Scores as shares of the metric's scale, of the same few rows asked in four ways."""

    rows: int
    full: float | None
    blank: float | None
    shuffled: float | None
    majority: float | None


@dataclass(frozen=True)
class ChangeFigures:
    """A score before and after, and the 95 % interval of its change, as shares of the metric's scale."""

    rows: int
    before: float | None
    after: float | None
    low: float | None = None
    high: float | None = None
    detectable: bool | None = None

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class AnswerFigures:
    """The newest answers. causes, families: share of the wrong answers, by primary cause and by its heading.

    has_options: whether the questions have options to choose from. kinds: for every column of the breakdown.
    """

    rows: int
    wrong: int
    causes: Mapping[str, float]
    families: Mapping[str, float]
    has_options: bool = False
    kinds: tuple[KindFigures, ...] = ()

    @property
    def wrong_share(self) -> float:
        return self.wrong / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class TrainingFigures:
    """losses, grad_norms: of each step. validation: (step, loss) of each look. Losses in nats per learned token.

    out_of_patience: the last looks brought nothing better, as often as train.patience allows; no step followed.
    """

    losses: tuple[float, ...]
    grad_norms: tuple[float, ...] = ()
    validation: tuple[tuple[int, float], ...] = ()
    out_of_patience: bool = False


@dataclass(frozen=True)
class DataFigures:
    """train_rows: distinct. skipped: rows left out, by reason. shared_pictures: in training and test; of `test_pictures`."""

    train_rows: int | None = None
    used_rows: int | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    shared_pictures: int = 0
    test_pictures: int | None = None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one run tells. A part is None where the run has nothing of it. sets: `evaluate.sets` by name."""

    recipe: Recipe
    answers: AnswerFigures | None = None
    score: ChangeFigures | None = None
    controls: ControlFigures | None = None
    sets: Mapping[str, ChangeFigures] = field(default_factory=dict)
    training: TrainingFigures | None = None
    data: DataFigures | None = None


def figures_of(run: RunFolder, *, results: Mapping[str, Any] | None = None, analysis: Mapping[str, Any] | None = None) -> Figures:
    """The figures of a run's folder. results, analysis: what the two files hold, where they are at hand; computed otherwise."""
    results = benchmark_results(run) if results is None else results
    phases = {phase: run.read_evaluation(phase) for phase in ("before", "after")}
    lines = {phase: read[0] if read else None for phase, read in phases.items()}
    newest = lines["after"] or lines["before"]
    if analysis is None and newest:
        analysis = error_analysis(lines["before"], lines["after"])
    sets = dict(results["sets"])
    own = sets.pop(OWN, None)
    return Figures(
        recipe=run.recipe(),
        answers=_answers(analysis, has_options=any(line.get("choices") for line in newest or ())) if analysis else None,
        score=_change(own) if own else None,
        controls=_controls(own) if own and own["controls"] else None,
        sets={name: _change(one) for name, one in sets.items()},
        training=_training(run),
        data=_data(run.info().get("data", {}).get("own")),
    )


def _answers(analysis: Mapping[str, Any], *, has_options: bool) -> AnswerFigures:
    phase = "after" if analysis["after"] else "before"
    side = analysis[phase]
    kinds = [
        KindFigures(column, value, group[f"graded_{phase}"], group[f"right_{phase}"])
        for column, groups in analysis["by"].items()
        for value, group in groups.items()
    ]
    return AnswerFigures(
        rows=side["n"] - side["ungraded"],
        wrong=side["wrong"],
        causes={name: cause["share"] for name, cause in side["causes"].items()},
        families={name: family["share"] for name, family in side["families"].items()},
        has_options=has_options,
        kinds=tuple(kinds),
    )


def _change(results: Mapping[str, Any]) -> ChangeFigures:
    metric = results["metrics"][results["metric"]]
    scale, change = metric["scale"], metric["change"] or {}
    before, after = (_share((metric[phase] or {}).get("value"), scale) for phase in ("before", "after"))
    low, high = (_share(change.get(side), scale) for side in ("low", "high"))
    return ChangeFigures(results["rows"], before, after, low, high, change.get("detectable"))


def _controls(results: Mapping[str, Any]) -> ControlFigures:
    told = results["controls"]
    scale = results["metrics"][told["metric"]]["scale"]
    return ControlFigures(told["rows"], *(_share(told[way], scale) for way in ("full", "blank", "shuffled", "majority")))


def _share(value: float | None, scale: float) -> float | None:
    return None if value is None else value / scale


def _training(run: RunFolder) -> TrainingFigures | None:
    steps, patience = run.steps(), run.recipe().train.patience
    if not steps:
        return None
    return TrainingFigures(
        losses=tuple(step["loss"] for step in steps),
        grad_norms=tuple(step["grad_norm"] for step in steps),
        validation=tuple((look["step"], look["loss"]) for look in run.validations()),
        out_of_patience=patience is not None and run.looks_since_best() >= patience,
    )


def _data(record: Mapping[str, Any] | None) -> DataFigures | None:
    if record is None:
        return None
    splits: Mapping[str, Any] = record["splits"]
    skipped: dict[str, int] = {}
    for reasons in record["skipped"].values():
        for reason, count in reasons.items():
            skipped[reason] = skipped.get(reason, 0) + count
    return DataFigures(
        train_rows=splits["train"]["distinct"] if "train" in splits else None,
        used_rows=sum(split["distinct"] for split in splits.values()),
        skipped=skipped,
        shared_pictures=sum(one["pictures"] for one in record["shared_pictures"] if set(one["splits"]) == {"train", "test"}),
        test_pictures=splits["test"]["pictures"] if "test" in splits else None,
    )
