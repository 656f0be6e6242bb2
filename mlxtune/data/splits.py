"""Which rows are trained on and which are asked: a split is a name, a fraction, or "all".

Rows stay in the order of their source everywhere, and a limit keeps the first N of it: a file read by a person and a split of
the program show the same rows on top.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from mlxtune.data.sources import Source, listed
from mlxtune.errors import DataError
from mlxtune.types import Example

_ALIKE = (("train", "training"), ("validation", "valid", "val", "dev", "testdev"), ("test", "testing", "testdev"))


def is_fraction(split: str | float | None) -> bool:
    return isinstance(split, (int, float)) and not isinstance(split, bool)


def check_splits(splits: Mapping[str, str | float | None], *, source: Source) -> None:
    """Refuses (DataError) names that the source does not have and fractions that do not go together."""
    for key, split in splits.items():
        if is_fraction(split):
            if not 0 < split <= 1:
                raise DataError(f"data.splits.{key}: {split} is not a fraction. Give a number above 0 and at most 1")
        elif split is not None and split not in source.tables and split != "all":
            raise DataError(_no_split(key, str(split), source))
    fractions = [split for split in splits.values() if is_fraction(split)]
    if sum(fractions) > 1 + 1e-9:
        raise DataError(f"data.splits: the fractions {', '.join(map(str, fractions))} sum to more than 1. Make them smaller")
    if fractions and "all" in splits.values() and "all" not in source.tables:
        raise DataError("data.splits: 'all' beside fractions would ask what was trained on. Use fractions alone, or 'all' alone")


def fraction_tables(splits: Mapping[str, str | float | None], *, source: Source) -> list[str]:
    """The source's splits that fractions divide: those that the recipe does not take by name."""
    names = [name for name in source.everything() if name not in splits.values()]
    if not names:
        raise DataError(f"data.splits: every split of {source.name} is taken by name, so fractions have no rows. Use names alone")
    return names


def split_by_image(examples: Iterable[Example], *, fractions: Mapping[str, float], seed: int) -> dict[str, list[Example]]:
    """Examples divided by the pictures that they show: no picture is in two splits, nor is a text-only question.

    Which split a picture falls to hangs on its key, the seed and the other pictures, not on the order of rows or the machine.
    Within a split the order is that of `examples`. What the fractions leave over is in no split.
    """
    kept = list(examples)
    groups = _linked(kept)
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    wanted = {name: fraction * len(kept) for name, fraction in fractions.items()}
    wanted[""] = max(0.0, len(kept) - sum(wanted.values()))
    place: dict[str, str] = {}
    for group in sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest()):
        # To the split that lacks most rows: every split comes within one picture's rows of its share.
        place[group] = max(wanted, key=lambda name: wanted[name])
        wanted[place[group]] -= sizes[group]
    return {name: [example for example, group in zip(kept, groups, strict=True) if place[group] == name] for name in fractions}


def _linked(examples: Sequence[Example]) -> list[str]:
    """For each example the name of its group; examples that share a picture, directly or through others, are of one group."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    keys = [[image.key for image in example.images] or [f"question:{example.question}"] for example in examples]
    for first, *others in keys:
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low  # the smallest key names the group, whatever the order of rows
    return [root(first) for first, *_ in keys]


def _no_split(key: str, name: str, source: Source) -> str:
    alike = [other for group in _ALIKE if name in group for other in group if other in source.tables]
    near = alike or difflib.get_close_matches(name, source.tables, n=1)
    if near:
        remedy = f"Set data.splits.{key}: {near[0]}"
    elif len(source.tables) == 1:
        remedy = f"Set data.splits.{key} to a fraction such as 0.8, to 'all', or to null"
    else:
        remedy = f"Set data.splits.{key} to one of them, or to null"
    return f"data.splits.{key}: {source.name} has no split '{name}'; it has {listed(source.tables)}. {remedy}"
