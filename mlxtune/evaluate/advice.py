"""What to do next. Each recommendation comes from one rule, names the figure behind it and the recipe key to change.

The rules stand in three files: about the answers, about the training, about the data and how it was asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlxtune.evaluate.advice_answers import ANSWER_RULES
from mlxtune.evaluate.advice_data import DATA_RULES
from mlxtune.evaluate.advice_rules import Recommendation, Rule
from mlxtune.evaluate.advice_training import TRAINING_RULES
from mlxtune.evaluate.figures import Figures, figures_of

__all__ = ["RULES", "SHOWN", "Figures", "Recommendation", "advise", "figures_of"]

RULES: tuple[Rule, ...] = (*DATA_RULES, *TRAINING_RULES, *ANSWER_RULES)
SHOWN = 4  # recommendations that a person is shown; error_analysis.json has all


def advise(figures: Figures, *, rules: Sequence[Rule] = RULES) -> tuple[Recommendation, ...]:
    """All recommendations, the one with most at stake first; none for a run that gives no reason."""
    found = [
        Recommendation(one.name, told.text, one.keys if told.keys is None else told.keys, told.figures, told.worth)
        for one in rules
        if (told := one.find(figures)) is not None
    ]
    return tuple(sorted(found, key=lambda told: -told.worth))
