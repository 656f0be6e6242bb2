"""Why an answer is wrong: an ordered table of rules that a person can read. The first that fires is the answer's cause.

The order goes from what makes every later question pointless to what is left when nothing better is known:

1. Nothing was looked at or said: no picture, no answer, a refusal, a loop. What such a text contains is chance.
2. The reference is at fault. Then the answer need not change, so this stands before all that blames the answer.
3. The answer holds the right one in another form, from the narrowest form (case) to the widest (a sentence around it).
   This stands before "cut off": an answer that already said it would not be right if it were longer.
4. It was cut off: nobody knows what would have come, so this stands before the judgement of its content.
5. The content is wrong: close to the reference, something else of the same kind, or anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.evaluate import reading
from mlxtune.evaluate.reading import Answer, Context, context_of
from mlxtune.evaluate.refusals import declines, sees_no_picture
from mlxtune.evaluate.wording import loops

__all__ = ["CAUSES", "FAMILIES", "Answer", "Cause", "Context", "causes_of", "context_of"]

Line = Mapping[str, Any]  # of predictions.jsonl
_OPENING = 8  # words in which a long answer refuses, if it does


@dataclass(frozen=True)
class Cause:
    """A named reason for a wrong answer. family: the heading it is summed under. test: whether it applies to an answer."""

    name: str
    family: str
    description: str
    test: Callable[[Answer], bool]


FAMILIES = {
    "image missing": "the picture did not reach the model",
    "refusal or empty": "no answer was given",
    "repetition": "the model fell into a loop",
    "reference doubtful": "the reference itself may be wrong",
    "wrong form": "the right answer, written in another form than the reference",
    "cut off": "the answer reached the length limit",
    "near miss": "a number close to the right one",
    "wrong item of the same kind": "a possible answer to such a question, but not to this one",
    "other": "none of these",
}


def _refuses(answer: Answer) -> bool:
    """Surveys have "Don't know" among their answers, and a long description may well say that something is "not visible"."""
    if answer.words in answer.kind.words or reading.says_reference(answer) or reading.offers_number(answer):
        return False
    return declines(" ".join(answer.text.split()[:_OPENING]) if answer.wants_text else answer.text)


CAUSES: tuple[Cause, ...] = (
    Cause(
        "image_missing",
        "image missing",
        "The row has no picture although such rows need one, or the answer says that it sees none.",
        lambda answer: not answer.has_needed_picture or sees_no_picture(answer.text),
    ),
    Cause("empty", "refusal or empty", "There is no letter and no digit in the answer.", lambda answer: answer.is_empty),
    Cause(
        "refusal",
        "refusal or empty",
        "It says that it cannot, will not or does not know how to answer, and gives neither the reference nor a number.",
        _refuses,
    ),
    Cause(
        "repetition",
        "repetition",
        "One or two words come four times on end, more words three times, or most of a long answer is said twice.",
        lambda answer: loops(answer.text),
    ),
    Cause(
        "reference_doubtful",
        "reference doubtful",
        "The same question about the same picture has another answer elsewhere; the references say yes and no; the letter names "
        "no option or one of two equal ones; or the answer equals the reference once the reference's own slips are mended "
        "(hidden characters, letters of two scripts, outer quotes or stops, a float's long tail).",
        reading.reference_is_doubtful,
    ),
    Cause(
        "form_writing",
        "wrong form",
        "Differs from the reference by capitals, punctuation, articles or ё alone.",
        reading.differs_in_writing,
    ),
    Cause(
        "form_number",
        "wrong form",
        "The same number with another unit, percent sign, separator or multiplier, or a word: '62' for '62%'.",
        reading.differs_in_number_form,
    ),
    Cause(
        "form_letter",
        "wrong form",
        "An option's letter where its text is asked for, or the right option's text where its letter is.",
        reading.differs_in_letter,
    ),
    Cause(
        "form_language",
        "wrong form",
        "In another language or script than the reference: 'yes' for 'да', a Cyrillic 'В' for the letter 'B'.",
        reading.differs_in_language,
    ),
    Cause(
        "form_word",
        "wrong form",
        "Another form of the same words: 'из пластика' for 'пластик', 'bars' for 'bar'.",
        reading.differs_in_word_form,
    ),
    Cause(
        "form_sentence",
        "wrong form",
        "Says the reference with more words around it, and no second answer beside it.",
        reading.says_reference,
    ),
    Cause(
        "cut_off",
        "cut off",
        "Generation ended at evaluate.max_new_tokens before the answer did.",
        lambda answer: answer.finish == "length",
    ),
    Cause("near_miss", "near miss", "A number within 10 % of the reference; years are never near.", reading.is_near),
    Cause("wrong_option", "wrong item of the same kind", "Another option of the question.", reading.names_another_option),
    Cause("wrong_name", "wrong item of the same kind", "The name of something else in this data.", reading.names_another_entity),
    Cause("wrong_number", "wrong item of the same kind", "Another number.", reading.says_another_number),
    Cause(
        "wrong_item",
        "wrong item of the same kind",
        "The answer of another row with the same kind of question; no for yes and yes for no.",
        reading.says_another_item,
    ),
    Cause(
        "off_question",
        "other",
        "No answer to such a question: words where all references of the kind are numbers, or no yes or no where all are that.",
        reading.misses_the_question,
    ),
    Cause("other", "other", "None of the rules above.", lambda answer: True),
)
assert {cause.family for cause in CAUSES} == set(FAMILIES)


def causes_of(line: Line, context: Context) -> tuple[str, ...]:
    """Names of all causes of a wrong answer, the primary one first; ("other",) where no rule fires. `CAUSES` has the order."""
    answer = Answer.of(line, context)
    found = [cause.name for cause in CAUSES[:-1] if cause.test(answer)]
    return tuple(found) or ("other",)


def families_of(causes: Sequence[str]) -> tuple[str, ...]:
    """The headings of these causes, each once, in their order."""
    family = {cause.name: cause.family for cause in CAUSES}
    return tuple(dict.fromkeys(family[name] for name in causes))
