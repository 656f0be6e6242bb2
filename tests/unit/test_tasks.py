"""Rows of the known forms become examples; everything else becomes a message that says what to change."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxtune.errors import DataError, RecipeError
from mlxtune.tasks import TASKS, get_task
from mlxtune.types import Example

CHART = {"image": "a.png", "query": "How many?", "label": "12"}
QA = {"question": "How many?", "answer": "12"}


def columns(**given):
    return SimpleNamespace(**{"image": None, "question": None, "target": None, "id": None, "suffix": None} | given)


def make(task, row, **given) -> Example:
    return get_task(task).example(row, where="data/train.jsonl:17", spec=columns(**given))


def refusal(task, row, **given) -> str:
    with pytest.raises(DataError) as error:
        make(task, row, **given)
    assert "\n" not in str(error.value) and str(error.value).startswith("data/train.jsonl:17: ")
    return str(error.value)


def test_chartqa_as_on_the_hub():
    example = make("chartqa", {**CHART, "label": ["12", "twelve"], "human_or_machine": 1, "id": 7})
    assert (example.id, example.question, example.target, example.references) == ("7", "How many?", "12", ("12", "twelve"))
    assert example.messages == [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "How many?\nAnswer the question with a single word."}],
        }
    ]
    assert [image.key for image in example.images] == ["a.png"]
    assert example.meta == {"human_or_machine": "machine"}


def test_chartqa_as_in_the_original_files():
    example = make("chartqa", {"imgname": "1.png", "query": "Which years?", "label": "[2003,2004]"})
    assert example.references == ("[2003,2004]",) and example.images[0].key == "1.png" and example.id == ""


def test_meta_keeps_what_scores_are_broken_down_by():
    row = {**CHART, "kind": "highest", "chart": "pie", "source": None, "width": 800}
    assert make("chartqa", row).meta == {"kind": "highest", "chart": "pie"}


@pytest.mark.parametrize(
    ("label", "references"),
    [
        (12, ("12",)),
        (12.0, ("12",)),
        (-0.5, ("-0.5",)),
        (0.1, ("0.1",)),
        (0, ("0",)),
        (2**70, (str(2**70),)),
        (" Yes\n", ("Yes",)),
        (["a", " a", "b", 3.0], ("a", "b", "3")),
        ("12.0", ("12.0",)),
        ("[1, 2]", ("[1, 2]",)),
        ("Да", ("Да",)),
    ],
)
def test_labels(label, references):
    example = make("chartqa", {**CHART, "label": label})
    assert example.references == references and example.target == references[0]


def test_qa_takes_any_columns_and_its_own_suffix():
    row = {"вопрос": "Что это?", "ответ": "Кот", "фото": "cat.jpg", "uid": "u1"}
    example = make("qa", row, question="вопрос", target="ответ", image="фото", id="uid", suffix="\nОтветь одним словом.")
    assert example.messages[0]["content"][1]["text"] == "Что это?\nОтветь одним словом."
    assert (example.id, example.target, example.images[0].key) == ("u1", "Кот", "cat.jpg")


@pytest.mark.parametrize("row", [QA, {**QA, "image": None}, {**QA, "image": ""}, {**QA, "image": []}])
def test_qa_does_without_a_picture(row):
    example = make("qa", row)
    assert example.images == () and example.messages[0]["content"] == [{"type": "text", "text": "How many?"}]


def test_several_pictures_make_several_parts():
    example = make("qa", {**QA, "image": ["a.png", "b.png"]})
    assert [part["type"] for part in example.messages[0]["content"]] == ["image", "image", "text"]


def test_an_empty_suffix_is_not_the_tasks():
    assert make("chartqa", CHART, suffix="").messages[0]["content"][1]["text"] == "How many?"


@pytest.mark.parametrize(
    ("task", "row", "given", "message"),
    [
        (
            "qa",
            {"question": "a", "label": "b"},
            {},
            "data/train.jsonl:17: no field 'answer'; it has 'question', 'label'. Set data.target: label",
        ),
        ("qa", {"query": "a", "answer": "b"}, {}, "Set data.question: query"),
        ("qa", {"Question": "a", "answer": "b"}, {}, "Set data.question: Question"),
        ("qa", QA, {"target": "answr"}, "no field 'answr'; it has 'question', 'answer'. Set data.target: answer"),
        ("qa", QA, {"image": "picture"}, "Set data.image to the column that holds the image"),
        ("qa", {**QA, "img": "a"}, {"image": "picture"}, "Set data.image: img"),
        ("qa", {"label": "a", "output": "b"}, {"question": "label"}, "Set data.target: output"),
        ("qa", QA, {"id": "key"}, "no field 'key'"),
        ("qa", {}, {}, "it has no fields. Set data.question to the column that holds the question"),
        ("chartqa", {"query": "a", "label": "b"}, {}, "no field 'image'"),
        ("chartqa", {"image": "a.png", "question": "a", "answer": "b"}, {}, "no field 'query'"),
    ],
)
def test_a_missing_column_is_answered_with_the_likely_one(task, row, given, message):
    assert message in refusal(task, row, **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, "field 'query' is not a question but null"),
        ({"query": "  "}, "field 'query' is not a question but str '  '"),
        ({"query": ["a"]}, "not a question but list ['a']"),
        ({"query": "\ud800"}, "broken Unicode at character 0"),
        ({"label": None}, "field 'label' is not an answer but null"),
        ({"label": ""}, "is not an answer but str ''"),
        ({"label": []}, "is not an answer but list []"),
        ({"label": ["a", None]}, "is not an answer"),
        ({"label": True}, "is not an answer but bool True"),
        ({"label": 10**400}, "is not an answer but int 1000"),
        ({"label": float("nan")}, "is not an answer but float nan"),
        ({"label": {"a": 1}}, "is not an answer but dict"),
        ({"image": None}, "field 'image' has no picture, and task 'chartqa' needs one"),
        ({"image": 3}, "a picture must be a path, bytes, base64 text or {'bytes', 'path'}; this is int 3"),
        ({"id": [1]}, "field 'id' is not an id but list [1]"),
        ({"chart": ["pie"]}, "field 'chart' is list ['pie']"),
    ],
)
def test_a_wrong_cell_is_named(change, message):
    assert message in refusal("chartqa", {**CHART, **change})


def test_registry():
    assert set(TASKS) >= {"chartqa", "qa"}
    assert all(get_task(name).name == name and task.metrics and task.description for name, task in TASKS.items())
    assert get_task("chartqa").metrics[0] == "relaxed_accuracy" and "relaxed_accuracy" not in get_task("qa").metrics
    with pytest.raises(RecipeError, match=r"data.task: no task 'chart-qa'. Did you mean 'chartqa'\? There are: chartqa, "):
        get_task("chart-qa")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20) | st.binary(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
PICTURES = VALUES | st.fixed_dictionaries({"bytes": VALUES, "path": VALUES})


# Neither a slow machine nor an unlucky draw fails the suite; raise max_examples and drop derandomize to search.
@settings(deadline=None, derandomize=True, database=None, max_examples=200)
@given(
    task=st.sampled_from(["chartqa", "qa"]),
    row=st.dictionaries(st.sampled_from(["image", "imgname"]), PICTURES).flatmap(
        lambda pictures: st.dictionaries(
            st.sampled_from(["question", "query", "answer", "label", "id", "kind", "human_or_machine"]), VALUES
        ).map(lambda rest: rest | pictures)
    ),
)
def test_any_row_gives_an_example_or_a_data_error(task, row):
    try:
        example = make(task, row)
    except DataError as error:
        str(error).encode()
    else:
        assert isinstance(example, Example) and example.target and example.question.strip()
