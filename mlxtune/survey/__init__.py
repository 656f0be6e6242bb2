"""A look at the rows before anything is trained: how many, how long, how alike, and what to mend first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlxtune.data import Data
from mlxtune.data.result import Origin
from mlxtune.errors import RecipeError
from mlxtune.recipe import Recipe
from mlxtune.survey.advice import Advice, advise
from mlxtune.survey.counting import Frequent, Share, Spread
from mlxtune.survey.model import ModelFacts, TokenFacts, messages_text, read_model
from mlxtune.survey.pictures import PictureFacts
from mlxtune.survey.rows import DECODED, Found, Sample, SplitFacts, TextFacts, walk

__all__ = [
    "DECODED",
    "Advice",
    "Found",
    "Frequent",
    "ModelFacts",
    "PictureFacts",
    "Sample",
    "Share",
    "Skips",
    "SplitFacts",
    "Spread",
    "Survey",
    "TextFacts",
    "TokenFacts",
    "messages_text",
    "survey",
]

Tick = Callable[[str, int, int], None]
_TOLD = 3  # messages of a reason


@dataclass(frozen=True)
class Skips:
    """Rows that were left out for one reason; the first messages."""

    reason: str
    count: int
    messages: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """All that `mlxtune data` tells. name: the recipe's. origins: split -> where its rows come from, in words."""

    name: str
    task: str
    data: str
    splits: tuple[SplitFacts, ...]
    origins: Mapping[str, str]
    skipped: tuple[Skips, ...]
    advice: tuple[Advice, ...]
    model: ModelFacts

    @property
    def kinds(self) -> tuple[str, ...]:
        """Columns of `meta` that part rows into kinds: not those that say nothing twice, such as a row's number."""
        columns = (column for split in self.splits for column in split.meta.items())
        return tuple(dict.fromkeys(key for key, values in columns if values.has_groups))


def survey(
    recipe: Recipe,
    data: Data,
    *,
    name: str,
    sets: Mapping[str, Data] | None = None,
    samples: int = 60,
    tick: Tick = lambda *_: None,
) -> Survey:
    """Reads every row of `data`, and of `sets` (those of `evaluate.sets`), once.

    samples: examples kept of each split. tick(split, done, total) is called row by row. Needs no model; where the recipe's is
    on this machine, its tokens are counted too. Raises RecipeError where a set is called like a split.
    """
    parts = [data, *(sets or {}).values()]
    if taken := [key for key in sets or {} if key in data.splits]:
        raise RecipeError(f"evaluate.sets.{taken[0]}: a split is called '{taken[0]}' too. Give the set another name")
    rows = {split: examples for part in parts for split, examples in part.splits.items()}
    walked = {split: walk(split, examples, samples=samples, tick=tick) for split, examples in rows.items()}
    splits = tuple(facts for facts, _ in walked.values())
    model = read_model(recipe, splits)
    return Survey(
        name=name,
        task=recipe.data.task,
        data=recipe.data.path,
        splits=splits,
        origins={split: _origin(origin) for part in parts for split, origin in part.origins.items()},
        skipped=_skipped(parts),
        advice=advise(
            splits,
            keys={split: keys for split, (_, keys) in walked.items()},
            shared=[pair for part in parts for pair in part.shared.items()],
            tokens=model.tokens or {},
            recipe=recipe,
        ),
        model=model,
    )


def _origin(origin: Origin) -> str:
    return f"{origin.how} (auto)" if origin.auto else origin.how


def _skipped(parts: Sequence[Data]) -> tuple[Skips, ...]:
    counts: Counter[str] = Counter()
    messages: dict[str, list[str]] = {}
    for row in (row for part in parts for row in part.skipped):
        counts[row.reason] += 1
        if len(messages.setdefault(row.reason, [])) < _TOLD:
            messages[row.reason].append(row.message)
    return tuple(Skips(reason, count, tuple(messages[reason])) for reason, count in counts.most_common())
