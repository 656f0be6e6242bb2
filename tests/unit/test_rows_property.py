"""Whatever JSON value stands in whatever field: a task makes an example of the row or refuses it, and never falls over."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxtune.data import load_data
from mlxtune.errors import DataError, RowError
from mlxtune.images import ImageRef
from mlxtune.recipe.spec import DataSpec, RowsSpec
from mlxtune.tasks import TASKS, get_task, without_images
from mlxtune.tasks.pictures import is_nothing
from mlxtune.types import Example
from tests.helpers.published import picture

# One good row of each task: a single wrong field must be met as well as a row of nothing but wrong ones.
SAID = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
PARTS = [{"type": "image", "index": 0}, {"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "a.png"}}]
GOOD: dict[str, dict[str, Any]] = {
    "chartqa": {"image": "a.png", "query": "What?", "label": ["1"], "human_or_machine": 0, "kind": "k", "id": 1},
    "chartllama": {"image": "ours/box/png/a.png", "conversations": SAID, "id": "1", "chart": None},
    "llava": {"image": "a.png", "conversations": SAID, "type": "detail", "id": "1"},
    "gqa_ru": {"imageId": "n1", "question": "What?", "answer": "cat", "types": {"structural": "query"}, "id": "1"},
    "mmbench_ru": {"image": "a.png", "question": "What?", "hint": None, "answer": "A", "A": "1", "B": "2", "C": None, "D": None}
    | {"index": 1_000_001, "category": "ocr", "l2-category": "x"},
    "captions": {"image": "a.png", "caption": "A cat.", "question": None, "class": "cats", "kind": "caption"},
    "characters": {"image": "a.png", "class": "cats", "kind": "question", "question": "Who?", "answer": "Tom"},
    "messages": {
        "messages": [{"role": "user", "content": PARTS}, {"role": "assistant", "content": "A cat."}],
        "images": ["b.png"],
    },
    "qa": {"image": "a.png", "question": "What?", "answer": "A cat.", "category": "x", "id": "1"},
}
_ODD: list[Any] = (
    ["\ud800", "a\udfff\n", "\x00", " ", "nan", "<image>", "<image><image>", "{question}", "http://x/a.png", "../../etc/passwd"]
    + [
        base64.b64encode(picture(0)).decode(),
        "data:image/png;base64,AAAA",
        "data:image/png;base64,=",
        "iVBORw0KGgo",
        "/9j/",
        "x" * 5000,
    ]
    + [10**400, -(2**63), 2**63, 1e308, -0.0, [], {}, [[]], [None], {"bytes": None, "path": None}]
)
ODD = st.sampled_from(_ODD)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20) | ODD
KEYS = st.sampled_from(
    ["from", "value", "role", "content", "type", "text", "image", "index", "image_url", "url", "bytes", "path"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(st.characters(), max_size=5), inner, max_size=3),
    max_leaves=12,
)
# Neither a slow machine nor an unlucky draw fails the suite; raise max_examples and drop derandomize to search.
SEARCH = settings(deadline=None, derandomize=True, database=None, max_examples=60)


@st.composite
def _turns(draw: st.DrawFn) -> Any:
    """Mostly well-formed conversations, so that the parts inside are reached."""
    content = st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["text", "image", "image_url", "video"]) | VALUES},
            optional={key: VALUES for key in ("text", "image", "image_url", "index", "path", "url")},
        ),
        max_size=3,
    )
    said = VALUES | content | st.sampled_from(["What?", "<image> What?"])
    turns = []
    for number in range(draw(st.integers(1, 4))):
        role = draw(st.sampled_from([("user", "assistant")[number % 2]] * 5 + ["system", "tool"]) | VALUES)
        keys = draw(st.sampled_from([("role", "content"), ("from", "value")]))
        turns.append(dict(zip(keys, (role, draw(said)), strict=True)))
    return turns


def _cell(name: str) -> st.SearchStrategy[Any]:
    return VALUES | _turns() if name in ("conversations", "messages") else VALUES


def _find(value: Any, *, where: str) -> ImageRef:
    """What a loader's search does with any value: it never sees one that it could not print."""
    assert not is_nothing(value) and isinstance(repr(value) if not isinstance(value, int) else "", str)
    if not isinstance(value, str) or len(value) % 2:
        raise RowError(f"{where}: no such picture", reason="picture missing")
    return ImageRef(b"", key=ascii(value), where=where)


def _check(task: str, row: dict[str, Any], **recipe: Any) -> None:
    spec = RowsSpec(**{"task": task, "path": "x"} | recipe)
    try:
        example = get_task(task).example(row, where="rows.json#1", spec=spec, find=_find)
    except DataError as error:
        assert str(error).startswith("rows.json#1: ") and "\n" not in str(error) and str(error).encode()
        assert isinstance(error, RowError) and error.reason
        return
    _check_example(example)
    if example.images:
        try:
            _check_example(without_images(example))
        except RowError as error:
            assert error.reason == "picture missing"


def _check_example(example: Example) -> None:
    assert example.target.strip() and example.target == example.references[0] and example.messages[-1]["role"] == "user"
    parts = [part for turn in example.messages for part in turn["content"]]
    assert all(turn["content"] for turn in example.messages)
    assert [part["type"] for part in parts].count("image") == len(example.images)
    texts = [part["text"] for part in parts if part["type"] == "text"]
    texts += [example.id, example.question, example.group, *example.references, *example.names, *example.choices.values()]
    json.dumps([texts, dict(example.meta), dict(example.choices)], ensure_ascii=False, allow_nan=False).encode()
    assert not example.choices or example.target in example.choices


@pytest.mark.parametrize("task", sorted(TASKS))
@SEARCH
@given(data=st.data())
def test_one_wrong_field(task: str, data: st.DataObject) -> None:
    row = GOOD[task]
    name = data.draw(st.sampled_from(sorted(row)))
    policy = data.draw(st.sampled_from([{}, {"missing_image": "text_only"}, {"text_only": "keep"}, {"text_only": "skip"}]))
    _check(task, row | {name: data.draw(_cell(name))}, **policy)


@pytest.mark.parametrize("task", sorted(TASKS))
@SEARCH
@given(data=st.data())
def test_nothing_but_wrong_fields(task: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(GOOD[task])), unique=True))
    other = data.draw(st.dictionaries(st.text(st.characters(), max_size=5), SCALARS, max_size=3))
    _check(task, {name: data.draw(_cell(name)) for name in names} | other, missing_image="text_only", text_only="keep")


@pytest.mark.parametrize("task", sorted(TASKS))
@SEARCH
@given(value=VALUES)
def test_a_prompt_with_any_column(task: str, value: Any) -> None:
    _check(task, GOOD[task] | {"extra": value}, prompt="{extra}?", suffix="")


@pytest.mark.parametrize("task", sorted(TASKS))
def test_what_python_itself_cannot_print(task: str) -> None:
    """Lists deeper than its stack, integers of more digits than it writes; Hypothesis could not print them either."""
    deep: Any = []
    deep_object: Any = {}
    for _ in range(sys.getrecursionlimit() + 500):
        deep, deep_object = [deep], {"bytes": deep_object, "path": None}
    for value in (deep, deep_object, 10**5000, [10**5000], {"a": 10**5000}):
        for name, good in GOOD[task].items():
            _check(task, GOOD[task] | {name: value}, prompt=f"{{{name}}}")
            if isinstance(good, list):
                _check(task, GOOD[task] | {name: [*good[:-1], value]})
            for key in good[0] if isinstance(good, list) and isinstance(good[0], dict) else ():
                _check(task, GOOD[task] | {name: [good[0] | {key: value}, *good[1:]]})


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_good_rows_are_good(task: str) -> None:
    """Else the tests above would see refusals alone."""

    def find(value: Any, *, where: str) -> ImageRef:
        return ImageRef(b"", key=str(value), where=where)

    example = get_task(task).example(GOOD[task], where="rows.json#1", spec=RowsSpec(task=task, path="x"), find=find)
    _check_example(example)
    assert example.images


@pytest.mark.parametrize("task", sorted(TASKS))
def test_odd_rows_of_a_file_are_loaded_or_listed_as_skipped(task: str, tmp_path: Path) -> None:
    """The same through the real reader and the real search for pictures: every row ends in one of two places."""
    for name in ("a.png", "b.png", "n1.png", "ours/box/png/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(1))
    good = {name: "n1.png" if value == "n1" else value for name, value in GOOD[task].items()}
    nested: Any = "x"
    for _ in range(300):
        nested = [nested]
    odd = [*_ODD, nested, {"bytes": nested}, {"path": 1}, {"bytes": "a.png"}, [nested], None, True, 0, 1.5, float("nan")]
    rows = [good, *(good | {name: value} for name in good for value in odd)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
    whole = {"train": "all", "validation": None, "test": None}
    data = load_data(DataSpec(task=task, path=str(tmp_path / "rows.jsonl"), splits=whole, max_skipped=1.0))
    assert len(data.splits["train"]) + len(data.skipped) == len(rows) and len(data.splits["train"])
    for example in data.splits["train"]:
        _check_example(example)
    for skipped in data.skipped:
        assert skipped.reason and skipped.message.startswith(skipped.where) and "\n" not in skipped.message
        assert skipped.message.encode()
