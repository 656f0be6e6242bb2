"""GQA-ru and MMBench-ru: the published prompts to the letter, and how their rows join, rotate and drift."""

import pytest

from mlxtune.metrics import score
from mlxtune.metrics.base import Item
from mlxtune.recipe.spec import PicturesSpec, RowsSpec
from mlxtune.tasks import get_task
from tests.helpers.tasks import make, parts, refusal

GQA = {"id": "2076819", "imageId": "n214497", "question": "Что это?", "answer": "стол", "fullAnswer": "Это стол."}
OPTIONS = {"A": "стол", "B": "стул", "C": "шкаф", "D": "кровать"}
MMBENCH = {"index": 3000149, "question": "Что это?", "hint": None, **OPTIONS, "answer": "B", "image": "a.jpg"}
LISTED = "A. стол\nB. стул\nC. шкаф\nD. кровать\n"
ASKED = "\nВыбери правильный вариант ответа буквой."


def prompt_of(example):
    return example.messages[-1]["content"][-1]["text"]


# -- gqa_ru -----------------------------------------------------------------------------------------------------------


def test_gqa_ru():
    example = make("gqa_ru", GQA | {"types": {"structural": "query", "semantic": "obj", "detailed": None}})
    assert parts(example) == [("user", ["<picture>", "Что это?\nОтветь одним словом."])]
    assert (example.id, example.target, example.images[0].key) == ("2076819", "стол", "n214497")
    assert example.meta == {"structural": "query", "semantic": "obj", "protocol": "gqa_ru"}
    assert make("gqa_ru", GQA, target="fullAnswer").target == "Это стол."
    assert make("gqa_ru", GQA | {"image": "a.png"}).images[0].key == "a.png"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("train_balanced_instructions", PicturesSpec(config="train_balanced_images", key="id", image="image")),
        ("testdev_balanced_instructions", PicturesSpec(config="testdev_balanced_images")),
        ("train_balanced_images", None),
        (None, None),
    ],
)
def test_gqa_ru_knows_where_its_pictures_are(config, expected):
    assert get_task("gqa_ru").default_images(RowsSpec(path="deepvk/GQA-ru", config=config)) == expected
    assert get_task("qa").default_images(RowsSpec(path="deepvk/GQA-ru", config=config)) is None


@pytest.mark.parametrize("types", [None, [], "query", {"structural": 3}, {"semantic": None}])
def test_gqa_ru_does_without_kinds(types):
    assert make("gqa_ru", GQA | {"types": types}).meta == {"protocol": "gqa_ru"}


def test_gqa_ru_is_scored_by_its_own_rule():
    for task, value in (("gqa_ru", 1.0), ("qa", 0.0)):
        meta = make(task, GQA).meta
        scores, _ = score(["exact_match"], [Item(prediction="Стол.", references=("стол",), meta=meta)])
        assert scores["exact_match"].value == value


# -- mmbench_ru -------------------------------------------------------------------------------------------------------


def test_mmbench_ru_as_published():
    row = MMBENCH | {"category": "ocr", "l2-category": "fine", "source": "x", "comment": None, "split": "dev"}
    example = make("mmbench_ru", row)
    assert parts(example) == [("user", ["<picture>", f"Что это? There are several options:\n{LISTED}{ASKED}"])]
    assert (example.id, example.question, example.target, example.references) == ("3000149", "Что это?", "B", ("B",))
    assert dict(example.choices) == OPTIONS and list(example.choices) == ["A", "B", "C", "D"] and example.group == "149"
    assert example.meta == {"category": "ocr", "index": 3000149, "l2-category": "fine"}


@pytest.mark.parametrize(
    ("hint", "start"),
    [
        (None, ""),
        ("", ""),
        ("  ", ""),
        ("nan", ""),
        ("NaN", ""),
        (float("nan"), ""),
        ("Смотри.", "Смотри. "),
        (7, "7 "),
    ],
)
def test_a_hint_stands_in_front_where_there_is_one(hint, start):
    assert prompt_of(make("mmbench_ru", MMBENCH | {"hint": hint})).startswith(f"{start}Что это? There")
    assert prompt_of(make("mmbench_ru", {key: value for key, value in MMBENCH.items() if key != "hint"})).startswith("Что это?")


@pytest.mark.parametrize("absent", [{"C": None, "D": None}, {"C": "", "D": "nan"}, {"C": float("nan"), "D": " "}, "missing"])
def test_absent_options_are_left_out(absent):
    row = {k: v for k, v in MMBENCH.items() if k not in "CD"} if absent == "missing" else MMBENCH | absent
    example = make("mmbench_ru", row)
    assert dict(example.choices) == {"A": "стол", "B": "стул"}
    assert prompt_of(example) == f"Что это? There are several options:\nA. стол\nB. стул\n{ASKED}"


def test_options_may_be_numbers_and_none_is_a_word():
    example = make("mmbench_ru", MMBENCH | {"A": 3, "B": 2.5, "C": "None", "D": 0, "answer": " d"})
    assert dict(example.choices) == {"A": "3", "B": "2.5", "C": "None", "D": "0"} and example.target == "D"


@pytest.mark.parametrize("name", ["l2-category", "L2-category", "L2-Category"])
def test_the_finer_category_by_either_name(name):
    assert make("mmbench_ru", MMBENCH | {name: "fine"}).meta == {"index": 3000149, "l2-category": "fine"}


@pytest.mark.parametrize(
    ("index", "group"),
    [(149, "149"), (1_000_149, "149"), ("3000149", "149"), (2_000_000.0, "0"), (10**20 + 5, "5"), (None, "")],
)
def test_rotations_are_one_group(index, group):
    assert make("mmbench_ru", MMBENCH | {"index": index}).group == group


def test_the_whole_prompt_is_the_recipes():
    example = make("mmbench_ru", MMBENCH | {"hint": "Смотри."}, prompt="{question} ({hint})\n{options}", suffix="Буква:")
    assert prompt_of(example) == f"Что это? (Смотри.)\n{LISTED}Буква:"
    row = {key: value for key, value in MMBENCH.items() if key != "question"} | {"вопрос": "Что там?"}
    assert prompt_of(make("mmbench_ru", row, question="вопрос")).startswith("Что там? There are several options:\nA. стол")


@pytest.mark.parametrize(
    ("change", "message", "reason"),
    [
        (
            dict.fromkeys("ABCD"),
            "fewer than two of the options A, B, C, D are there; the row has 'index', 'question'",
            "field missing",
        ),
        (dict.fromkeys("BCD"), "Take the data set with its options, or data.task: qa for rows without", "field missing"),
        ({"answer": "E"}, "field 'answer' is str 'E', no letter of the options A, B, C, D", "field wrong"),
        ({"answer": "стул"}, "field 'answer' is str 'стул', no letter", "field wrong"),
        ({"answer": 1}, "field 'answer' is int 1, no letter", "field wrong"),
        ({"answer": None}, "field 'answer' is null, no letter", "field missing"),
        ({"D": None, "answer": "D"}, "no letter of the options A, B, C.", "field wrong"),
        ({"A": ["стол"]}, "option 'A' is not text but list ['стол']", "field wrong"),
        ({"A": "\ud800"}, "field 'A' holds broken Unicode", "broken text"),
        ({"hint": {"a": 1}}, "names '{hint}', which is dict", "field wrong"),
        ({"index": "x1"}, "field 'index' is not a number but str 'x1'", "field wrong"),
        ({"index": -1}, "field 'index' is not a number but int -1", "field wrong"),
        ({"index": 1.5}, "field 'index' is not a number but float 1.5", "field wrong"),
        ({"image": None}, "the row names no picture", "no picture"),
    ],
)
def test_an_mmbench_row_that_cannot_be_read(change, message, reason):
    assert message in refusal("mmbench_ru", MMBENCH | change, reason=reason)


def test_a_renamed_column_is_answered_with_the_likely_one():
    row = {key: value for key, value in MMBENCH.items() if key != "answer"} | {"label": "B"}
    assert "no field 'answer'; it has 'index', 'question'" in refusal("mmbench_ru", row, reason="field missing")
    assert "Set data.target: label" in refusal("mmbench_ru", row)
    assert make("mmbench_ru", row, target="label").target == "B"
