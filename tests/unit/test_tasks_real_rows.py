"""Real rows of ChartQA, GQA-ru and MMBench-ru (the last two as texts without pictures), read as their tasks read them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data import load_data
from mlxtune.errors import DataError
from mlxtune.recipe.spec import DataSpec
from tests.helpers.tasks import find_in, make, parts, refusal

DATA = Path(__file__).parents[3] / "shared/data"
CHARTS, TEXTS = DATA / "chartqa_real", DATA / "ru_vqa_text"
GQA, GQA_PLAIN = "gqa_ru_testdev_300.jsonl", "gqa_ru_testdev_100_AndroidM13.jsonl"
MMBENCH, MMBENCH_PLAIN = "mmbench_ru_dev_128_Ignissi.jsonl", "mmbench_ru_dev_100_AndroidM13.jsonl"

needs_charts = pytest.mark.skipif(not CHARTS.exists(), reason=f"no {CHARTS}: real charts are not there")
needs_texts = pytest.mark.skipif(not TEXTS.exists(), reason=f"no {TEXTS}: real Russian rows are not there")


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


@needs_charts
def test_chartqa() -> None:
    found = [make("chartqa", row, find=find_in(CHARTS)) for row in rows_of(CHARTS / "rows.jsonl")]
    assert len(found) == 300 and len({image.key for example in found for image in example.images}) == 286
    assert Counter(example.meta["source"] for example in found) == {"human": 150, "augmented": 150}
    assert found[0].question == "Which generation of Russians lost most weight during the lockdown?"


@needs_charts
def test_chartqa_by_column_mapping() -> None:
    rows = rows_of(CHARTS / "official_rows_checked.jsonl")
    given = {"question": "official_query", "target": "official_label", "find": find_in(CHARTS / "images")}
    message = refusal("chartqa", rows[0], reason="field missing")
    assert (
        "no field 'query'; it has 'source', 'imgname', 'official_query'" in message
        and "Set data.question: official_query" in message
    )
    found = [make("chartqa", row, missing_image="text_only", **given) for row in rows]
    assert len(found) == 55 and found[0].question == "How many food item is shown in the bar graph?"


@needs_texts
@pytest.mark.parametrize("name", [GQA, GQA_PLAIN])
def test_gqa_ru_without_its_pictures(name: str, tmp_path: Path) -> None:
    rows, find = rows_of(TEXTS / name), find_in(tmp_path)
    if name == GQA:
        assert "picture 'n97485' does not exist" in refusal("gqa_ru", rows[0], find=find, reason="picture missing")
        policy = {"missing_image": "text_only"}
    else:
        message = refusal("gqa_ru", rows[0], find=find, reason="field missing")
        assert "no field 'image'; it has 'question', 'answer', 'base_pred'" in message
        policy = {"text_only": "keep"}
    found = [make("gqa_ru", row, find=find, **policy) for row in rows]
    assert len(found) == len(rows) and all(not example.images for example in found)
    assert all(
        parts(example) == [("user", [f"{row['question']}\nОтветь одним словом."])]
        for example, row in zip(found, rows, strict=True)
    )
    assert all(example.references == (row["answer"].strip(),) for example, row in zip(found, rows, strict=True))


@needs_texts
@pytest.mark.parametrize("name", [MMBENCH, MMBENCH_PLAIN])
def test_mmbench_ru_without_options_is_refused_and_qa_reads_it(name: str) -> None:
    """A letter means nothing without the options: the task that scores letters refuses, and says which task takes the rows."""
    for row in rows_of(TEXTS / name):
        message = refusal("mmbench_ru", row, text_only="keep", reason="field missing")
        assert "fewer than two of the options A, B, C, D are there" in message and "data.task: qa" in message
        example = make("qa", row)
        assert (example.question, example.target) == (row["question"], row["answer"])


@needs_texts
def test_mmbench_ru_rotations_of_real_rows() -> None:
    """With options put in, the real indices fall into groups as the data set's paper counts them."""
    rows = [row | {"A": "раз", "B": "два", "C": "три", "D": "четыре"} for row in rows_of(TEXTS / MMBENCH)]
    found = [make("mmbench_ru", row, text_only="keep") for row in rows]
    assert [example.group for example in found] == [str(row["index"] % 1_000_000) for row in rows]
    assert len({example.id for example in found}) == len({row["index"] for row in rows})


# -- the same through a recipe's data section -------------------------------------------------------------------------

WHOLE = {"train": "all", "validation": None, "test": None}


@needs_charts
def test_real_charts_load() -> None:
    data = load_data(DataSpec(task="chartqa", path=str(CHARTS / "rows.jsonl"), splits=WHOLE))
    assert len(data.splits["train"]) == 300 and not len(data.skipped)


@needs_texts
@pytest.mark.parametrize(
    ("name", "task", "policy", "message"),
    [
        (GQA, "gqa_ru", {"missing_image": "text_only"}, "n97485"),
        (GQA_PLAIN, "gqa_ru", {"text_only": "keep"}, "no field 'image'; it has 'question', 'answer'"),
        (MMBENCH, "mmbench_ru", {"task": "qa"}, "fewer than two of the options A, B, C, D are there"),
        (MMBENCH_PLAIN, "mmbench_ru", {"task": "qa"}, "fewer than two of the options A, B, C, D are there"),
    ],
)
def test_real_russian_rows_are_refused_with_a_message_and_accepted_by_policy(
    name: str, task: str, policy: dict[str, str], message: str
) -> None:
    keys: dict[str, Any] = {"task": task, "path": str(TEXTS / name), "splits": WHOLE}
    with pytest.raises(DataError) as error:
        load_data(DataSpec(**keys))
    assert message in str(error.value) and "\n" not in str(error.value)
    data = load_data(DataSpec(**keys | policy))
    assert len(data.splits["train"]) == len(rows_of(TEXTS / name)) and not len(data.skipped)
