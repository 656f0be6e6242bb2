"""One pass over a split: what is asked, what is answered, how long, how often. Nothing but counts and a few samples is kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlxtune.data.examples import Examples
from mlxtune.survey.counting import Frequent, Seen, Spread, Tally, spread
from mlxtune.survey.pictures import PictureFacts, Pictures
from mlxtune.text import clean
from mlxtune.types import Example

DECODED = 100  # rows of a split whose pictures are decoded
_ANSWERS = 12  # most frequent answers that are told
_VALUES = 20  # values of a meta column that are told
_LIST = re.compile(r"\s*\[.*\]\s*|\s*\{.*\}\s*", re.DOTALL)


@dataclass(frozen=True)
class TextFacts:
    characters: Spread
    words: Spread


@dataclass(frozen=True)
class Found:
    """Rows with something odd: how many, and the id of the first."""

    count: int = 0
    first: str = ""


@dataclass(frozen=True)
class Sample:
    """where: the row's place in its source, as in "data/train.jsonl:17"; "" where it is not known."""

    example: Example
    where: str


@dataclass(frozen=True)
class SplitFacts:
    """What a split holds.

    redrawn: copies of rows that data.balance or a weight made. repeated: other rows whose question was asked of the same
    pictures before. contradicted: such questions with another answer. list_like: answers written as a list. hidden: rows with
    escape sequences or control characters. pictures_per_row: number of pictures -> rows. samples: spread evenly.
    """

    name: str
    rows: int
    pictures: PictureFacts
    pictures_per_row: Mapping[int, int]
    text_only: int
    several_answers: int
    with_choices: int
    several_turns: int
    question: TextFacts
    answer: TextFacts
    answers: Frequent
    meta: Mapping[str, Frequent]
    redrawn: int
    repeated: int
    contradicted: int
    list_like: Found
    hidden: Found
    samples: tuple[Sample, ...]

    @property
    def several_pictures(self) -> int:
        return sum(rows for pictures, rows in self.pictures_per_row.items() if pictures > 1)


@dataclass(frozen=True)
class SplitKeys:
    """Eight-byte stand-ins, sorted and distinct, to tell what two splits share."""

    questions: np.ndarray  # [Q] uint64; of a question together with its pictures


def walk(
    name: str, examples: Sequence[Example], *, samples: int, tick: Callable[[str, int, int], None]
) -> tuple[SplitFacts, SplitKeys]:
    """Reads every example once, in order. tick(name, done, total) is called before the first and after each.

    samples: how many examples are kept, spread evenly. Pictures are measured by their headers, and decoded for at most
    `DECODED` rows. Memory grows by some 40 bytes a row.
    """
    total = len(examples)
    assert total, f"split {name} is empty"
    kept, decoded = spaced(total, samples), spaced(total, DECODED)
    seen = _Walk(name)
    tick(name, 0, total)
    for number, example in enumerate(examples):
        seen.add(example, decode=number in decoded)
        if number in kept:
            seen.samples.append(Sample(example, where=_where(examples, number, example)))
        tick(name, number + 1, total)
    return seen.facts(redrawn=_redrawn(examples)), SplitKeys(questions=seen.asked.distinct)


def spaced(total: int, number: int) -> frozenset[int]:
    """At most `number` places of `total`, evenly apart, the first among them."""
    number = min(number, total)
    return frozenset(place * total // number for place in range(number))


class _Walk:
    def __init__(self, name: str) -> None:
        self.name = name
        self.samples: list[Sample] = []
        self.asked, self._asked_answered = Seen(), Seen()
        self._pictures = Pictures()
        self._answers = Tally()
        self._meta: dict[str, Tally] = {}
        self._lengths: dict[str, Counter[int]] = {kind: Counter() for kind in ("qc", "qw", "ac", "aw")}
        self._per_row: Counter[int] = Counter()
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, example: Example, *, decode: bool) -> None:
        self._per_row[len(example.images)] += 1
        keys = [image.identity for image in example.images]
        for image in example.images:
            self._pictures.add(image, decode=decode)
        # Options belong to the question: a rotation asks something else.
        asked = [*keys, _prompt(example), *(f"{letter}\x00{text}" for letter, text in example.choices.items())]
        self.asked.add(*asked)
        self._asked_answered.add(*asked, example.target)
        self._answers.add(example.target)
        for key, value in example.meta.items():
            self._meta.setdefault(str(key), Tally()).add(str(value))
        for kind, text in (("q", example.question), ("a", example.target)):
            self._lengths[f"{kind}c"][len(text)] += 1
            self._lengths[f"{kind}w"][len(text.split())] += 1
        self._odd(example)

    def _odd(self, example: Example) -> None:
        texts = (example.question, *example.references)
        found = {
            "several answers": len(example.references) > 1,
            "choices": bool(example.choices),
            "turns": sum(message["role"] == "user" for message in example.messages) > 1,
            "list": _LIST.fullmatch(example.target) is not None,
            "hidden": any(clean(text) != text.replace("\r\n", "\n") for text in texts),
        }
        for kind in (kind for kind, there in found.items() if there):
            self._counts[kind] += 1
            self._first.setdefault(kind, example.id)

    def facts(self, *, redrawn: int) -> SplitFacts:
        lengths = {kind: spread(histogram) for kind, histogram in self._lengths.items()}
        return SplitFacts(
            name=self.name,
            rows=self._per_row.total(),
            pictures=self._pictures.facts(),
            pictures_per_row=dict(sorted(self._per_row.items())),
            text_only=self._per_row[0],
            several_answers=self._counts["several answers"],
            with_choices=self._counts["choices"],
            several_turns=self._counts["turns"],
            question=TextFacts(characters=lengths["qc"], words=lengths["qw"]),
            answer=TextFacts(characters=lengths["ac"], words=lengths["aw"]),
            answers=self._answers.frequent(_ANSWERS),
            meta={key: tally.frequent(_VALUES) for key, tally in self._meta.items()},
            redrawn=redrawn,
            repeated=self.asked.repeated - redrawn,
            contradicted=len(self._asked_answered.distinct) - len(self.asked.distinct),
            list_like=self._found("list"),
            hidden=self._found("hidden"),
            samples=tuple(self.samples),
        )

    def _found(self, kind: str) -> Found:
        return Found(self._counts[kind], self._first.get(kind, ""))


def _prompt(example: Example) -> str:
    """All turns as one text: the same last question after another conversation is another question."""
    parts = []
    for message in example.messages:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        parts.append("\x00".join([str(message["role"]), *texts]))
    return "\x01".join(parts)


def _redrawn(examples: Sequence[Example]) -> int:
    return len(examples) - len(np.unique(examples.rows)) if isinstance(examples, Examples) else 0


def _where(examples: Sequence[Example], number: int, example: Example) -> str:
    if isinstance(examples, Examples):
        return examples.head(number).where
    return example.images[0].where if example.images else ""
