"""Rows of the known forms become examples; everything else becomes a message that says what to change."""

from functools import partial

import pytest

from mlxtune.errors import RecipeError, RowError
from mlxtune.images import StoredImage
from mlxtune.metrics import METRICS
from mlxtune.tasks import TASKS, get_task, without_images
from tests.helpers.published import picture
from tests.helpers.tasks import find_in, make, parts, refusal

CHART = {"image": "a.png", "query": "How many?", "label": "12"}
QA = {"question": "How many?", "answer": "12"}
SUFFIX = "\nAnswer the question with a single word."


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
        (1, ("1",)),
        ("0", ("0",)),
        ("1", ("1",)),
        (True, ("true",)),
        (False, ("false",)),
        ("True", ("True",)),
        ([True, 1, "1"], ("true", "1", "1")),
        (2**70, (str(2**70),)),
        (" Yes\n", ("Yes",)),
        (["a", " a", "b", 3.0], ("a", "a", "b", "3")),
        (("a", "b"), ("a", "b")),
        ("12.0", ("12.0",)),
        ("[1, 2]", ("[1, 2]",)),
        ("Да", ("Да",)),
    ],
)
def test_labels_stay_what_they_are(label, references):
    example = make("chartqa", {**CHART, "label": label})
    assert example.references == references and example.target == references[0]


def test_qa_takes_any_columns_and_its_own_suffix():
    row = {"вопрос": "Что это?", "ответ": "Кот", "фото": "cat.jpg", "uid": "u1"}
    example = make("qa", row, question="вопрос", target="ответ", image="фото", id="uid", suffix="\nОтветь одним словом.")
    assert example.messages[0]["content"][1]["text"] == "Что это?\nОтветь одним словом."
    assert (example.id, example.target, example.images[0].key) == ("u1", "Кот", "cat.jpg")


@pytest.mark.parametrize("image", [None, "", " ", [], [None, ""], b"", {"bytes": None, "path": None}, {"bytes": b"", "path": ""}])
def test_qa_does_without_a_picture(image):
    for row in (QA, {**QA, "image": image}):
        example = make("qa", row)
        assert example.images == () and example.messages[0]["content"] == [{"type": "text", "text": "How many?"}]
        assert "the row names no picture" in refusal("qa", row, text_only="skip", reason="no picture")


def test_several_pictures_make_several_parts():
    assert parts(make("qa", {**QA, "image": ["a.png", "b.png"]})) == [("user", ["<picture>", "<picture>", "How many?"])]


# -- what the recipe changes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ({"suffix": ""}, "How many?"),
        ({"suffix": " Short!"}, "How many? Short!"),
        ({"prompt": "Chart: {query}"}, "Chart: How many?" + SUFFIX),
        ({"prompt": "{question} of {year} ({share}, {hint}{ok})", "suffix": ""}, "How many? of 2020 (0.5, true)"),
        ({"prompt": "{l2-category}: { query }", "suffix": ""}, "fine: How many?"),
        ({"prompt": "{{{query}}} {{}}", "suffix": ""}, "{How many?} {}"),
        ({"prompt": "Describe.", "suffix": ""}, "Describe."),
        ({"prompt": "{a.b}{c[0]}", "suffix": ""}, "xy"),
    ],
)
def test_the_prompt_is_the_recipes(given, prompt):
    row = {**CHART, "year": 2020, "share": 0.5, "hint": None, "ok": True, "l2-category": "fine", "a.b": "x", "c[0]": "y"}
    example = make("chartqa", row, **given)
    assert parts(example) == [("user", ["<picture>", prompt])] and example.question == "How many?"


def test_a_column_of_the_row_comes_before_the_name_of_a_role():
    row = {**CHART, "question": "simple"}
    assert make("chartqa", row, prompt="{question}: {query}", suffix="").messages[0]["content"][1]["text"] == "simple: How many?"


def test_a_prompt_needs_no_question_column():
    example = make("qa", {"country": "Peru", "answer": "Lima"}, prompt="The capital of {country}?")
    assert parts(example) == [("user", ["The capital of Peru?"])] and example.question == "The capital of Peru?"
    message = refusal("qa", {"country": "Peru", "answer": "Lima"}, prompt="{country}", question="asked", reason="field missing")
    assert "no field 'asked'" in message


def test_a_system_turn_stands_in_front():
    assert parts(make("qa", QA, system="Be brief.")) == [("system", ["Be brief."]), ("user", ["How many?"])]


@pytest.mark.parametrize(
    ("prompt", "message", "reason"),
    [
        (
            "{year}?",
            "data.prompt names '{year}'; the row has 'question', 'answer', 'bad', 'half', 'blank'. Mend data.prompt",
            "field missing",
        ),
        ("{bad}", "data.prompt names '{bad}', which is list [1]. Name columns of texts or numbers", "field wrong"),
        ("{half}", "field 'data.prompt' holds broken Unicode at character 0", "broken text"),
        ("{blank} ", "data.prompt gives an empty question for this row", "field missing"),
    ],
)
def test_a_prompt_that_a_row_cannot_fill_refuses_the_row(prompt, message, reason):
    row = {**QA, "bad": [1], "half": "\udc00", "blank": None}
    assert message in refusal("qa", row, prompt=prompt, reason=reason)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{", "'{'"),
        ("a } b", "Single '}' encountered"),
        ("{}", "only plain column names"),
        ("{ }", "only plain column names"),
        ("{answer!r}", "only plain column names"),
        ("{answer:>10}", "only plain column names"),
        ("{a[b}", "Write columns as {name} and a brace itself twice"),
    ],
)
def test_a_prompt_that_is_wrong_for_all_rows_ends_the_run(prompt, message):
    with pytest.raises(RecipeError) as error:
        make("qa", QA, prompt=prompt)
    assert str(error.value).startswith("data.prompt: ") and message in str(error.value)


def test_a_column_that_a_task_does_not_read_cannot_be_set():
    with pytest.raises(RecipeError, match=r"data.target: task 'llava' reads no such column. Leave data.target out"):
        make("llava", {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, target="answer")


# -- rows without their picture ---------------------------------------------------------------------------------------


def test_a_task_that_needs_pictures_leaves_rows_without_one_out():
    assert get_task("chartqa").needs_image and not get_task("qa").needs_image
    message = refusal("chartqa", {**CHART, "image": None}, reason="no picture")
    assert "the row names no picture. Remove it, or set data.text_only: keep to ask without one" in message
    assert "no field 'image'; it has 'query', 'label'" in refusal("chartqa", {"query": "a", "label": "b"}, reason="field missing")
    for row in ({**CHART, "image": None}, {"query": "How many?", "label": "12"}):
        assert parts(make("chartqa", row, text_only="keep")) == [("user", ["How many?" + SUFFIX])]


def test_a_lost_picture_refuses_the_row_or_is_left_out(tmp_path):
    (tmp_path / "here.png").write_bytes(b"x")
    row = {**CHART, "image": ["gone.png", "here.png"]}
    assert "gone.png" in refusal("chartqa", row, find=find_in(tmp_path), reason="picture missing")
    example = make("chartqa", row, find=find_in(tmp_path), missing_image="text_only")
    assert [image.key for image in example.images] == ["here.png"]
    assert parts(example) == [("user", ["<picture>", "How many?" + SUFFIX])]
    alone = make("chartqa", {**CHART, "image": "gone.png"}, find=find_in(tmp_path), missing_image="text_only", text_only="skip")
    assert alone.images == () and parts(alone) == [("user", ["How many?" + SUFFIX])]


def test_a_picture_in_a_table_is_one_picture():
    stored = StoredImage(picture(1), partial(picture, 1))
    for image in (stored, [stored], {"bytes": picture(1), "path": "a.png"}):
        (found,) = make("chartqa", {**CHART, "image": image}).images
        assert found.key.startswith("sha256:") and found.load().size == (48, 32)
    assert [image.key for image in make("chartqa", {**CHART, "image": [stored, "b.png"]}).images][1] == "b.png"


def test_what_is_no_picture_at_all_is_refused_under_every_policy():
    for image in (["a.png", ["b.png"]], {"bytes": [[1]], "path": None}, {"path": {"path": "a"}}, {"url": "a"}, 2**70):
        assert "a picture cannot be" in refusal(
            "chartqa", {**CHART, "image": image}, missing_image="text_only", reason="field wrong"
        )


def test_a_source_that_fails_is_not_a_missing_picture():
    def broken(value, *, where):
        raise RowError(f"{where}: no such key", reason="field wrong")

    refusal("chartqa", CHART, find=broken, missing_image="text_only", reason="field wrong")


def test_pictures_found_broken_later_are_taken_out():
    example = make("qa", {**QA, "image": ["a.png", "b.png", "c.png"]}, system="Be brief.")
    assert parts(without_images(example)) == [("system", ["Be brief."]), ("user", ["How many?"])]
    fewer = without_images(example, {"b.png"})
    assert [image.key for image in fewer.images] == ["a.png", "c.png"]
    assert parts(fewer)[1] == ("user", ["<picture>", "<picture>", "How many?"]) and len(parts(example)[1][1]) == 4
    assert without_images(example, ()) == example


def test_a_turn_that_was_only_a_picture_cannot_do_without_it():
    turns = [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "A cat."}]
    example = make("messages", {"messages": turns, "images": ["a.png"]})
    with pytest.raises(RowError, match=f"^{'data/train.jsonl:17'}: a turn is only a picture, which is missing") as error:
        without_images(example)
    assert error.value.reason == "picture missing"


# -- rows that cannot be read -----------------------------------------------------------------------------------------


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
        ("qa", {"official_question": "a", "answer": "b"}, {}, "Set data.question: official_question"),
        ("qa", {"question": "a", "gold-label": "b"}, {}, "Set data.target: gold-label"),
        ("qa", QA, {"id": "key"}, "no field 'key'"),
        ("qa", {}, {}, "it has no fields. Set data.question to the column that holds the question"),
        ("qa", {"a\ud800": 1, "b" * 99: 2}, {}, "it has str 'a\\ud800', 'bbbb"),
        ("qa", {f"c{i}": i for i in range(99)}, {}, "'c29', … (99 in all). Set"),
        ("chartqa", {"query": "a", "label": "b"}, {}, "no field 'image'"),
        ("chartqa", {"image": "a.png", "question": "a", "answer": "b"}, {}, "no field 'query'"),
        ("llava", {"messages": []}, {}, "no field 'conversations'; it has 'messages'. Set data.question: messages"),
    ],
)
def test_a_missing_column_is_answered_with_the_likely_one(task, row, given, message):
    assert message in refusal(task, row, reason="field missing", **given)


@pytest.mark.parametrize(
    ("change", "message", "reason"),
    [
        ({"query": None}, "field 'query' is not a question but null", "field missing"),
        ({"query": "  "}, "field 'query' is not a question but str '  '", "field missing"),
        ({"query": ["a"]}, "not a question but list ['a']", "field wrong"),
        ({"query": "\ud800"}, "broken Unicode at character 0", "broken text"),
        ({"label": None}, "field 'label' is not an answer but null", "field missing"),
        ({"label": ""}, "is not an answer but str ''", "field missing"),
        ({"label": []}, "is not an answer but list []", "field wrong"),
        ({"label": ["a", None]}, "is not an answer", "field wrong"),
        ({"label": ["a"] * 200 + [None]}, "is not an answer but list ['a', 'a',", "field wrong"),
        ({"label": 10**400}, "is not an answer but int 1000", "field wrong"),
        ({"label": 10**5000}, "is not an answer but int that is too long to show", "field wrong"),
        ({"label": float("nan")}, "is not an answer but float nan", "field wrong"),
        ({"label": {"a": 1}}, "is not an answer but dict", "field wrong"),
        ({"label": "a\udfff"}, "field 'label' holds broken Unicode at character 1", "broken text"),
        ({"id": [1]}, "field 'id' is not an id but list [1]", "field wrong"),
        ({"id": True}, "field 'id' is not an id but bool True", "field wrong"),
        ({"chart": ["pie"]}, "field 'chart' is list ['pie']", "field wrong"),
    ],
)
def test_a_wrong_cell_is_named(change, message, reason):
    assert message in refusal("chartqa", {**CHART, **change}, reason=reason)


def test_registry():
    names = {"chartqa", "chartllama", "llava", "gqa_ru", "mmbench_ru", "captions", "characters", "messages", "qa"}
    assert set(TASKS) == names
    for name, task in TASKS.items():
        assert get_task(name).name == name and task.description and task.text_only in ("keep", "skip")
        assert task.metrics and set(task.metrics) <= set(METRICS) and len(set(task.metrics)) == len(task.metrics)
    assert get_task("chartqa").metrics[0] == "relaxed_accuracy" and "relaxed_accuracy" not in get_task("qa").metrics
    with pytest.raises(RecipeError, match=r"data.task: no task 'chart-qa'. Did you mean 'chartqa'\? There are: captions, "):
        get_task("chart-qa")
