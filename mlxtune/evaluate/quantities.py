"""Numbers as people write them: "1 000,5", "1,000.5", "12 млн руб.", "62 %", "$5", "three". For error analysis, not for scores.

A number may be read in two ways: "1,000" is 1000 in English and 1 in Russian. All readings are kept, and two texts say the
same when any of them meet. That is lenient on purpose: here it is asked whether the model knew, not whether it is right.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

_NUMBER = re.compile(r"(?<![\w.,])[-+−–]?(?:\d{1,3}(?:[ '’_]\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d+)*|[.,]\d+)(?!\d)")
_TOKEN = re.compile(
    rf"(?P<number>{_NUMBER.pattern})|(?P<sign>%|[$€£₽¥₸₴°]+)|(?P<word>[^\W\d_]+(?:[/²³.-][^\W\d_]+)*\.?)|(?P<other>\S)"
)
_MULTIPLIERS = (
    (1e3, re.compile(r"k|thousands?|тыс(яч\w*)?\.?")),
    (1e6, re.compile(r"m|mln|mn|millions?|млн\.?|миллион\w*")),
    (1e9, re.compile(r"b|bn|bln|billions?|млрд\.?|миллиард\w*")),
    (1e12, re.compile(r"tn|trillions?|трлн\.?|триллион\w*")),
)
_PERCENT = re.compile(r"%|percent\w*|pct\.?|per|cent|процент\w*")
_ABOUT = re.compile(r"[~≈≃]")
_NUMBER_WORDS = {
    word: value
    for value, row in enumerate(
        """zero ноль нуль|one один одна одно|two два две|three три|four четыре|five пять|six шесть|seven семь|eight восемь
        |nine девять|ten десять|eleven одиннадцать|twelve двенадцать|thirteen тринадцать|fourteen четырнадцать
        |fifteen пятнадцать|sixteen шестнадцать|seventeen семнадцать|eighteen восемнадцать|nineteen девятнадцать
        |twenty двадцать""".split("|")
    )
    for word in row.split()
}


@dataclass(frozen=True)
class Quantity:
    """A number with what stands around it. readings: what its digits may mean. scale: 1000 for "тыс.", else 1."""

    readings: tuple[float, ...]
    scale: float = 1.0
    percent: bool = False
    text: str = ""

    def meets(self, other: Quantity, *, percent: bool = False) -> bool:
        """The same number in any reading, with or without multiplier; share and percent alike where one is in percent."""
        hundredfold = percent or self.percent or other.percent
        return any(_close(a, b) for a in self._values(hundredfold) for b in other._values(hundredfold))

    def distance(self, other: Quantity) -> float:
        """The smallest |self - other| / |other| over the readings; infinite where `other` is zero."""
        pairs = [(a, b) for a in self._values(False) for b in other._values(False) if b]
        return min((abs(a - b) / abs(b) for a, b in pairs), default=float("inf"))

    @property
    def is_year(self) -> bool:
        """A bare 1900 … 2100: any year is within 10 % of any other, so nearness means nothing there."""
        return self.text.isdigit() and len(self.text) == 4 and 1900 <= int(self.text) <= 2100

    def _values(self, hundredfold: bool) -> set[float]:
        values = {value * factor for value in self.readings for factor in {1.0, self.scale}}
        return values | {value / 100 for value in values} if hundredfold else values


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b))


@lru_cache(maxsize=8192)
def quantity(text: str) -> Quantity | None:
    """The text as one number with signs, a multiplier and a unit of one word; None where it says anything else."""
    plain = _plain(text)
    if plain.strip(".!") in _NUMBER_WORDS:
        return Quantity((float(_NUMBER_WORDS[plain.strip(".!")]),), text=text)
    tokens = [(match.lastgroup, match.group()) for match in _TOKEN.finditer(_ABOUT.sub(" ", plain).strip(" .;!'\"«»()"))]
    kinds = [kind for kind, _ in tokens]
    if kinds.count("number") != 1 or "other" in kinds:
        return None
    at = kinds.index("number")
    behind = [token for kind, token in tokens[at + 1 :] if kind == "word"]
    unknown = [token for token in behind if not _PERCENT.fullmatch(token) and _multiplier(token) == 1.0]
    if "word" in kinds[:at] or len(behind) > 3 or len(unknown) > 1:
        return None
    return _with_rest(tokens[at][1], [token for _, token in tokens[at + 1 :]])


@lru_cache(maxsize=8192)
def quantities_in(text: str) -> tuple[Quantity, ...]:
    """Every number of a text, each with the multiplier or percent sign right behind it."""
    tokens = [(match.lastgroup, match.group()) for match in _TOKEN.finditer(_plain(text))]
    found = [
        _with_rest(token, [tokens[i + 1][1]] if i + 1 < len(tokens) else [])
        for i, (kind, token) in enumerate(tokens)
        if kind == "number"
    ]
    return tuple(value for value in found if value is not None)


def readings(digits: str) -> tuple[float, ...]:
    """What a written number may mean, without its sign: "1,000" gives (1000.0, 1.0), "1.000,5" gives (1000.5,), dates nothing."""
    bare = re.sub(r"[ '’_]", "", digits)
    marks = [char for char in bare if char in ".,"]
    if not marks:
        return (float(bare),)
    if len(set(marks)) == 2:
        return _mixed(bare, decimal=marks[-1])
    head, *groups = re.split(r"[.,]", bare)
    grouped = 1 <= len(head) <= 3 and head != "0" and all(len(group) == 3 for group in groups)
    values = (float(head + "".join(groups)),) if grouped else ()
    if len(marks) == 1 and len(bare) == len(digits):  # "1 000,500" has its thousands already
        values += (float(f"{head or 0}.{groups[0]}"),)
    elif len(marks) == 1:
        values = (float(f"{head}.{groups[0]}"),)
    return values


def _mixed(bare: str, *, decimal: str) -> tuple[float, ...]:
    whole, _, fraction = bare.rpartition(decimal)
    if decimal in whole:
        return ()
    head, *groups = re.split(r"[.,]", whole)
    return (float(f"{head}{''.join(groups)}.{fraction}"),) if head and all(len(group) == 3 for group in groups) else ()


def _with_rest(number: str, behind: list[str]) -> Quantity | None:
    values = readings(number.lstrip("-+−–"))
    if not values:
        return None
    sign = -1.0 if number[0] in "-−–" else 1.0
    scale = next((factor for factor in map(_multiplier, behind) if factor != 1.0), 1.0)
    percent = any(_PERCENT.fullmatch(token) for token in behind)
    return Quantity(tuple(sign * value for value in values), scale, percent, number)


def _multiplier(word: str) -> float:
    return next((factor for factor, pattern in _MULTIPLIERS if pattern.fullmatch(word)), 1.0)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()
