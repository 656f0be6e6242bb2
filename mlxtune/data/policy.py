"""Rows that cannot be used: counted by reason, written down one by one, and refused when they are too many."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

from mlxtune.data.examples import Pieces
from mlxtune.errors import DataError, RowError

_FIRST = 50  # rows; when all of them are refused, the recipe is wrong and not the rows
_REASONS = 3  # in a message
_PICTURE = ("picture missing", "picture unreadable")


class Skipped(NamedTuple):
    """A row that was left out. split: where it would have gone; "all" where rows were still to be shared out."""

    split: str
    where: str
    reason: str
    message: str


class SkippedRows(Sequence[Skipped]):
    """All rows that were left out, in a file of their own: there may be as many as rows."""

    def __init__(self) -> None:
        self._pieces = Pieces()
        self.counts: dict[str, Counter[str]] = {}  # split -> reason -> rows

    def add(self, row: Skipped) -> None:
        self._pieces.append(json.dumps(row).encode())
        self.counts.setdefault(row.split, Counter())[row.reason] += 1

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, place: int) -> Skipped: ...
    @overload
    def __getitem__(self, place: slice) -> list[Skipped]: ...
    def __getitem__(self, place: int | slice) -> Skipped | list[Skipped]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        return Skipped(*json.loads(self._pieces[range(len(self))[place]]))

    def __iter__(self) -> Iterator[Skipped]:
        return (self[place] for place in range(len(self)))


class Tally:
    """Counts the rows of one pass over a data set and ends it (DataError) when too many are refused.

    key: of the recipe, "data" or "data.mix[0]". most: the largest share that may be refused. text_only: the recipe's policy; rows
    that it leaves out in so many words are not held against the data.
    """

    def __init__(self, *, name: str, key: str, most: float, text_only: str | None) -> None:
        self._name, self._key, self._most, self._text_only = name, key, most, text_only
        self.kept = self.left_out = 0
        self.reasons: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def keep(self) -> None:
        self.kept += 1

    def refuse(self, error: RowError) -> None:
        if error.reason == "no picture" and self._text_only == "skip":
            self.left_out += 1
            return
        self.reasons[error.reason] += 1
        self._first.setdefault(error.reason, str(error))
        if not self.kept and self.refused >= _FIRST and self._most < 1:
            raise DataError(f"{self._name}: none of the first {self.refused} rows can be used: {self._why()}")

    @property
    def refused(self) -> int:
        return self.reasons.total()

    def check(self) -> None:
        """At the end of the pass."""
        rows = self.kept + self.refused
        if self.refused <= self._most * rows:
            return
        share = f"{100 * self.refused / rows:.3g} %; {self._key}.max_skipped allows {100 * self._most:.3g} %"
        raise DataError(f"{self._name}: {self.refused} of {rows} rows cannot be used ({share}): {self._why()}")

    def _why(self) -> str:
        common = self.reasons.most_common()
        shown = [f"{reason} {count} ({self._first[reason].rstrip('.')})" for reason, count in common[:_REASONS]]
        shown += [f"{len(common) - _REASONS} other reasons"] if len(common) > _REASONS else []
        remedy = f"Mend them, or raise {self._key}.max_skipped"
        if any(reason in _PICTURE for reason in self.reasons):
            remedy += f"; {self._key}.missing_image: text_only asks without the pictures that are missing"
        return f"{'; '.join(shown)}. {remedy}"
