"""What a rule of advice is. Every rule is one function below such a head; it speaks only where its figures are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxtune.evaluate.figures import Figures


@dataclass(frozen=True)
class Finding:
    """What a rule found. text: the figure first, then what to do. figures: those that it rests on, by name.

    worth: about the share of the test rows at stake; what makes the whole score meaningless is worth 1 or more.
    keys: recipe keys to change, where these figures ask for others than the rule's own.
    """

    text: str
    figures: Mapping[str, float]
    worth: float
    keys: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Rule:
    """keys: recipe keys that it asks to change; none where it is the data that needs work. find: None = it does not apply."""

    name: str
    keys: tuple[str, ...]
    find: Callable[[Figures], Finding | None]


@dataclass(frozen=True)
class Recommendation:
    """A rule that fired, as error_analysis.json stores it."""

    rule: str
    text: str
    keys: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)
    worth: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        figures = {name: round(value, 6) for name, value in self.figures.items()}
        return {"rule": self.rule, "text": self.text, "keys": list(self.keys), "figures": figures, "worth": round(self.worth, 4)}


def rule(name: str, *keys: str) -> Callable[[Callable[[Figures], Finding | None]], Rule]:
    """Makes a rule of a function of the figures."""
    return lambda find: Rule(name, keys, find)
