"""What a metric is and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

References = tuple[str, ...]
Grade = float | Mapping[str, Any]  # a mapping has "value" and whatever is told beside it


@dataclass(frozen=True)
class Score:
    """A metric over a set of predictions.

    value: on the metric's scale; None where nothing could be graded. n: graded items. ungraded: items without a
    prediction or without a reference; they are counted here and are part of neither `value` nor `n`.
    extra: what is told beside the value, ``{"p": …, "r": …}`` for ROUGE, ``{"signature": …}`` for BLEU.
    """

    value: float | None
    n: int
    ungraded: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """``{"value", "n", "ungraded", **extra}``, safe for JSON."""
        return {"value": self.value, "n": self.n, "ungraded": self.ungraded, **self.extra}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A named way to compare predictions with references.

    definition, source, caveat: one paragraph each, printed by ``mlxtune list metrics``. scale: the best value, 1.0 or 100.0.
    item: grade of one prediction against its references (at least one). Pure; with a mapping, "value" is the item's value.
    corpus: grade of all pairs at once, for metrics that are no mean over items; without it the items' grades are averaged.
    """

    name: str
    definition: str
    source: str
    caveat: str
    item: Callable[[str, References], Grade]
    corpus: Callable[[Sequence[str], Sequence[References]], Grade] | None = None
    scale: float = 1.0
    higher_is_better: bool = True
