"""A line of predictions.jsonl as the rules of `errors` read it: the answer, its references, and the answers of other rows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mlxtune.evaluate.quantities import Quantity, quantities_in, quantity
from mlxtune.evaluate.wording import (
    bare_words,
    is_noisy,
    look_alike,
    occurs,
    same_but_for_endings,
    same_letters,
    script_share,
    stems,
    trimmed,
    yes_or_no,
    yes_or_no_said,
)

KIND_COLUMNS = ("kind", "question_kind", "question_type", "type", "l2-category", "category", "detailed")
_LONGEST_ITEM = 6  # words; longer references are texts, not items of a kind
_NEAR = 0.10
_LETTER = re.compile(r"\s*[(\[]?([A-HА-Е])[)\].:]?\s*")
_OPTION = re.compile(r"(?:^|\s)[(\[]?([A-H])[.):\]]\s+(.+?)(?=\s+[(\[]?[A-H][.):\]]\s|\n|$)")
_PERCENT_ASKED = re.compile(r"%|percent|процент|share|доля", re.IGNORECASE)


# -- what a rule may ask ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """Answers of all rows with one kind of question, as words and as stems.

    named: the data names the kind, it is not guessed. form: "number" or "yes or no" where all of its references are that.
    """

    named: bool
    form: str | None
    words: frozenset[tuple[str, ...]]
    stems: frozenset[tuple[str, ...]]


@dataclass(frozen=True)
class Context:
    """What one answer is judged against. contradicted: ids of rows that another row with the same question and picture denies."""

    needs_picture: bool
    kinds: Mapping[str, Kind]
    names: frozenset[tuple[str, ...]]  # stems of everything that may be pictured in this data
    contradicted: frozenset[str]


def context_of(lines: Sequence[Mapping[str, Any]], *, needs_picture: bool | None = None) -> Context:
    """The context of a set of predictions. needs_picture: None = if nine rows of ten have a picture, the others miss theirs."""
    if needs_picture is None:
        needs_picture = bool(lines) and sum(bool(line.get("images")) for line in lines) >= 0.9 * len(lines)
    by_kind: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        by_kind[_kind(line)].extend(_references(line))
    kinds = {key: _kind_of(answers, named=not key.startswith("shape ")) for key, answers in by_kind.items()}
    names = frozenset(stems(name) for line in lines for name in line.get("names") or ())
    return Context(needs_picture, kinds, names, _contradicted(lines))


def _kind_of(answers: Sequence[str], *, named: bool) -> Kind:
    items = [answer for answer in answers if len(bare_words(answer)) <= _LONGEST_ITEM]
    forms = {_form(answer) for answer in answers}
    form = forms.pop() if len(forms) == 1 else None
    return Kind(named, form, frozenset(map(bare_words, items)) - {()}, frozenset(map(stems, items)) - {()})


def _kind(line: Mapping[str, Any]) -> str:
    """The kind of a row's question: a column that says so, else what its reference looks like."""
    meta = line.get("meta") or {}
    for column in KIND_COLUMNS:
        if meta.get(column) is not None:
            return f"{column} {meta[column]}"
    return f"shape {_form(next(iter(_references(line)), '')) or 'words'}"


def _form(reference: str) -> str | None:
    if quantity(reference):
        return "number"
    return "yes or no" if len(bare_words(reference)) == 1 and yes_or_no(reference) else None


def _references(line: Mapping[str, Any]) -> tuple[str, ...]:
    """The accepted answers; `target` stands in where a tool wrote that alone."""
    given = line.get("references") or ([line["target"]] if line.get("target") is not None else [])
    return tuple(map(str, given))


def _contradicted(lines: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    same: dict[tuple[Any, ...], list[tuple[str, frozenset[str]]]] = defaultdict(list)
    for line in lines:
        if line.get("images"):  # without its picture "How many bars are there?" is another question each time
            key = (trimmed(line.get("question") or ""), tuple(line["images"]), tuple(sorted((line.get("choices") or {}).items())))
            same[key].append((line["id"], frozenset(map(trimmed, _references(line)))))
    return frozenset(
        row for rows in same.values() for row, answers in rows if any(answers.isdisjoint(other) for _, other in rows)
    )


@dataclass(frozen=True)
class Answer:
    """One answer, with what the rules ask of it computed once."""

    id: str
    text: str
    question: str
    references: tuple[str, ...]
    choices: Mapping[str, str]
    names: tuple[str, ...]
    finish: str
    has_needed_picture: bool
    kind: Kind
    context: Context = field(repr=False)

    @classmethod
    def of(cls, line: Mapping[str, Any], context: Context) -> Answer:
        return cls(
            id=line["id"],
            text=line["prediction"] or "",
            question=line.get("question") or "",
            references=_references(line),
            choices=line.get("choices") or {},
            names=tuple(line.get("names") or ()),
            finish=line.get("finish") or "stop",
            # `prediction` is null where the row was never asked, because its picture could not be read.
            has_needed_picture=line["prediction"] is not None and bool(line.get("images") or not context.needs_picture),
            kind=context.kinds[_kind(line)],
            context=context,
        )

    @property
    def wants_text(self) -> bool:
        """The references are whole sentences, not items of a kind."""
        return bool(self.references) and all(len(bare_words(reference)) > _LONGEST_ITEM for reference in self.references)

    @property
    def is_empty(self) -> bool:
        return not any(char.isalnum() for char in self.text)

    @cached_property
    def words(self) -> tuple[str, ...]:
        return bare_words(self.text)

    @cached_property
    def stems(self) -> tuple[str, ...]:
        return stems(self.text)

    @cached_property
    def options(self) -> Mapping[str, str]:
        """Letter to text: the row's own, else those that the question lists."""
        if self.choices:
            return self.choices
        listed = dict(_OPTION.findall(self.question))
        return listed if {"A", "B"} <= set(listed) else {}

    @cached_property
    def letter(self) -> str | None:
        """The answer where it is a lone letter of an option."""
        found = _LETTER.fullmatch(self.text)
        return found[1] if found else None

    @cached_property
    def numbers(self) -> tuple[Quantity, ...]:
        """Numbers of the answer, less those that the question already has, unless there is no other."""
        found = quantities_in(self.text) or tuple(filter(None, (quantity(self.text),)))
        asked = quantities_in(self.question)
        return tuple(n for n in found if not any(n.meets(other) for other in asked)) or found

    @cached_property
    def expected(self) -> tuple[Quantity, ...]:
        """The references that are numbers."""
        return tuple(filter(None, map(quantity, self.references)))


# -- the reference ----------------------------------------------------------------------------------------------------


def reference_is_doubtful(answer: Answer) -> bool:
    return (
        answer.id in answer.context.contradicted
        or {True, False} <= {yes_or_no_said(reference) for reference in answer.references if len(bare_words(reference)) == 1}
        or _options_are_broken(answer)
        or any(_only_slips_apart(answer.text, reference) for reference in answer.references)
    )


def _options_are_broken(answer: Answer) -> bool:
    if not answer.choices or not answer.references:
        return False
    right = answer.choices.get(answer.references[0])
    return right is None or sum(trimmed(text) == trimmed(right) for text in answer.choices.values()) > 1


def _only_slips_apart(text: str, reference: str) -> bool:
    """The reference has a slip, the answer has none, and without the slip they are the same."""
    if not is_noisy(reference) or is_noisy(text):
        return False
    numbers = quantity(text), quantity(reference)
    close = numbers[0] and numbers[1] and numbers[0].distance(numbers[1]) <= 1e-6 and numbers[0].percent == numbers[1].percent
    return same_letters(text, reference) or look_alike(text, reference) or bool(close)


# -- the right answer in another form ---------------------------------------------------------------------------------


def differs_in_writing(answer: Answer) -> bool:
    return any(same_letters(answer.text, reference) for reference in answer.references)


def differs_in_number_form(answer: Answer) -> bool:
    said, percent = quantity(answer.text), bool(_PERCENT_ASKED.search(answer.question))
    return said is not None and any(said.meets(other, percent=percent) for other in answer.expected)


def differs_in_letter(answer: Answer) -> bool:
    """Right in the other of the two forms; a letter whose option nobody knows counts too."""
    right = [reference for reference in answer.references if reference in answer.options]
    if right:
        named = _options_named(answer)
        return answer.letter not in answer.options and len(named) == 1 and named[0] in right
    if answer.letter is None or any(_LETTER.fullmatch(reference) for reference in answer.references):
        return False
    text = answer.options.get(answer.letter)
    return text is None or any(same_letters(text, reference) for reference in answer.references)


def _options_named(answer: Answer) -> list[str]:
    """Letters of the options whose text the answer says; of two where one holds the other ("blue", "dark blue") the longer."""
    said = {letter: stems(text) for letter, text in answer.options.items() if occurs(stems(text), answer.stems)}
    return [a for a in said if not any(a != b and said[a] != said[b] and occurs(said[a], said[b]) for b in said)]


def differs_in_language(answer: Answer) -> bool:
    return not names_another_entity(answer) and any(_other_language(answer, reference) for reference in answer.references)


def _other_language(answer: Answer, reference: str) -> bool:
    if look_alike(answer.text, reference) and not is_noisy(reference):
        return True
    said, expected = yes_or_no(answer.text), yes_or_no(reference)
    if said and expected and len(bare_words(reference)) == 1:
        return said[1].isdisjoint(expected[1])
    if answer.letter or _LETTER.fullmatch(reference) or quantity(reference):
        return False
    share = script_share(answer.text, reference)
    return share is not None and share < 0.2


def differs_in_word_form(answer: Answer) -> bool:
    return any(same_but_for_endings(answer.text, reference) for reference in answer.references if not quantity(reference))


def says_reference(answer: Answer) -> bool:
    """The reference as words of the answer, in any word form; a number or yes and no only where no other stands beside it."""
    return len(answer.words) > 1 and any(_says(answer, reference) for reference in answer.references)


def _says(answer: Answer, reference: str) -> bool:
    if reference in answer.options:
        letters = set(re.findall(r"(?<!\w)[A-H](?!\w)", answer.text)) & set(answer.options)
        return letters == {reference} or (letters <= {"A"} and _options_named(answer) == [reference])
    if expected := quantity(reference):
        return bool(answer.numbers) and all(number.meets(expected) for number in answer.numbers)
    if len(bare_words(reference)) == 1 and (wanted := yes_or_no(reference)):
        return yes_or_no_said(answer.text) is wanted[0]
    if len(_options_named(answer)) > 1:
        return False
    return occurs(bare_words(reference), answer.words) or occurs(stems(reference), answer.stems)


# -- another answer ---------------------------------------------------------------------------------------------------


def offers_number(answer: Answer) -> bool:
    return bool(answer.expected and answer.numbers)


def is_near(answer: Answer) -> bool:
    if len(answer.numbers) != 1:
        return False
    said = answer.numbers[0]
    return any(0 < said.distance(other) <= _NEAR and not (said.is_year and other.is_year) for other in answer.expected)


def says_another_number(answer: Answer) -> bool:
    return offers_number(answer) and not any(said.meets(other) for said in answer.numbers for other in answer.expected)


def names_another_option(answer: Answer) -> bool:
    named = [answer.letter] if answer.letter in answer.options else _options_named(answer)
    if not named:
        named = [letter for letter in re.findall(r"(?<!\w)[B-H](?!\w)", answer.text) if letter in answer.options]
    texts = [text for letter in named for text in (letter, answer.options[letter])]
    return bool(texts) and not any(same_letters(text, reference) for text in texts for reference in answer.references)


def names_another_entity(answer: Answer) -> bool:
    own = {stems(name) for name in answer.names}
    return bool(own) and any(occurs(name, answer.stems) for name in answer.context.names - own)


def says_another_item(answer: Answer) -> bool:
    """The whole answer is another row's answer or, where the data names the kind, one that the question does not hold is said."""
    if answer.wants_text or any(answer.words == bare_words(reference) for reference in answer.references):
        return False
    right = {stems(reference) for reference in answer.references}
    if answer.words in answer.kind.words or answer.stems in answer.kind.stems - right:
        return answer.stems not in right
    wanted = {yes_or_no(reference)[0] for reference in answer.references if yes_or_no(reference)}
    if wanted and (said := yes_or_no_said(answer.text)) is not None:
        return said not in wanted
    return answer.kind.named and any(not occurs(item, stems(answer.question)) for item in _said_items(answer) - right)


def misses_the_question(answer: Answer) -> bool:
    if answer.kind.form == "number":
        return not answer.numbers
    return answer.kind.form == "yes or no" and yes_or_no_said(answer.text) is None


def _said_items(answer: Answer) -> set[tuple[str, ...]]:
    runs = {answer.stems[i : i + size] for size in range(1, _LONGEST_ITEM + 1) for i in range(len(answer.stems) - size + 1)}
    return runs & answer.kind.stems
