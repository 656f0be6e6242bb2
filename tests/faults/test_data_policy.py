"""Rows that cannot be used: counted, listed, and refused when they are too many."""

from __future__ import annotations

import json

import pytest

from mlxtune.data import load_data
from tests.helpers.loading import NAMES, png, refusal, rows, spec, write


def with_pictures(folder, count: int, *, missing: int = 0) -> list[dict]:
    """Rows with a picture each; those of the first `missing` are not there."""
    folder.mkdir(exist_ok=True)
    for number in range(missing, count):
        (folder / f"{number}.png").write_bytes(png(number % 256))
    return [row | {"image": f"{n}.png"} for n, row in enumerate(rows(count))]


@pytest.mark.parametrize(
    ("broken", "most", "refused"), [(0, 0.0, False), (1, 0.0, True), (5, 0.05, False), (6, 0.05, True), (40, 0.4, False)]
)
def test_few_broken_rows_are_left_out_and_many_are_refused(tmp_path, broken, most, refused):
    write(tmp_path, with_pictures(tmp_path, 100, missing=broken))
    recipe = spec(tmp_path, max_skipped=most)
    if not refused:
        data = load_data(recipe)
        assert len(data.splits["train"]) == 100 - broken and len(data.skipped) == broken
        assert data.splits["train"][0].question == f"q{broken}"
        return
    message = refusal(recipe)
    assert f"{broken} of 100 rows cannot be used ({broken} %; data.max_skipped allows {100 * most:.3g} %)" in message
    assert f"picture missing {broken} (" in message and "train.jsonl:1: picture '" in message and "0.png'" in message
    assert "data.image_folder" in message and "data.max_skipped" in message and "data.missing_image: text_only" in message


def test_the_commonest_reasons_come_first_with_one_row_each(tmp_path):
    items = with_pictures(tmp_path, 40)
    for number in range(2, 9):
        del items[number]["answer"]
    items[9]["answer"] = {"a": 1}
    items[10]["question"] = "\ud800"
    for number in (11, 12):
        items[number]["image"] = "nowhere.png"
    write(tmp_path, items)
    message = refusal(spec(tmp_path))
    assert "11 of 40 rows cannot be used (27.5 %" in message
    order = ["field missing 7 (", ":3: no field 'answer'; it has 'question', 'image'", "picture missing 2 (", "1 other reasons"]
    assert sorted(order, key=message.index) == order
    data = load_data(spec(tmp_path, max_skipped=0.5))
    assert data.skipped.counts["train"] == {"field missing": 7, "picture missing": 2, "field wrong": 1, "broken text": 1}
    assert "11 rows of train left out (field missing 7, picture missing 2, " in data.notices[0]
    assert [row.where.rpartition(":")[2] for row in data.skipped] == [str(n) for n in range(3, 14)]
    json.dumps(list(data.skipped_lines()), ensure_ascii=False).encode()


@pytest.mark.parametrize("change", [{"target": "label"}, {"image_folder": "elsewhere"}, {"image": "picture"}])
def test_a_wrong_recipe_is_told_after_the_first_rows(tmp_path, change):
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path, with_pictures(tmp_path, 60))
    path.write_text(path.read_text() + "broken\n")
    if "image_folder" in change:
        change = {"image_folder": str(tmp_path / "elsewhere")}
    message = refusal(spec(tmp_path, max_skipped=0.9, **change))
    assert "none of the first 50 rows can be used: " in message and "train.jsonl:1: " in message


def test_a_recipe_that_accepts_all_reads_on(tmp_path):
    write(tmp_path, with_pictures(tmp_path, 70, missing=60))
    data = load_data(spec(tmp_path, max_skipped=1.0))
    assert len(data.splits["train"]) == 10 and len(data.skipped) == 60
    write(tmp_path, with_pictures(tmp_path, 60, missing=60))
    for number in range(70):
        (tmp_path / f"{number}.png").unlink(missing_ok=True)
    message = refusal(spec(tmp_path, max_skipped=1.0))
    assert "data.splits.train: 'train' of" in message and "there are no rows that can be used" in message


def test_after_a_row_that_can_be_used_all_are_read(tmp_path):
    items = with_pictures(tmp_path, 70, missing=60)
    write(tmp_path, [items[-1], *items])
    assert len(load_data(spec(tmp_path, max_skipped=0.9)).splits["train"]) == 11


def test_missing_pictures_may_be_done_without(tmp_path):
    items = with_pictures(tmp_path, 10, missing=4)
    (tmp_path / "5.png").write_bytes(b"broken")
    write(tmp_path, items)
    data = load_data(spec(tmp_path, missing_image="text_only"))
    train = data.splits["train"]
    assert [len(example.images) for example in train] == [0, 0, 0, 0, 1, 0, 1, 1, 1, 1]
    assert [sum(part["type"] == "image" for part in example.messages[-1]["content"]) for example in train] == [
        len(example.images) for example in train
    ]
    assert not data.skipped
    assert "5 pictures of train done without (picture missing 4, picture unreadable 1)" in data.notices
    assert data.record()["without_picture"] == {"train": {"picture missing": 4, "picture unreadable": 1}}


def test_rows_without_a_picture_by_policy_are_not_held_against_the_data(tmp_path):
    items = with_pictures(tmp_path, 10)
    for number in range(4):
        del items[number]["image"]
    for number in range(4, 7):
        items[number]["image"] = None
    write(tmp_path, items)
    assert len(load_data(spec(tmp_path)).splits["train"]) == 10
    data = load_data(spec(tmp_path, text_only="skip"))
    assert len(data.splits["train"]) == 3 and data.skipped.counts["train"] == {"no picture": 7}
    assert "7 of 10 rows cannot be used" in refusal(
        spec(tmp_path, task="chartqa", question="question", target="answer", max_skipped=0.5)
    )


def test_the_share_is_that_of_each_split_and_of_the_rows_read(tmp_path):
    write(tmp_path, with_pictures(tmp_path, 200, missing=0))
    write(tmp_path, [rows(1)[0] | {"image": "no.png"}, *rows(3)], "test")
    message = refusal(spec(tmp_path, splits=NAMES | {"test": "test"}))
    assert "1 of 4 rows cannot be used (25 %" in message
    data = load_data(spec(tmp_path, splits=NAMES | {"test": "test"}, max_skipped=0.25))
    assert data.skipped[0].split == "test" and data.skipped[-1] == data.skipped[0] and data.skipped[:1] == list(data.skipped)


def test_limits_count_rows_that_can_be_used(tmp_path):
    write(tmp_path, with_pictures(tmp_path, 40, missing=1))
    data = load_data(spec(tmp_path, limit={"train": 20}))
    assert len(data.splits["train"]) == 20 and data.splits["train"][0].question == "q1"


def test_a_mix_has_its_own_threshold(tmp_path):
    write(tmp_path / "own", rows(5))
    write(tmp_path / "other", with_pictures(tmp_path / "other", 10, missing=2))
    mix = {"path": str(tmp_path / "other"), "task": "qa"}
    assert "data.mix[0].max_skipped allows 5 %" in refusal(spec(tmp_path / "own", mix=[mix]))
    data = load_data(spec(tmp_path / "own", mix=[mix | {"max_skipped": 0.2}]))
    assert len(data.splits["train"]) == 13 and data.skipped.counts["train"] == {"picture missing": 2}


def test_a_picture_that_goes_while_it_is_in_use_says_which_row_it_was(tmp_path):
    write(tmp_path, with_pictures(tmp_path, 2))
    train = load_data(spec(tmp_path)).splits["train"]
    (tmp_path / "1.png").unlink()
    with pytest.raises(Exception, match=r"train.jsonl:2: picture '.*1.png' does not exist"):
        train[1].images[0].load()
