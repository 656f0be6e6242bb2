"""Which rows are trained on and which are asked: a split is a name, a fraction, `all`, or `auto`.

Rows stay in the order of their source everywhere, and a limit keeps the first N of it: a file read by a person and a split of
the program show the same rows on top.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mlxtune.data.base import Source, listed
from mlxtune.errors import DataError

SPLITS = ("train", "validation", "test")
OWN = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "testdev"),
}
CUT = 0.1  # of the training rows, for a split that the data lacks
_ALIKE = (OWN["train"], (*OWN["validation"], "testdev"), OWN["test"])
Wanted = Mapping[str, str | float | None]


@dataclass(frozen=True)
class SplitPlan:
    """named: split to the table that is read as it is. pool: the tables whose rows are shared out, `shares`: split to its part
    of them. autos: what the recipe left to us, in words."""

    named: Mapping[str, str]
    pool: tuple[str, ...]
    shares: Mapping[str, float]
    autos: Mapping[str, str]


def plan_splits(splits: Wanted, *, source: Source) -> SplitPlan:
    """Where the rows of each split come from. splits: "train", "validation", "test" to a name, a fraction, "all", "auto", None.

    `auto` is the data's own split under one of its usual names. A validation or test split that the data lacks is a tenth of the
    training rows; beside fractions it comes from what they leave over, if that is enough.
    Raises DataError for names that the source does not have, and where no rows are left.
    """
    wanted = {key: split for key, split in splits.items() if split is not None}
    if not wanted:
        raise DataError("data.splits: every split is switched off. Name one, for example data.splits.train: all")
    for key, split in wanted.items():
        if isinstance(split, str) and split not in ("all", "auto") and split not in source.tables:
            raise DataError(_no_split(key, split, source))
    shares = {key: 1.0 if split == "all" else split for key, split in wanted.items() if _is_share(split)}
    if sum(shares.values()) > 1 + 1e-9:
        taken = ", ".join(map(str, shares.values()))
        raise DataError(f"data.splits: the fractions {taken} sum to more than 1. Make them smaller")
    plan = _shared_out(wanted, shares, source) if shares else _by_name(wanted, source)
    return SplitPlan(*plan, autos={key: _told(key, plan) for key, split in wanted.items() if split == "auto"})


_Parts = tuple[dict[str, str], tuple[str, ...], dict[str, float]]


def _by_name(wanted: Wanted, source: Source) -> _Parts:
    named = {key: split for key, split in wanted.items() if split != "auto"} | _own(wanted, source)
    lacking = [key for key in wanted if key not in named]
    if not lacking:
        return named, (), {}
    if "train" in named:
        pool = (named.pop("train"),)
    else:
        own = [name for name in OWN["train"] if name in source.tables]
        pool = tuple(own[:1] if "train" not in wanted and own else _untaken(named.values(), source))
        if not pool:
            raise DataError(_no_training(source, wanted))
    shares = {key: CUT for key in lacking if key != "train"}
    if "train" in wanted:
        shares["train"] = 1 - sum(shares.values())
    return named, pool, shares


def _shared_out(wanted: Wanted, shares: dict[str, float], source: Source) -> _Parts:
    named = {key: name for key, name in _own(wanted, source).items() if key != "train"}
    pool = tuple(_untaken(named.values(), source))
    if not pool:
        named, pool = {}, tuple(source.everything())
    cut = [key for key, split in wanted.items() if split == "auto" and key != "train" and key not in named]
    left = max(0.0, 1 - sum(shares.values()))
    if wanted.get("train") == "auto":
        each, shares = CUT * left, {**shares, "train": left * (1 - CUT * len(cut))}
    elif left > 1e-9 or "train" not in shares:
        each = min(CUT, left / len(cut)) if cut else 0.0
    else:
        each, shares = CUT * shares["train"], {**shares, "train": shares["train"] * (1 - CUT * len(cut))}
    shares = {**shares, **dict.fromkeys(cut, each)}
    if empty := [key for key, share in shares.items() if share <= 1e-9]:
        raise DataError(f"data.splits.{empty[0]}: the other splits take all rows of {source.name}. Leave some, or set null")
    return named, pool, shares


def _own(wanted: Wanted, source: Source) -> dict[str, str]:
    """The data's own split for each `auto`, where it has one that the recipe does not take by name."""
    taken = set(wanted.values())
    own = {key: [name for name in OWN[key] if name in source.tables and name not in taken] for key in wanted}
    return {key: names[0] for key, names in own.items() if wanted[key] == "auto" and names}


def _untaken(names: Iterable[str], source: Source) -> list[str]:
    return [name for name in source.everything() if name not in set(names)]


def _told(key: str, plan: _Parts) -> str:
    named, pool, shares = plan
    if key in named:
        return f"split '{named[key]}'"
    of = listed(pool) if len(pool) > 1 else f"'{pool[0]}'"
    return f"{100 * shares[key]:.3g} % of the rows of {of}"


def choose_table(split: str, *, source: Source, key: str, usual: tuple[str, ...]) -> list[str]:
    """The tables of one further data set: a split's name, "all", or "auto" = the first of `usual` there is, else all."""
    if split == "all" or split in source.tables:
        return [split] if split in source.tables else source.everything()
    if split != "auto":
        raise DataError(_no_split("train", split, source).replace("data.splits.train", key))
    return [name for name in usual if name in source.tables][:1] or source.everything()


def divide(groups: np.ndarray, *, shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Places of the rows of each split, in order, so that no group is in two of them.

    groups: [N] uint64, see `linked`. Which split a group falls to hangs on its name, the seed and the other groups, not on the
    order of rows or the machine. What the shares leave over is in no split.
    """
    names, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = sorted(range(len(names)), key=lambda at: hashlib.sha256(f"{seed}:{names[at]}".encode()).digest())
    splits = [*shares, ""]
    lacks = [share * len(groups) for share in shares.values()]
    lacks.append(max(0.0, len(groups) - sum(lacks)))
    place = np.zeros(len(names), np.int8)
    for at in order:
        # To the split that lacks most rows: every split comes within one group's rows of its share.
        place[at] = to = lacks.index(max(lacks))
        lacks[to] -= int(sizes[at])
    return {split: np.flatnonzero(place[inverse] == number) for number, split in enumerate(splits) if split}


def _is_share(split: str | float) -> bool:
    return split == "all" or (isinstance(split, (int, float)) and not isinstance(split, bool))


def _no_training(source: Source, wanted: Wanted) -> str:
    key = "train" if "train" in wanted else next(iter(wanted))
    return (
        f"data.splits.{key}: {source.name} has no rows for it; it has {listed(source.tables)}, and the other splits take them. "
        f"Set data.splits.{key} to a name or to a fraction such as 0.8, or to null to do without"
    )


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
