"""A recipe's data section to examples: splits, limits, filter, balance, mix, and what is told and recorded of them."""

from __future__ import annotations

import base64
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from mlxtune.data import data_fingerprint, load_data, load_set
from mlxtune.errors import DataError, RecipeError
from mlxtune.recipe.spec import TestSetSpec as SetSpec
from tests.helpers.loading import NAMES, pictured, png, questions, refusal, rows, spec, write

REAL = Path(__file__).parents[2].parent / "shared" / "data"

# -- splits -------------------------------------------------------------------------------------------------------------


def test_names_pick_splits_and_other_files_stay_out(tmp_path):
    for name, items in {"train": rows(3), "val": rows(1, start=3), "test": rows(2, start=4), "notes": [{"x": 1}]}.items():
        write(tmp_path, items, name)
    splits = {"train": "train", "validation": "val", "test": None}
    assert questions(load_data(spec(tmp_path, splits=splits))) == {"train": ["q0", "q1", "q2"], "validation": ["q3"]}
    everything = load_data(spec(tmp_path, splits={"train": None, "validation": None, "test": "all"}))
    assert questions(everything) == {"test": ["q0", "q1", "q2", "q3", "q4", "q5"]}
    own = load_data(spec(tmp_path, splits={}))
    assert {key: len(items) for key, items in own.splits.items()} == {"train": 3, "validation": 1, "test": 2}
    assert own.notices[0].endswith(": train is split 'train', validation is split 'val', test is split 'test'")


def test_a_limit_keeps_the_first_rows_and_reads_no_further(tmp_path):
    path = write(tmp_path, rows(3))
    path.write_text(path.read_text() + "broken\n")
    for splits in (NAMES, NAMES | {"train": "all"}, NAMES | {"train": "auto"}):
        assert questions(load_data(spec(tmp_path, splits=splits, limit={"train": 2}))) == {"train": ["q0", "q1"]}
        assert "train.jsonl:4: not JSON" in refusal(spec(tmp_path, splits=splits))


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("name", ["images/0.png", "0.png", "0"])
def test_pictures_of_one_name_are_those_beside_the_rows_of_their_split(tmp_path, form, name):
    for split, shade in (("train", 10), ("test", 20)):
        (tmp_path / f"d/{split}/images").mkdir(parents=True)
        (tmp_path / f"d/{split}/images/0.png").write_bytes(png(shade))
        write(tmp_path / f"d/{split}", [{**rows(1)[0], "image": name}], "labels")
    path = tmp_path / "d"
    if form == "zip":
        path = tmp_path / "d.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted((tmp_path / "d").rglob("*.*")):
                member = file.relative_to(tmp_path / "d").as_posix()
                archive.write(file, member.replace("labels", f"{member.partition('/')[0]}_labels"))
    data = load_data(spec(path, splits={"train": "train", "validation": None, "test": "test"}))
    shades = {split: examples[0].images[0].load().getpixel((0, 0))[0] for split, examples in data.splits.items()}
    assert shades == {"train": 10, "test": 20}
    (key,) = {examples[0].images[0].key for examples in data.splits.values() if examples.split == "test"}
    assert key == "test/images/0.png"


def test_root_is_where_relative_paths_start(tmp_path):
    (tmp_path / "d").mkdir()
    pictured(tmp_path / "d" / "pictures", pictures=1)
    write(tmp_path / "d", [{**rows(1)[0], "image": "0.png"}])
    recipe = spec("d/train.jsonl", image_folder="d/pictures")
    assert load_data(recipe, root=tmp_path).splits["train"][0].images[0].load().size == (6, 4)
    assert "data.image_folder" in refusal(spec("d/train.jsonl", image_folder="pictures"), root=tmp_path)


def test_a_split_that_the_data_lacks_is_cut_out_and_told(tmp_path):
    write(tmp_path, pictured(tmp_path), "rows")
    data = load_data(spec(tmp_path / "rows.jsonl", splits={}))
    pictures = {name: {example.images[0].key for example in examples} for name, examples in data.splits.items()}
    assert {name: len(examples) for name, examples in data.splits.items()} == {"train": 48, "validation": 6, "test": 6}
    assert sum(map(len, pictures.values())) == len(set.union(*pictures.values())) == 20
    (notice,) = data.notices
    assert notice.endswith(
        "train is 80 % of the rows of 'rows', validation is 10 % of the rows of 'rows', test is 10 % of the rows of 'rows', "
        "cut so that no picture is in two splits"
    )
    order = [int(name.removeprefix("q")) for name in questions(data)["train"]]
    assert order == sorted(order)
    other = load_data(spec(tmp_path / "rows.jsonl", splits={}, seed=1))
    assert questions(other)["test"] != questions(data)["test"]
    limited = load_data(spec(tmp_path / "rows.jsonl", splits={}, limit={"train": 5, "test": 2}))
    assert questions(limited)["test"] == questions(data)["test"][:2] and len(limited.splits["train"]) == 5


def test_equal_pictures_under_other_names_are_cut_as_one(tmp_path):
    items = pictured(tmp_path, pictures=40, each=1)
    for number in range(20):
        (tmp_path / f"{number + 20}.png").write_bytes(png(number))
    write(tmp_path, items)
    for seed in range(3):
        data = load_data(spec(tmp_path, splits={"train": 0.5, "validation": None, "test": 0.5}, seed=seed))
        shown = [{int(example.images[0].key.removesuffix(".png")) % 20 for example in part} for part in data.splits.values()]
        assert len(shown[0]) == len(shown[1]) == 10 and not shown[0] & shown[1]
        assert not data.shared


def test_equal_members_of_an_archive_are_one_picture(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.png", png(number % 2))
    write(tmp_path, [row | {"image": f"{n}.png"} for n, row in enumerate(rows(4))])
    data = load_data(
        spec(
            tmp_path / "train.jsonl",
            image_folder=str(tmp_path / "pictures.zip"),
            splits={"train": 0.5, "validation": None, "test": 0.5},
        )
    )
    assert sorted(map(sorted, questions(data).values())) == [["q0", "q2"], ["q1", "q3"]]
    assert data_fingerprint(data.splits) == data_fingerprint({key: list(part) for key, part in data.splits.items()})


def test_pictures_in_two_named_splits_are_told_and_recorded(tmp_path):
    items = pictured(tmp_path, pictures=6, each=1)
    (tmp_path / "copy.png").write_bytes(png(1))
    write(tmp_path, items[:4])
    write(tmp_path, [*items[3:], {**items[0], "image": "copy.png"}], "test")
    data = load_data(spec(tmp_path, splits={"train": "train", "validation": None, "test": "test"}))
    (notice,) = data.notices
    assert notice == "2 pictures are both in train and in test, such as '1.png' = 'copy.png': scores may be too good"
    assert data.record()["shared_pictures"] == [{"splits": ["train", "test"], "pictures": 2, "first": ["1.png", "copy.png"]}]


def test_an_empty_split_is_refused(tmp_path):
    write(tmp_path, [])
    assert "data.splits.train: 'train' of " in refusal(spec(tmp_path))
    write(tmp_path, rows(2))
    message = refusal(spec(tmp_path, splits={"train": 0.9, "validation": None, "test": 0.1}))
    assert "data.splits.test: '0.1' of " in message and "too few pictures for this fraction; rows: train 2, test 0" in message


def test_an_unknown_task_is_refused(tmp_path):
    write(tmp_path, rows(1))
    with pytest.raises(RecipeError, match="no task 'qaa'"):
        load_data(spec(tmp_path, task="qaa"))


# -- filter, balance, weight, mix ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "kept"),
    [
        ({"kind": ["a"]}, [0, 2, 4]),
        ({"kind": ["a", "b"]}, [0, 1, 2, 3, 4]),
        ({"kind": ["a"], "level": [2]}, [2, 4]),
        ({"level": ["2"]}, [1, 2, 4]),
        ({"level": [1.0]}, [0]),
        ({"flag": [True]}, [0, 1]),
        ({"flag": ["true"]}, [0, 1]),
        ({"tags": ["y"]}, [1, 2]),
    ],
)
def test_a_filter_keeps_rows_of_accepted_values(tmp_path, accepted, kept):
    more = [
        {"kind": "a", "level": 1, "flag": True, "tags": ["x"]},
        {"kind": "b", "level": "2", "flag": "True", "tags": ["x", "y"]},
        {"kind": "a ", "level": 2.0, "flag": False, "tags": "y"},
        {"kind": "b", "level": None, "flag": 1, "tags": []},
        {"kind": "a", "level": 2},
        {"kind": "c", "level": 3},
    ]
    write(tmp_path, [row | extra for row, extra in zip(rows(6), more, strict=True)])
    assert questions(load_data(spec(tmp_path, filter=accepted)))["train"] == [f"q{n}" for n in kept]


def test_a_filter_that_cannot_be_right(tmp_path):
    write(tmp_path, rows(3, kind="a"))
    message = refusal(spec(tmp_path, filter={"type": ["a"]}))
    assert "data.filter: no row of " in message and "has a column 'type'; there are 'question', 'answer', 'kind'." in message
    message = refusal(spec(tmp_path, filter={"kind": ["A"]}))
    assert "accepts none of the 3 rows" in message and "'kind' holds 'a'. Accept one of these" in message
    path = write(tmp_path, rows(1000))
    path.write_text(path.read_text() + "broken\n")
    assert "has a column 'type'" in refusal(spec(tmp_path, filter={"type": ["a"]}))


def test_balance_repeats_the_rarer_values(tmp_path):
    items = [row | {"class": kind} for row, kind in zip(rows(9), "aaaaaabbc", strict=True)]
    write(tmp_path, items)
    data = load_data(spec(tmp_path, balance="class"))
    kinds = {f"q{n}": kind for n, kind in enumerate("aaaaaabbc")}
    assert Counter(kinds[name] for name in questions(data)["train"]) == {"a": 6, "b": 6, "c": 6}
    assert data.record()["splits"]["train"]["rows"] == 18 and data.record()["splits"]["train"]["distinct"] == 9
    lines = list(data.split_lines())
    assert len(lines) == 9 and {line["id"]: line.get("times") for line in lines}["train-9"] == 6
    assert "data.balance: no training row of " in refusal(spec(tmp_path, balance="klass"))
    write(tmp_path, rows(2, klass="a"), "test")
    assert "data.balance: no training row of " in refusal(spec(tmp_path, balance="klass", splits=NAMES | {"test": "test"}))


def test_a_mix_stands_behind_the_own_rows(tmp_path):
    write(tmp_path / "own", [row | {"id": f"r{n}"} for n, row in enumerate(rows(4))])
    write(tmp_path / "other", [{"id": "r1", "query": "m0", "label": "x"}, {"query": "m1", "label": "y"}])
    write(tmp_path / "other", [{"query": "never", "label": "y"}], "test")
    write(tmp_path / "whole", rows(10, start=50), "rows")
    mix = [
        {"path": str(tmp_path / "other"), "task": "chartqa", "text_only": "keep", "weight": 2.0},
        {"path": str(tmp_path / "whole" / "rows.jsonl"), "task": "qa", "weight": 0.5, "limit": 6},
    ]
    data = load_data(spec(tmp_path / "own", mix=mix))
    asked = questions(data)["train"]
    assert asked[:8] == ["q0", "q1", "q2", "q3", "m0", "m0", "m1", "m1"]
    assert len(asked) == 11 and set(asked[8:]) < {f"q{n}" for n in range(50, 56)} and [count for _, count in data.mixed] == [2, 6]
    ids = [example.id for example in data.splits["train"]]
    assert ids[:8] == ["r0", "r1", "r2", "r3", "r1#2", "r1#2", "train-6", "train-6"]
    assert data.splits["train"][4].messages[-1]["content"][-1]["text"].endswith("single word.")
    half = questions(load_data(spec(tmp_path / "own", mix=mix[:1], weight=0.5)))["train"]
    assert len(half) == 6 and half[2:] == ["m0", "m0", "m1", "m1"]


def test_a_mix_that_shows_what_is_asked_is_told(tmp_path):
    items = pictured(tmp_path / "own", pictures=4, each=1)
    write(tmp_path / "own", items[:2])
    write(tmp_path / "own", items[2:], "test")
    write(tmp_path / "other", [{**items[0], "image": "0.png"}])  # another picture of the same name
    (tmp_path / "other" / "0.png").write_bytes(png(99))
    splits = {"train": "train", "validation": None, "test": "test"}
    mix = [{"path": str(tmp_path / "other"), "task": "qa"}]
    assert load_data(spec(tmp_path / "own", splits=splits, mix=mix)).notices == ()
    (tmp_path / "other" / "0.png").write_bytes(png(3))
    (notice,) = load_data(spec(tmp_path / "own", splits=splits, mix=mix)).notices
    assert "1 picture is both in train and in test, such as '0.png' = '3.png'" in notice


def test_a_mix_is_not_read_where_nothing_is_trained(tmp_path):
    write(tmp_path / "own", rows(3), "test")
    mix = [{"path": str(tmp_path / "nowhere.jsonl"), "task": "qa"}]
    splits = {"train": None, "validation": None, "test": "test"}
    assert len(load_data(spec(tmp_path / "own", splits=splits, mix=mix)).splits["test"]) == 3
    assert "nowhere.jsonl" in refusal(spec(tmp_path / "own", splits={"train": "test", "validation": None, "test": None}, mix=mix))


def test_a_mix_without_rows_names_its_entry(tmp_path):
    write(tmp_path / "own", rows(1))
    write(tmp_path / "other", [])
    assert "data.mix[0]: " in refusal(spec(tmp_path / "own", mix=[{"path": str(tmp_path / "other"), "task": "qa"}]))
    mix = [{"path": str(tmp_path / "own"), "task": "qa", "split": "tset"}]
    assert "data.mix[0].split: " in refusal(spec(tmp_path / "own", mix=mix))


# -- further test sets ---------------------------------------------------------------------------------------------------


def test_a_further_set(tmp_path):
    items = pictured(tmp_path / "own", pictures=4, each=1)
    write(tmp_path / "own", items[:3])
    write(tmp_path / "other", [{**items[0], "image": "../own/1.png"}, items[1] | {"image": "x.png"}] * 2, "test")
    (tmp_path / "other" / "x.png").write_bytes(png(77))
    data = load_data(spec(tmp_path / "own"))
    made = SetSpec(task="qa", path=str(tmp_path / "other"), limit=3)
    for beside in (None, data):
        other = load_set(made, name="wiki", root=None, beside=beside)
        assert [example.id for example in other.splits["wiki"]] == ["wiki-1", "wiki-2", "wiki-3"]
    assert any("1 picture is both in train and in wiki, such as '1.png' = " in notice for notice in other.notices)
    assert other.record()["splits"]["wiki"]["rows"] == 3
    assert other.splits["wiki"][0].images != data.splits["train"][0].images
    with pytest.raises(DataError, match="evaluate.sets.wiki.split: .* has no split 'dev'"):
        load_set(made.model_copy(update={"split": "dev"}), name="wiki")


# -- record and progress -------------------------------------------------------------------------------------------------


def test_the_record(tmp_path):
    items = pictured(tmp_path, pictures=4, each=10)
    items[5]["image"] = "missing.png"
    path = write(tmp_path, items)
    data = load_data(spec(tmp_path, splits={"train": "train", "validation": None, "test": "train"}))
    record = json.loads(json.dumps(data.record()))
    assert record["sha256"] == data_fingerprint(data.splits)
    train = record["splits"]["train"]
    assert (train["rows"], train["distinct"], train["pictures"]) == (39, 39, 4)
    assert train["how"] == "split 'train'" and train["auto"] is False and train["sha256"] != record["splits"]["test"]["sha256"]
    assert record["skipped"] == {"train": {"picture missing": 1}, "test": {"picture missing": 1}}
    lines = list(data.split_lines())
    assert [line["split"] for line in lines] == ["train"] * 39 + ["test"] * 39
    assert lines[5]["id"] == "train-6" and lines[5]["where"].endswith("train.jsonl:7") and len(lines[5]["sha256"]) == 64
    assert lines[5]["sha256"] == lines[44]["sha256"]
    skipped = list(data.skipped_lines())
    assert [line["split"] for line in skipped] == ["train", "test"] and skipped[0]["where"].endswith(f"{path.name}:6")
    assert skipped[0]["reason"] == "picture missing" and "missing.png" in skipped[0]["message"]


def test_progress_is_told_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    write(tmp_path, rows(300))
    told = []
    load_data(spec(tmp_path), progress=lambda read, total: told.append((read, total)))
    assert told[-1] == (300, 300) and len(told) < 20
    monkeypatch.setattr("mlxtune.data.read._EVERY_S", -1.0)
    told.clear()
    load_data(spec(tmp_path), progress=lambda read, total: told.append((read, total)))
    assert told[:2] == [(1, None), (2, None)] and len(told) == 301


# -- pictures ------------------------------------------------------------------------------------------------------------


def test_pictures_that_stand_in_rows_are_put_aside(tmp_path):
    text = [base64.b64encode(png(shade)).decode() for shade in (10, 20)]
    write(tmp_path, [row | {"image": text[n % 2]} for n, row in enumerate(rows(40))])
    data = load_data(spec(tmp_path))
    images = [example.images[0] for example in data.splits["train"]]
    assert not any(isinstance(image.source, bytes) for image in images)
    assert [image.load().getpixel((0, 0))[0] for image in images[:4]] == [10, 20, 10, 20]
    assert data.splits["train"].pictures() == 2 and images[0].size == (6, 4)
    assert len({(image.source.start) for image in images}) == 2  # each is written once


def test_a_broken_picture_is_found_before_it_is_used(tmp_path):
    items = pictured(tmp_path, pictures=30, each=1)
    (tmp_path / "3.png").write_bytes(png(3)[:-30])
    (tmp_path / "4.png").write_bytes(b"no picture")
    write(tmp_path, items)
    data = load_data(spec(tmp_path, max_skipped=0.1))
    assert [(row.split, row.reason) for row in data.skipped] == [("train", "picture unreadable")] * 2
    assert len(data.splits["train"]) == 28 and "2 rows of train left out (picture unreadable 2)" in data.notices


def test_pictures_of_a_table_are_read_where_they_are(tmp_path):
    import pyarrow
    from pyarrow import parquet

    items = [row | {"image": {"bytes": png(n // 2), "path": None}} for n, row in enumerate(rows(9))]
    parquet.write_table(pyarrow.Table.from_pylist(items), tmp_path / "train.parquet", row_group_size=4)
    train = load_data(spec(tmp_path)).splits["train"]
    assert [example.images[0].load().getpixel((0, 0))[0] for example in train] == [n // 2 for n in range(9)]
    assert [example.images[0].where.rpartition("#")[2] for example in train] == [str(n) for n in range(1, 10)]
    assert not any(isinstance(example.images[0].source, bytes) for example in train) and train.pictures() == 5


def test_a_stream_is_read_as_far_as_its_limits_need(tmp_path):
    path = write(tmp_path, rows(200), "rows")
    path.write_text(path.read_text() + "broken\n")
    limit = {"train": 80, "validation": 5, "test": 10}
    data = load_data(spec(path, splits={}, streaming=True, limit=limit))
    assert {key: len(part) for key, part in data.splits.items()} == limit
    assert "not JSON" in refusal(spec(path, splits={}, streaming=True, limit={"train": 80}))
    assert "not JSON" in refusal(spec(path, splits={}, limit=limit))


# -- data of other people ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real rows are not there ({REAL})")
def test_real_charts_of_many_sizes():
    path = REAL / "chartqa_real" / "rows.jsonl"
    data = load_data(spec(path, task="chartqa", splits={"train": 0.6, "validation": 0.2, "test": 0.2}))
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [180, 60, 60]
    pictures = [{example.images[0] for example in examples} for examples in data.splits.values()]
    assert sum(map(len, pictures)) == len(set.union(*pictures)) == 286
    written = {str(row["id"]): row for row in map(json.loads, path.read_text().splitlines())}
    for example in (example for examples in data.splits.values() for example in examples):
        row = written[example.id]
        assert (example.question, example.references) == (row["query"], (row["label"].strip(),))
        assert example.images[0].size == (row["width"], row["height"])


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real rows are not there ({REAL})")
@pytest.mark.parametrize(("name", "task", "count"), [("gqa_ru_testdev_300", "gqa_ru", 300)])
def test_real_rows_whose_pictures_are_elsewhere(name, task, count):
    path = REAL / "ru_vqa_text" / f"{name}.jsonl"
    alone = {"splits": {"train": None, "validation": None, "test": "all"}, "task": task}
    message = refusal(spec(path, **alone))
    assert "picture" in message and "rows can be used" in message
    data = load_data(spec(path, **alone, missing_image="text_only", text_only="keep"))
    assert len(data.splits["test"]) == count and not any(example.images for example in data.splits["test"])
