"""What a metric takes and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Grade = float | Mapping[str, Any]  # a mapping has "value" and whatever is told beside it


@dataclass(frozen=True)
class Item:
    """One answer and what it is compared with; the fields are those of `mlxtune.types.Example`.

    likelihoods: log-probability (nats) of each option's letter, or of its text; None where they were not computed.
    meta: besides what scores are broken down by, ``"protocol"``, the task's name, where a task has a rule of its own.
    """

    prediction: str
    references: tuple[str, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    likelihoods: Mapping[str, float] | None = None


def item_of_line(line: Mapping[str, Any]) -> Item | None:
    """The item of a line of predictions.jsonl; None where there is no answer. `target` stands in for absent references."""
    if line.get("prediction") is None:
        return None
    references = line.get("references") or ([line["target"]] if line.get("target") is not None else [])
    return Item(
        prediction=str(line["prediction"]),
        references=tuple(map(str, references)),
        choices=line.get("choices") or {},
        names=tuple(line.get("names") or ()),
        group=str(line.get("group") or ""),
        meta=line.get("meta") or {},
        likelihoods=line.get("likelihoods"),
    )


@dataclass(frozen=True)
class Score:
    """A metric over a set of answers.

    value: on the metric's scale; None where nothing could be graded. n: graded items. ungraded: items without an answer, or
    that the metric cannot grade (no reference, no options, no names); they are part of neither `value` nor `n`.
    extra: what is told beside the value, ``{"p": …, "r": …}`` for ROUGE, ``{"signature": …}`` for BLEU.
    """

    value: float | None
    n: int
    ungraded: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """``{"value", "n", "ungraded", **extra}``, safe for JSON."""
        return {"value": self.value, "n": self.n, "ungraded": self.ungraded, **self.extra}


class Sums(NamedTuple):
    """A metric as a function of sums over items, so that resampling it costs a matrix product instead of a new scoring.

    rows: [items, K] numbers (numpy, or a scipy.sparse array). value: sums [..., K] -> the metric [...].
    """

    rows: Any
    value: Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A named way to grade answers.

    definition, source, caveat: one paragraph each, printed by ``mlxtune list metrics``. scale: the best value, 1.0 or 100.0.
    item: grade of one answer. Pure; with a mapping, "value" is the item's value. None: this item cannot be graded.
    corpus: grade of all items at once (at least one, all of them gradable), where there is more to tell than the mean of
      the items' grades; without it each number of the grades is averaged.
    values: for a metric that is a mean over something else than items, those numbers, each at one of its items and None at the
      others. sums: for a metric that is no mean at all, the same value as a function of sums. Both are for statistics.
    needs_references: an item without a reference cannot be graded.
    """

    name: str
    definition: str
    source: str
    caveat: str
    item: Callable[[Item], Grade | None]
    corpus: Callable[[Sequence[Item]], Grade] | None = None
    values: Callable[[Sequence[Item]], Sequence[float | None]] | None = None
    sums: Callable[[Sequence[Item]], Sums] | None = None
    scale: float = 1.0
    higher_is_better: bool = True
    needs_references: bool = True

    def grade(self, item: Item | None) -> Mapping[str, Any] | None:
        """``{"value", …}`` of one item; None where it cannot be graded."""
        if item is None or (self.needs_references and not item.references):
            return None
        return as_mapping(self.item(item))


def as_mapping(grade: Grade | None) -> Mapping[str, Any] | None:
    return grade if grade is None or isinstance(grade, Mapping) else {"value": grade}
