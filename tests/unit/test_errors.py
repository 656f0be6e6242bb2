"""Causes of wrong answers: every planted cause is found, and each rule is tried on answers that are its own and that are not."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from mlxtune.evaluate.errors import CAUSES, FAMILIES, causes_of, context_of, families_of
from mlxtune.evaluate.refusals import declines, sees_no_picture
from tests.helpers import planted_texts as texts
from tests.helpers.planted import EACH, planted

NAMES = [cause.name for cause in CAUSES]


# ---- the synthetic run


@pytest.fixture(scope="module")
def found() -> list[tuple[str, tuple[str, ...]]]:
    """(planted cause, causes found) of every wrong answer."""
    lines, truth = planted()
    context = context_of(lines)
    return [(truth[line["id"]], causes_of(line, context)) for line in lines if line["id"] in truth]


def test_there_are_forty_of_every_cause(found: list[tuple[str, tuple[str, ...]]]) -> None:
    assert Counter(planted for planted, _ in found) == dict.fromkeys(NAMES, EACH)


@pytest.mark.parametrize("name", NAMES)
def test_planted_causes_are_found(found: list[tuple[str, tuple[str, ...]]], name: str) -> None:
    right = sum(planted == name == causes[0] for planted, causes in found)
    recall = right / sum(planted == name for planted, _ in found)
    precision = right / sum(causes[0] == name for _, causes in found)
    assert recall >= 0.9 and precision >= 0.9, f"recall {recall}, precision {precision}"


@pytest.mark.parametrize("family", FAMILIES)
def test_planted_families_are_found(found: list[tuple[str, tuple[str, ...]]], family: str) -> None:
    pairs = [(families_of([planted])[0], families_of(causes)[0]) for planted, causes in found]
    right = sum(a == family == b for a, b in pairs)
    assert right >= 0.9 * sum(a == family for a, _ in pairs) and right >= 0.9 * sum(b == family for _, b in pairs)


def test_planted_answers_are_in_both_languages() -> None:
    lines, truth = planted()
    for name in NAMES:
        own = [line for line in lines if truth.get(line["id"]) == name]
        english = sum(json.dumps([line["question"], line["references"]], ensure_ascii=False).isascii() for line in own)
        share = english / len(own)
        assert 0.2 <= share <= 0.8 or name in ("form_writing", "form_number", "form_language", "form_word"), f"{name}: {share}"


def test_five_thousand_answers_take_little_time() -> None:
    lines, _ = planted()
    many = [{**line, "id": f"{line['id']}-{copy}", "images": [f"{line['id']}-{copy}"]} for copy in range(6) for line in lines][
        :5000
    ]
    begin = time.perf_counter()
    context = context_of(many)
    for line in many:
        causes_of(line, context)
    assert len(many) == 5000 and time.perf_counter() - begin < 10


# ---- refusals that the rules were not made from


@pytest.mark.parametrize(
    ("says", "own"), [(declines, texts.MORE_REFUSALS), (sees_no_picture, texts.MORE_NO_PICTURE)], ids=["declines", "no picture"]
)
def test_other_wordings_are_found(says, own: list[str]) -> None:
    missed = [text for text in own if not says(text)]
    assert len(missed) <= 0.1 * len(own), missed


@pytest.mark.parametrize("text", texts.NO_REFUSALS)
def test_answers_are_no_refusals(text: str) -> None:
    assert not declines(text) and not sees_no_picture(text)


# ---- one answer at a time


def cause(prediction: str | None, *references: str, rows: tuple[str, ...] = (), **more) -> str:
    """The primary cause of an answer. rows: references of further rows with the same kind of question."""
    line = {"id": "0", "question": "?", "references": list(references), "prediction": prediction, "images": ["0"], **more}
    meta = {"meta": more["meta"]} if "meta" in more else {}
    others = [{**line, "id": f"{n}", "references": [r], "images": [f"{n}"], "choices": {}, **meta} for n, r in enumerate(rows, 1)]
    return causes_of(line, context_of([line, *others]))[0]


OPTIONS = {"A": "blue", "B": "dark blue", "C": "a cat"}


@pytest.mark.parametrize(
    ("expected", "prediction", "reference", "more"),
    [
        # nothing was said
        ("image_missing", None, "cat", {}),
        ("image_missing", "Мне не видно изображение, пришлите его ещё раз", "кот", {}),
        ("empty", " . ", "cat", {}),
        ("refusal", "I don't know.", "cat", {}),
        ("wrong_item", "Don't know", "Not sure", {"rows": ("Don't know", "Sure")}),
        ("form_sentence", "I am not sure, but it may be 12.", "12", {}),
        ("near_miss", "Hard to say, about 101", "100", {}),
        (
            "other",
            "A man goes along the shore with a dog, his face is not visible",
            "a man who stands on a long road near the sea",
            {"rows": ()},
        ),
        ("refusal", "I cannot describe this", "a man who stands on a long road near the sea", {}),
        ("repetition", "12 12 12 12 12", "12", {}),
        ("near_miss", "0.3333333333333333", "0.35", {}),
        # the reference
        ("reference_doubtful", "Yes", "Yes.", {}),
        ("form_writing", "Yes.", "Yes", {}),
        ("reference_doubtful", "шкаф", "шкaф", {}),  # its "a" is Latin
        ("form_language", "шкaф", "шкаф", {}),
        ("reference_doubtful", "12", "12.0", {}),
        ("form_number", "12.0", "12", {}),
        ("reference_doubtful", "blue", "D", {"choices": OPTIONS}),
        # the right answer in another form
        ("form_writing", "чёрный.", "черный", {}),
        ("wrong_number", "15", "1.5", {}),
        ("form_number", "62", "62%", {}),
        ("form_number", "0.62", "62%", {}),
        ("wrong_number", "0.62", "62", {}),
        ("form_number", "0.62", "62", {"question": "What percentage is it?"}),
        ("form_number", "1 000,5", "1000.5", {}),
        ("form_number", "1.000,5", "1000.5", {}),
        ("form_number", "1,000", "1000", {}),
        ("form_number", "12 млн руб.", "12000000", {}),
        ("form_number", "12 млн руб.", "12", {}),
        ("form_number", "−5 kg", "-5", {}),
        ("wrong_number", "5 kg", "-5", {}),
        ("form_number", "три", "3", {}),
        ("form_letter", "Dark blue.", "B", {"choices": OPTIONS}),
        ("form_letter", "It is dark blue", "B", {"choices": OPTIONS}),
        ("wrong_option", "It is blue", "B", {"choices": OPTIONS}),
        ("wrong_option", "C", "B", {"choices": OPTIONS}),
        ("form_sentence", "The answer is B, since it is dark", "B", {"choices": OPTIONS}),
        ("form_language", "В", "B", {"choices": OPTIONS}),  # a Cyrillic В
        ("form_letter", "B", "dark blue", {"question": "Which?\nA. blue\nB. dark blue"}),
        ("wrong_option", "A", "dark blue", {"question": "Which?\nA. blue\nB. dark blue"}),
        ("form_language", "Yes", "да", {}),
        ("form_language", "No", "да", {}),
        ("form_language", "tak", "yes", {}),
        ("form_language", "a red car", "красная машина", {}),
        ("form_word", "на диване", "диван", {}),
        ("form_word", "из пластика", "пластик", {}),
        ("form_word", "bars", "bar", {}),
        ("form_sentence", "Это стоит на диване у стены", "диван", {}),
        ("form_sentence", "Yes, Milk is lower than Kiwi.", "Yes", {}),
        ("form_sentence", "The value of bar 7 is 30.", "30", {"question": "What is the value of bar 7?"}),
        ("other", "Between 20 and 30", "30", {}),
        ("other", "it is not blue", "blue", {}),
        ("other", "blue or red", "blue", {}),
        ("form_sentence", "it is 30 and then some", "30", {"finish": "length"}),
        ("cut_off", "The value of the first", "30", {"finish": "length"}),
        # another answer
        ("near_miss", "The value of West for Wine is 68.", "70", {}),
        ("near_miss", "110", "100", {}),
        ("wrong_number", "111", "100", {}),
        ("wrong_number", "2015", "2014", {}),
        ("near_miss", "2015.5", "2014", {}),
        ("wrong_number", "5", "0", {}),
        ("wrong_item", "нет", "да", {}),
        ("wrong_item", "Kiwi has East highest.", "Fish", {"rows": ("Kiwi", "Tea"), "meta": {"kind": "extreme"}}),
        ("other", "Kiwi has East highest.", "Fish", {"rows": ("Kiwi", "Tea")}),  # no kind is named: only whole answers count
        ("wrong_item", "kiwis", "Fish", {"rows": ("Kiwi", "Tea")}),
        ("off_question", "the grey bar", "Yes", {"rows": ("No", "Yes"), "meta": {"kind": "compare"}}),
        ("off_question", "the grey bar", "12", {"rows": ("13", "14"), "meta": {"kind": "value"}}),
        ("other", "the grey bar", "Beef", {"rows": ("13", "14"), "meta": {"kind": "value"}}),
    ],
)
def test_the_cause_of_one_answer(expected: str, prediction: str | None, reference: str, more: dict) -> None:
    assert cause(prediction, reference, **more) == expected


def test_another_entity() -> None:
    rows = [
        {"id": n, "question": "Кто?", "references": [f"{n} у леса"], "prediction": "вижу домового", "images": [n], "names": [n]}
        for n in ("Водяной", "Домовой")
    ]
    assert causes_of(rows[0], context_of(rows))[0] == "wrong_name"
    assert causes_of(rows[1], context_of(rows))[0] != "wrong_name"


def test_rows_that_deny_each_other() -> None:
    same = {"question": "Is it red?", "images": ["a"], "prediction": "maybe"}
    rows = [{**same, "id": "1", "references": ["yes"]}, {**same, "id": "2", "references": ["no"]}]
    apart = [rows[0], {**rows[1], "images": ["b"]}]
    assert [causes_of(row, context_of(rows))[0] for row in rows] == ["reference_doubtful"] * 2
    assert "reference_doubtful" not in causes_of(rows[0], context_of(apart))


def test_rows_without_pictures_are_no_fault_where_many_have_none() -> None:
    rows = [
        {"id": f"{n}", "question": "?", "references": ["a dog"], "prediction": "stone", "images": ["p"] * (n > 4)}
        for n in range(10)
    ]
    assert causes_of(rows[0], context_of(rows))[0] == "other"
    assert causes_of(rows[0], context_of(rows, needs_picture=True))[0] == "image_missing"
    assert causes_of(rows[0], context_of([rows[0], *[{**rows[9], "id": f"x{n}"} for n in range(20)]]))[0] == "image_missing"


def test_further_causes_are_listed_in_order() -> None:
    line = {"id": "0", "question": "?", "references": ["дорожный знак"], "prediction": "на дорожном знаке", "images": ["0"]}
    found = causes_of({**line, "finish": "length"}, context_of([line]))
    assert found[0] == "form_word" and "cut_off" in found
    assert list(found) == sorted(found, key=NAMES.index)


def test_lines_of_other_tools_have_a_target_alone() -> None:
    line = {"id": "0", "target": "Fish", "prediction": "It is Fish"}
    assert causes_of(line, context_of([line]))[0] == "form_sentence"


@pytest.mark.parametrize("file", ["gqa_ru_testdev_300.jsonl"])
def test_real_russian_answers(file: str) -> None:
    path = Path(__file__).parents[3] / "shared" / "data" / "ru_vqa_text" / file
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [
        {
            "id": row["id"],
            "question": row["question"],
            "references": [row["answer"]],
            "prediction": pick["pred"],
            "images": [row["imageId"]],
        }
        for row in rows
        if (pick := next(iter(row["predictions"].values())))["pred"].lower() != row["answer"].lower()
    ]
    context = context_of(lines)
    shares = Counter(causes_of(line, context)[0] for line in lines)
    by_hand = {
        "Что держит мужчина слева от подушки?": "other",
        "Из чего сделана чашка?": "form_word",
        "На чём сидит женщина?": "form_word",
    }
    assert {line["question"]: causes_of(line, context)[0] for line in lines if line["question"] in by_hand} == by_hand
    assert shares["refusal"] == shares["near_miss"] == shares["image_missing"] == 0 and shares["form_word"] >= 10


def test_a_bare_answer_is_no_sentence() -> None:
    line = {"id": "0", "question": "?", "references": ["12"], "prediction": "12.0", "images": ["0"]}
    assert causes_of(line, context_of([line])) == ("form_number",)
