"""`data.filter`: rows whose columns hold one of the values that the recipe accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlxtune.data.base import listed
from mlxtune.errors import DataError

_SURELY_ABSENT = 1000  # rows without a column, after which nobody waits for it any more
_SHOWN = 8  # values in a message


class RowFilter:
    """accepted: column to values. Text and numbers that read the same are the same, since CSV files hold text alone; of a column
    that holds a list, one accepted item is enough. A row without the column is left out."""

    def __init__(self, accepted: Mapping[str, Sequence[Any]], *, key: str, name: str) -> None:
        self._accepted = {column: {_plain(value) for value in values} for column, values in accepted.items()}
        self._key, self._name = key, name
        self._absent = set(accepted)
        self._columns: tuple[str, ...] = ()
        self._seen: dict[str, dict[str, None]] = {column: {} for column in accepted}
        self.rows = self.kept = 0

    def accepts(self, row: Mapping[str, Any]) -> bool:
        """Raises DataError where a column is in none of the first rows."""
        self.rows += 1
        self._columns = self._columns or tuple(map(str, row))
        self._absent -= row.keys()
        if self._absent and self.rows >= _SURELY_ABSENT:
            self.check()
        taken = all([self._takes(column, row.get(column)) for column in self._accepted])
        self.kept += taken
        return taken

    def check(self) -> None:
        """Once all rows are read: raises DataError where no row had a column, or none had an accepted value."""
        if self._absent and self.rows:
            absent, there = listed(sorted(self._absent)), listed(self._columns)
            raise DataError(
                f"{self._key}.filter: no row of {self._name} has a column {absent}; there are {there}. Name one of these"
            )
        if self.rows and not self.kept:
            held = "; ".join(f"'{column}' holds {listed(list(seen)[:_SHOWN])}" for column, seen in self._seen.items())
            none = f"{self._key}.filter: accepts none of the {self.rows} rows of {self._name}"
            raise DataError(f"{none}; {held}. Accept one of these")

    def _takes(self, column: str, value: Any) -> bool:
        values = {_plain(item) for item in (value if isinstance(value, (list, tuple)) else [value])}
        if len(seen := self._seen[column]) < _SHOWN:
            seen.update(dict.fromkeys(sorted(values)))
        return not values.isdisjoint(self._accepted[column])


def _plain(value: Any) -> str:
    """A cell as text that is the same whichever file format it comes from."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text.lower() if text in ("True", "TRUE", "False", "FALSE") else text
