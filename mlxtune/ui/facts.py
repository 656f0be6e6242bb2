"""What both displays say, as plain values: the plan's lines, the running numbers of training, the rows of the last tables."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from mlxtune.events import Change, Evaluated, Finished, Phase, Planned, Sample, StepDone, Validated
from mlxtune.metrics import METRICS, Score
from mlxtune.ui.text import change, clean, count, duration, memory, name, one_line, place, rate, value

_SPLITS = ("train", "validation", "test")
_OWN = "test"  # the set that needs no name
_CONTROLS = {"full": "as asked", "blank": "blank pictures", "shuffled": "other pictures", "majority": "commonest answers"}
_WINDOW = 20  # steps that rates are averaged over


def backend_line(plan: Planned) -> str:
    return f"backend {plan.backend}: {one_line(plan.backend_reason, longest=300)}"


def plan_lines(plan: Planned) -> list[tuple[str, str]]:
    """(label, text) pairs of all that is fixed before the first step."""
    splits = [key for key in _SPLITS if key in plan.splits] + [key for key in plan.splits if key not in _SPLITS]
    rows = [f"{one_line(key)} {plan.splits[key][0]:,} ({plan.splits[key][1]:,} pictures)" for key in splits]
    lines = [
        ("model", f"{one_line(place(plan.model))} ({one_line(plan.family)}, {count(plan.parameters)} parameters)"),
        ("data", f"{one_line(place(plan.data))} (task {one_line(plan.task)})"),
        ("rows", " · ".join(rows)),
    ]
    if plan.sites or plan.trainable:
        sites = ", ".join(f"{one_line(group)} {number}" for group, number in plan.sites.items())
        share = f" ({plan.trainable / plan.parameters:.2%} of the model)" if plan.parameters else ""
        lines.append(
            ("adapter", f"{sum(plan.sites.values())} layers: {sites}; {count(plan.trainable)} trainable parameters{share}")
        )
    if plan.steps:
        lines.append(("training", f"{plan.steps:,} steps of {plan.batch_size} examples"))
    lines.append(("device", f"{one_line(plan.device)} · {plan.precision} · seed {plan.seed}"))
    lines.append(("run folder", place(plan.run)))
    return lines


class Course:
    """The running numbers of training, from the step events alone."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent: deque[StepDone] = deque(maxlen=_WINDOW)
        self._first: tuple[int, float] | None = None  # number and start of the first step seen; not 1 after a resume
        self.loss: float | None = None
        self.peak_bytes = 0
        self.validated: Validated | None = None

    @property
    def last(self) -> StepDone | None:
        return self._recent[-1] if self._recent else None

    def add(self, step: StepDone) -> None:
        self._first = self._first or (step.step, self._clock() - step.wall_s)
        self._recent.append(step)
        # A running mean that forgets: the noise of single batches hides the trend.
        self.loss = step.loss if self.loss is None else 0.9 * self.loss + 0.1 * step.loss
        self.peak_bytes = max(self.peak_bytes, step.peak_bytes)

    @property
    def left_s(self) -> float:
        """Seconds to the last step at the pace so far, looks at the validation rows included."""
        assert self.last and self._first
        number, start = self._first
        return (self._clock() - start) / (self.last.step - number + 1) * (self.last.total_steps - self.last.step)

    def numbers(self) -> dict[str, str]:
        """label -> text, as shown while training goes on."""
        assert self.last and self.loss is not None
        wall_s = sum(step.wall_s for step in self._recent)
        numbers = {
            "loss": f"{self.loss:.4f}",
            "learning rate": f"{self.last.learning_rate:.2e}",
            "gradient norm": f"{self.last.grad_norm:.3g}",
            "tokens/s": rate(sum(step.tokens for step in self._recent), wall_s),
            "samples/s": rate(sum(step.samples for step in self._recent), wall_s),
            "peak memory": memory(self.peak_bytes),
        }
        if seen := self.validated:
            numbers["validation loss"] = f"{seen.loss:.4f}"
            numbers |= {name(key): value(found, scale=scale_of(key)) for key, found in seen.scores.items()}
        return numbers


def validated_text(event: Validated) -> str:
    shown = [f"{name(key)} {value(found, scale=scale_of(key))}" for key, found in event.scores.items()]
    return ", ".join([f"loss {event.loss:.4f}", *shown])


def scale_of(metric: str) -> float:
    return METRICS[metric].scale if metric in METRICS else 1.0


def phase_name(phase: Phase, plan: Planned | None) -> str:
    """ "after/charts" -> "after · charts". Where one model is scored, without training or adapter, there is no after."""
    first, *rest = phase.split("/", maxsplit=1)
    alone = plan is not None and not plan.steps and not plan.sites and first == "after"
    return " · ".join(["evaluate" if alone else first, *map(one_line, rest)])


def what_follows(phase: Phase, plan: Planned | None) -> str:
    """What a person is told to wait for once a phase has been asked."""
    if phase == "before" and plan is not None and plan.steps:
        return "getting ready to train"
    return "writing the results" if phase == "after" else "going on"


def score_items(scores: Mapping[str, Score]) -> list[str]:
    return [f"{name(metric)} {value(score.value, scale=scale_of(metric))}" for metric, score in scores.items()]


def warnings(event: Evaluated, *, phase: str) -> list[str]:
    """What to know before the scores are believed: answers without a grade, and what a score says of itself."""
    most = max((score.ungraded for score in event.scores.values()), default=0)
    ungraded = [f"{phase}: up to {most} answers could not be graded"] if most else []
    return ungraded + [
        f"{phase}, {name(key)}: {score.extra['note']}" for key, score in event.scores.items() if "note" in score.extra
    ]


def headings(result: Finished) -> tuple[str, ...]:
    """Columns of the score table; a run that only evaluates has no "before"."""
    compared = any(item.before is not None for item in result.changes)
    return ("metric", "before", "after", "change") if compared else ("metric", "score", "interval")


def row(item: Change, columns: tuple[str, ...]) -> tuple[str, ...]:
    cells = {
        "metric": name(item.metric) if item.asked == _OWN else f"{one_line(item.asked)} · {name(item.metric)}",
        "before": value(item.before, scale=item.scale),
        "after": value(item.after, scale=item.scale),
        "score": value(item.after, scale=item.scale),
        "change": one_line(item.told) if item.told else change(item.before, item.after, scale=item.scale),
        "interval": one_line(item.told),
    }
    return tuple(cells[column] for column in columns)


def direction(item: Change) -> int:
    """1 for better, -1 for worse, 0 for neither or where no change can be told."""
    if item.before is None or item.after is None or item.before == item.after or not item.detectable:
        return 0
    up = item.after > item.before
    return 1 if up == (item.metric not in METRICS or METRICS[item.metric].higher_is_better) else -1


def verdict_lines(result: Finished) -> list[tuple[str, str]]:
    """(label, text) pairs: what became of the answers, what they owe to the pictures, and what to do."""
    lines = []
    if result.buckets:
        lines.append(("answers", " · ".join(f"{name(key)} {number:,}" for key, number in result.buckets.items())))
    if told := result.controls:
        scale = scale_of(told["metric"])
        tried = [(label, told[key]) for key, label in _CONTROLS.items() if told[key] is not None]
        shown = " · ".join(f"{label} {value(found, scale=scale)}" for label, found in tried)
        lines.append(("controls", f"{name(told['metric'])} of {told['rows']} rows: {shown}"))
    lines += [("advice", one_line(text, longest=500)) for text in result.advice]
    if result.report:
        lines.append(("report", place(result.report)))
    return lines


def sample_lines(sample: Sample, *, compared: bool) -> list[tuple[str, str]]:
    answers = [("before", one_line(sample.before)), ("after", one_line(sample.after))]
    return [
        ("question", one_line(sample.question)),
        ("reference", one_line(sample.reference)),
        *(answers if compared else [("answer", answers[1][1])]),
    ]


def ending(result: Finished) -> str:
    rows = f"{result.test_rows:,} test rows · " if result.changes else ""
    return f"{rows}{duration(result.wall_s)} in all"


def commands(result: Finished, *, program: str) -> list[tuple[str, str]]:
    """(what it does, command line), called the way that works for this user."""
    return [
        (one_line(what), clean(f"{program}{line[7:]}" if line.startswith("mlxtune ") else line)) for what, line in result.commands
    ]
