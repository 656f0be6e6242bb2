"""Is it better, where, and what to do next: answers and their scores, the comparison, the causes of wrong answers, advice."""

from __future__ import annotations

from mlxtune.evaluate.answers import Evaluation, evaluate, spread

__all__ = ["Evaluation", "evaluate", "spread"]
