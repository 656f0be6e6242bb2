"""Captions and characters: pictures in folders, and annotation files that speak of them."""

import json

import pytest

from mlxtune.errors import DataError
from tests.helpers.tasks import make, parts, refusal

FOLDER_ROW = {"image": "images/koschei/1.jpg", "class": "koschei"}


@pytest.fixture
def names(tmp_path):
    file = tmp_path / "character_names.json"
    entities = {
        "baba_yaga": "Баба-яга",
        "koschei": {"name": "Кощей", "aliases": ["Кощей Бессмертный"], "cases": ["Кощея"]},
    }
    file.write_text(json.dumps(entities), encoding="utf-8")
    return str(file)


def asked(example):
    return example.messages[-1]["content"][-1]["text"]


# -- captions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "question", "target"),
    [
        ({"caption": "A red cat."}, "Describe the picture.", "A red cat."),
        ({"text": "A red cat."}, "Describe the picture.", "A red cat."),
        ({"caption": "Рыжий кот."}, "Опиши, что на картинке.", "Рыжий кот."),
        ({"caption": "A red cat.", "question": "What is it?"}, "What is it?", "A red cat."),
        ({"caption": "A red cat.", "question": None}, "Describe the picture.", "A red cat."),
    ],
)
def test_captions(row, question, target):
    example = make("captions", {"image": "a.jpg", **row})
    assert (parts(example), example.target) == ([("user", ["<picture>", question])], target) and example.question == question


def test_several_captions_are_all_accepted():
    example = make("captions", {"image": "a.jpg", "caption": ["A cat.", "A red cat."], "class": "cats"})
    assert example.references == ("A cat.", "A red cat.") and example.meta == {"class": "cats"}


def test_the_question_is_the_recipes_but_a_rows_own_stays():
    plain, own = (
        {"image": "a.jpg", "caption": "A cat.", "place": "Rome"},
        {"image": "a.jpg", "caption": "A cat.", "question": "Q?"},
    )
    assert asked(make("captions", plain, prompt="What is seen in {place}?")) == "What is seen in Rome?"
    assert asked(make("captions", own, prompt="What is seen?")) == "Q?"
    assert asked(make("captions", own, prompt="Briefly. {question}")) == "Briefly. Q?"
    assert asked(make("captions", plain, prompt="Briefly. {question}")) == "Briefly. Describe the picture."
    assert asked(make("captions", plain, suffix=" In a word.")) == "Describe the picture. In a word."


def test_a_caption_needs_its_text_and_its_picture():
    message = refusal("captions", {"image": "a.jpg", "class": "cats"}, reason="field missing")
    assert "no field 'caption'; it has 'image', 'class'" in message
    refusal("captions", {"image": None, "caption": "A cat."}, reason="no picture")


# -- characters -------------------------------------------------------------------------------------------------------


def test_a_folders_row_asks_who_it_is(names):
    example = make("characters", FOLDER_ROW, names=names)
    assert parts(example) == [("user", ["<picture>", "Who is in the picture?"])]
    assert (example.target, example.references) == ("Кощей", ("Кощей", "Кощей Бессмертный"))
    assert example.names == ("Кощей", "Кощей Бессмертный", "Кощея")
    assert example.meta == {"class": "koschei", "kind": "recognition"}
    assert make("characters", {"image": "a.jpg", "class": "baba_yaga"}, names=names).names == ("Баба-яга",)


def test_without_names_the_folder_is_the_name():
    example = make("characters", FOLDER_ROW)
    assert (example.target, example.names) == ("koschei", ("koschei",))


def test_the_question_of_recognition_is_the_recipes(names):
    assert (
        asked(make("characters", FOLDER_ROW, names=names, prompt="Кто это?", suffix=" Одним словом.")) == "Кто это? Одним словом."
    )


@pytest.mark.parametrize(
    ("change", "question", "has_names"),
    [
        ({"kind": "caption", "question": "Опиши.", "answer": "Кощей на троне."}, "Опиши.", True),
        ({"kind": "caption", "question": None, "answer": "На троне."}, "Опиши, что на картинке.", True),
        ({"kind": "caption", "answer": "Koschei on a throne."}, "Describe the picture.", True),
        ({"kind": "question", "question": "Чей трон?", "answer": "кощея"}, "Чей трон?", True),
        ({"kind": "question", "question": "Какого цвета трон?", "answer": "Белого."}, "Какого цвета трон?", False),
    ],
)
def test_an_annotations_row_keeps_its_own(names, change, question, has_names):
    example = make("characters", FOLDER_ROW | change, names=names, prompt="Кто это?" if change.get("question") else None)
    assert (asked(example), example.target) == (question, change["answer"]) and bool(example.names) == has_names
    assert example.meta == {"class": "koschei", "kind": change["kind"]}


def test_an_annotations_row_needs_no_class():
    example = make("characters", {"image": "a.jpg", "question": "Что это?", "answer": "Лес."})
    assert (example.names, example.meta) == ((), {})


@pytest.mark.parametrize(
    ("row", "message", "reason"),
    [
        ({"image": "a.jpg"}, "no field 'class' says who it is; the row has 'image'", "field missing"),
        ({"image": "a.jpg", "class": ""}, "no field 'class' says who it is", "field missing"),
        ({"image": "a.jpg", "class": 3}, "field 'class' is not a class but int 3", "field wrong"),
        ({"image": "a.jpg", "class": "leshy"}, "class 'leshy' has no name in ", "field wrong"),
        (FOLDER_ROW | {"question": "Кто это?"}, "question str 'Кто это?' has no answer", "field missing"),
        (FOLDER_ROW | {"answer": "a", "question": 3}, "field 'question' is not a question but int 3", "field wrong"),
    ],
)
def test_a_characters_row_that_cannot_be_read(names, row, message, reason):
    assert message in refusal("characters", row, names=names, reason=reason)


def test_a_names_file_that_is_wrong_ends_the_run(tmp_path):
    with pytest.raises(DataError, match="no such file") as error:
        make("characters", FOLDER_ROW, names=str(tmp_path / "none.json"))
    assert not hasattr(error.value, "reason")


def test_names_are_read_again_when_the_file_changes(tmp_path):
    file = tmp_path / "names.json"
    for name in ("Кощей", "Кощей Бессмертный"):
        file.write_text(json.dumps({"koschei": name}), encoding="utf-8")
        assert make("characters", FOLDER_ROW, names=str(file)).target == name
