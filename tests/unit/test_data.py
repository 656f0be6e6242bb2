"""Rows of every form of file, splits without shared pictures, and messages that lead to the next step."""

import io
import json
import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mlxtune.data import data_fingerprint, load_examples
from mlxtune.data.sources import open_source
from mlxtune.data.splits import split_by_image
from mlxtune.errors import DataError, RecipeError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "chartqa_real" / "rows.jsonl"


def spec(path, **given):
    """A DataSpec; `train=…`, `validation=…`, `test=…` are splits, `limit={…}` the limits."""
    splits = {name: given.pop(name, None) for name in ("train", "validation", "test")}
    limit = {"train": None, "validation": None, "test": None} | given.pop("limit", {})
    columns = dict.fromkeys(("config", "image_folder", "image", "question", "target", "id", "suffix"))
    whole = {"task": "qa", "path": str(path), "seed": 0} | columns | given
    return SimpleNamespace(**whole, splits=SimpleNamespace(**splits), limit=SimpleNamespace(**limit))


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (6, 4), shade).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int, *, start: int = 0) -> list[dict]:
    return [{"question": f"q{n}", "answer": f"a{n}"} for n in range(start, start + count)]


def lines(items) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def parquet(path: Path, items: list[dict], **options) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(items), path, **options)
    return path


def questions(loaded) -> dict[str, list[str]]:
    return {name: [example.question for example in examples] for name, examples in loaded.items()}


def refusal(recipe, **given) -> str:
    with pytest.raises(DataError) as error:
        load_examples(recipe, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(folder: Path, form: str, items: list[dict], name: str = "train") -> Path:
    path = folder / f"{name}.{form}"
    if form == "parquet":
        return parquet(path, items)
    separator = "\t" if form == "tsv" else ","
    text = {
        "jsonl": lambda: "\n" + lines(items),
        "json": lambda: json.dumps(items),
        "csv": lambda: separator.join(items[0]) + "\n" + "".join(separator.join(item.values()) + "\n" for item in items),
    }
    path.write_text(text["csv" if form == "tsv" else form](), encoding="utf-8-sig" if form == "csv" else "utf-8")
    return path


@pytest.mark.parametrize(
    ("form", "second"),
    [("jsonl", ":3"), ("json", "#2"), ("csv", ":3"), ("tsv", ":3"), ("parquet", "#2")],
    ids=lambda value: value,
)
@pytest.mark.parametrize("whole_folder", [True, False])
def test_every_form_gives_the_same_rows(tmp_path, monkeypatch, form, second, whole_folder):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, form, rows(3))
    loaded = load_examples(spec(tmp_path if whole_folder else path.name, train="train"))
    assert [(example.id, example.question, example.target) for example in loaded["train"]] == [
        ("train-1", "q0", "a0"),
        ("train-2", "q1", "a1"),
        ("train-3", "q2", "a2"),
    ]
    assert list(open_source(path.name).tables["train"]())[1].where == path.name + second


def test_names_pick_files_and_other_files_stay_out(tmp_path):
    for name, items in {"train": rows(3), "val": rows(1, start=3), "test": rows(2, start=4), "notes": [{"x": 1}]}.items():
        write(tmp_path, "jsonl", items, name)
    assert questions(load_examples(spec(tmp_path, train="train", validation="val"))) == {
        "train": ["q0", "q1", "q2"],
        "validation": ["q3"],
    }
    assert questions(load_examples(spec(tmp_path, test="all"))) == {"test": ["q0", "q1", "q2", "q3", "q4", "q5"]}


def test_a_split_in_pieces_as_the_hub_writes_it(tmp_path):
    (tmp_path / "data").mkdir()
    for part in range(2):
        parquet(tmp_path / "data" / f"train-0000{part}-of-00002.parquet", rows(2, start=2 * part))
    assert questions(load_examples(spec(tmp_path, train="train"))) == {"train": ["q0", "q1", "q2", "q3"]}


def test_limit_keeps_the_first_rows_and_reads_no_further(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(rows(3)) + "broken\n")
    loaded = load_examples(spec(tmp_path, train="train", limit={"train": 2}))
    assert questions(loaded) == {"train": ["q0", "q1"]}
    assert "train.jsonl:4: not JSON" in refusal(spec(tmp_path, train="train"))


def test_root_is_where_relative_paths_start(tmp_path):
    (tmp_path / "d" / "pictures").mkdir(parents=True)
    (tmp_path / "d" / "pictures" / "a.png").write_bytes(png())
    write(tmp_path / "d", "jsonl", [{**rows(1)[0], "image": "a.png"}])
    recipe = spec("d/train.jsonl", train="all", image_folder="d/pictures")
    assert load_examples(recipe, root=tmp_path)["train"][0].images[0].load().size == (6, 4)
    recipe.image_folder = "pictures"
    assert "data.image_folder: no such folder" in refusal(recipe, root=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "q", "answer": "a"}\n[1]\n', "train.jsonl:2: a row must be an object with named fields, not list [1]"),
        ('{"a": 1\n', "train.jsonl:1: not JSON"),
        ("[" * 100_000 + "\n", "train.jsonl:1: not JSON"),
        ('\n{"question": "a"}\n', "train.jsonl:2: no field 'answer'; it has 'question'."),
        ("", "data.splits.train: 'train' of "),
        (b'{"question": "\xff"}\n', "train.jsonl:1: not UTF-8"),
    ],
    ids=["list", "cut off", "deep", "no answer", "empty", "latin"],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    (tmp_path / "train.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in refusal(spec(tmp_path, train="train"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.json", '{"version": 1, "data": [{"question": "q", "answer": "a"}]}', None),
        ("train.json", '{"a": [], "b": []}', "holds 2 lists ('a', 'b'); one list of rows is expected"),
        ("train.json", '{"a": 1}', "holds no list"),
        ("train.json", "3", "a list of rows is expected, not int 3"),
        ("train.json", '[{"question": "q", "answer": "a"}, 3]', "train.json#2: a row must be an object"),
        ("train.csv", "question,answer\nq,a,b\n", "train.csv:2: 3 cells, but the header has 2"),
        ("train.csv", 'question,answer\n"q\nr",a\nq\n', "train.csv:4: 1 cells, but the header has 2"),
        ("train.csv", "question,question\nq,a\n", "a column's name stands twice"),
        ("train.csv", 'question,answer\n"q"x,a\n', "train.csv:2: not CSV"),
        ("train.parquet", "PAR1 but not really", "not a Parquet file that can be read"),
        ("train.txt", "q a", "is of no known form"),
    ],
)
def test_a_file_of_another_shape(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    recipe = spec(tmp_path / name, train="train")
    if message is None:
        assert questions(load_examples(recipe)) == {"train": ["q"]}
    else:
        assert message in refusal(recipe)


def test_a_long_cell_of_a_csv_file(tmp_path):
    (tmp_path / "train.csv").write_text(f"question,answer\nq,{'a' * 200_000}\n")
    assert len(load_examples(spec(tmp_path, train="train"))["train"][0].target) == 200_000


@pytest.mark.parametrize(
    ("files", "splits", "message"),
    [
        (["train", "validation"], {"validation": "val"}, "it has 'train', 'validation'. Set data.splits.validation: validation"),
        (["train", "val"], {"validation": "validation"}, "Set data.splits.validation: val"),
        (["train", "test"], {"train": "trian"}, "Set data.splits.train: train"),
        (["one", "two"], {"train": "all"}, "holds 'one', 'two', none of them a usual split"),
        (["rows"], {"train": "train"}, "Set data.splits.train to a fraction such as 0.8, to 'all', or to null"),
        (["train"], {"train": 0.8, "test": 0.3}, "the fractions 0.8, 0.3 sum to more than 1"),
        (["train"], {"train": 0.8, "test": "all"}, "'all' beside fractions"),
        (["train"], {"train": 1.5}, "data.splits.train: 1.5 is not a fraction"),
        (["train"], {"train": "train", "test": 0.2}, "every split of"),
        (["train"], {"train": 0.9, "test": 0.1}, "data.splits.test: '0.1' of"),
        (["train"], {}, "every split is switched off"),
        ([], {"train": "all"}, "holds no .jsonl, .json"),
    ],
)  # fmt: skip
def test_splits_that_cannot_be(tmp_path, files, splits, message):
    for name in files:
        write(tmp_path, "jsonl", rows(2), name)
    assert message in refusal(spec(tmp_path, **splits))


def test_a_limit_of_nothing_is_explained(tmp_path):
    write(tmp_path, "jsonl", rows(2))
    assert "data.limit.train: 0 rows. To leave the split out, set data.splits.train: null" in refusal(
        spec(tmp_path, train="train", limit={"train": 0})
    )


def test_two_files_of_one_split(tmp_path):
    for form in ("jsonl", "csv"):
        write(tmp_path, form, rows(2))
    assert "are all split 'train'" in refusal(spec(tmp_path, train="train"))


def pictured(folder: Path, *, pictures: int = 20, each: int = 3) -> list[dict]:
    for number in range(pictures):
        (folder / f"{number}.png").write_bytes(png(number))
    return [{"question": f"q{n}", "answer": "a", "image": f"{n % pictures}.png"} for n in range(pictures * each)]


def test_fractions_share_no_picture_and_do_not_hang_on_the_order_of_rows(tmp_path):
    items = pictured(tmp_path)
    recipe = spec(tmp_path, train=0.6, validation=0.2, test=0.2)
    write(tmp_path, "jsonl", items)
    loaded = load_examples(recipe)
    pictures = {name: {example.images[0].key for example in examples} for name, examples in loaded.items()}
    assert {name: len(examples) for name, examples in loaded.items()} == {"train": 36, "validation": 12, "test": 12}
    assert sum(map(len, pictures.values())) == len(set.union(*pictures.values())) == 20
    order = [int(name.removeprefix("q")) for name in questions(loaded)["train"]]
    assert order == sorted(order)

    write(tmp_path, "jsonl", random.Random(1).sample(items, len(items)))
    again = questions(load_examples(recipe))
    assert {name: set(names) for name, names in again.items()} == {name: set(names) for name, names in questions(loaded).items()}
    recipe.seed = 1
    assert set(questions(load_examples(recipe))["train"]) != set(again["train"])


def test_rows_that_fractions_leave_over_are_in_no_split(tmp_path):
    write(tmp_path, "jsonl", rows(10))
    loaded = load_examples(spec(tmp_path, train=0.5, test=0.2))
    assert {name: len(examples) for name, examples in loaded.items()} == {"train": 5, "test": 2}


def test_fractions_divide_what_no_split_takes_by_name(tmp_path):
    write(tmp_path, "jsonl", rows(10))
    write(tmp_path, "jsonl", rows(2, start=10), "test")
    loaded = questions(load_examples(spec(tmp_path, train=0.8, validation=0.2, test="test")))
    assert loaded["test"] == ["q10", "q11"] and len(loaded["train"]) == 8 and not {"q10", "q11"} & {*loaded["train"]}


def test_pictures_linked_by_one_row_stay_together(tmp_path):
    chain = [{"question": f"q{n}", "answer": "a", "image": [f"{n}.png", f"{n + 1}.png"]} for n in range(6)]
    pictured(tmp_path)
    write(tmp_path, "jsonl", chain + [{"question": f"r{n}", "answer": "a", "image": f"{n + 10}.png"} for n in range(6)])
    examples = load_examples(spec(tmp_path, train="all"))["train"]
    for seed in range(5):
        parts = split_by_image(examples, fractions={"a": 0.5, "b": 0.5}, seed=seed)
        assert {len([e for e in part if e.question[0] == "q"]) for part in parts.values()} == {0, 6}


def test_ids_are_made_unique_within_a_split(tmp_path):
    items = [{**row, "id": name} for row, name in zip(rows(6), ["a#2", "a", "a", None, 7.0, "a"], strict=True)]
    write(tmp_path, "jsonl", items)
    ids = [example.id for example in load_examples(spec(tmp_path, train="train"))["train"]]
    assert ids == ["a#2", "a", "a#3", "train-4", "7", "a#4"]


def test_missing_pictures_are_counted_and_the_first_named(tmp_path):
    items = pictured(tmp_path, pictures=6)
    for number in (1, 2, 3, 4):
        (tmp_path / f"{number}.png").unlink()
    write(tmp_path, "jsonl", items)
    message = refusal(spec(tmp_path, train="train"))
    assert (
        "4 of 6 pictures are missing" in message
        and "'1.png' (" in message
        and "train.jsonl:3), '2.png'" in message
        and "'4.png'" not in message
    )
    assert "Set data.image_folder" in message
    assert len(load_examples(spec(tmp_path, train="train", limit={"train": 1}))["train"]) == 1


@pytest.mark.parametrize("form", [{"bytes": png(7), "path": "a.png"}, png(7)], ids=["struct", "binary"])
def test_pictures_in_parquet_are_read_when_asked(tmp_path, form):
    items = [{**row, "image": form if n == 1 else ({"bytes": png(n), "path": None} if isinstance(form, dict) else png(n))}
             for n, row in enumerate(rows(7))]  # fmt: skip
    path = parquet(tmp_path / "train.parquet", items, row_group_size=3)
    examples = load_examples(spec(tmp_path, train="train"))["train"]
    assert not any(isinstance(example.images[0].source, bytes) for example in examples)
    shades = [pickle.loads(pickle.dumps(example)).images[0].load().getpixel((0, 0))[0] for example in examples]
    assert shades == [0, 7, 2, 3, 4, 5, 6]
    assert examples[1].images[0].key.startswith("sha256:") and examples[4].images[0].where.endswith("train.parquet#5")
    path.unlink()
    from mlxtune.data import sources

    sources._parquet_column.cache_clear()
    with pytest.raises(DataError, match=r"train.parquet#1: picture 'sha256:"):
        examples[0].images[0].load()


def hub(monkeypatch, answer):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", answer)
    return datasets


def test_a_hub_data_set(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "query": datasets.Value("string"), "label": datasets.List(datasets.Value("string")),
         "human_or_machine": datasets.ClassLabel(names=["human", "machine"])}
    )  # fmt: skip
    items = [
        {"image": {"bytes": png(n % 2), "path": None}, "query": f"q{n}", "label": ["1", "2"], "human_or_machine": n % 2}
        for n in range(4)
    ]
    asked = []

    def load(path, config):
        asked.append((path, config))
        return datasets.DatasetDict(train=datasets.Dataset.from_list(items, features=features))

    hub(monkeypatch, load)
    examples = load_examples(spec("HuggingFaceM4/ChartQA", task="chartqa", train="train", config="c"))["train"]
    assert asked == [("HuggingFaceM4/ChartQA", "c")]
    assert examples[1].references == ("1", "2") and examples[1].meta == {"human_or_machine": "machine"}
    assert examples[1].images[0].where == "HuggingFaceM4/ChartQA:train#2"
    assert [pickle.loads(pickle.dumps(example)).images[0].load().getpixel((0, 0))[0] for example in examples] == [0, 1, 0, 1]
    assert examples[0].images == examples[2].images != examples[1].images
    parts = load_examples(spec("HuggingFaceM4/ChartQA", task="chartqa", train=0.5, test=0.5))
    assert {name: {e.question for e in part} for name, part in parts.items()} in (
        {"train": {"q0", "q2"}, "test": {"q1", "q3"}},
        {"train": {"q1", "q3"}, "test": {"q0", "q2"}},
    )


@pytest.mark.parametrize(
    "error", [ConnectionError("offline\nmore"), FileNotFoundError("no such"), ValueError("unknown config"), "own"]
)
def test_a_hub_data_set_that_is_not_to_be_had(monkeypatch, error):
    datasets = pytest.importorskip("datasets")

    def load(path, config):
        raise datasets.exceptions.DatasetNotFoundError("not found") if error == "own" else error

    hub(monkeypatch, load)
    message = refusal(spec("owner/name", train="train"))
    assert "'owner/name' is neither a file here nor a data set that the hub gives (" in message and "Check the name" in message


@pytest.mark.parametrize("path", ["missing.jsonl", "a/b.jsonl", "a/b/c", "/nowhere/at/all", "squad"])
def test_a_path_that_is_not_there_does_not_ask_the_hub(monkeypatch, path):
    hub(monkeypatch, lambda *_: pytest.fail("asked the hub"))
    assert "no such file or folder" in refusal(spec(path, train="train"))


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no task 'qaa'"):
        load_examples(spec(tmp_path, task="qaa", train="all"))


def test_the_fingerprint_changes_with_whatever_is_learned_or_asked(tmp_path):
    items = pictured(tmp_path, pictures=2, each=1)

    def fingerprint(*rows_):
        write(tmp_path, "jsonl", list(rows_))
        return data_fingerprint(load_examples(spec(tmp_path, train="train")))

    first, second = items
    seen = [fingerprint(*items), fingerprint(first), fingerprint(second, first), fingerprint({**first, "question": "x"}, second)]
    seen += [fingerprint({**first, "answer": "x"}, second), fingerprint({**first, "answer": ["a", "x"]}, second)]
    seen += [fingerprint({**first, "image": "1.png"}, second), fingerprint({**first, "id": "x"}, second)]
    assert fingerprint(*items) == seen[0]
    (tmp_path / "0.png").write_bytes(png() + b"more")
    seen.append(fingerprint(*items))
    assert len(set(seen)) == len(seen) and all(len(one) == 64 for one in seen)


def test_the_real_spec_has_the_names_used_here():
    recipe = pytest.importorskip("mlxtune.recipe.spec")
    made = recipe.DataSpec(path="x", splits={"train": "train", "validation": None, "test": None})
    stub = spec("x")
    assert vars(stub).keys() == set(type(made).model_fields)
    assert vars(stub.splits).keys() == set(type(made.splits).model_fields) and vars(stub.limit).keys() == set(
        type(made.limit).model_fields
    )


@pytest.mark.skipif(not REAL.is_file(), reason=f"real ChartQA rows are not there ({REAL})")
def test_real_charts_of_many_sizes():
    recipe = spec(REAL, task="chartqa", train=0.6, validation=0.2, test=0.2)
    loaded = load_examples(recipe)
    assert [len(loaded[name]) for name in ("train", "validation", "test")] == [180, 60, 60]
    pictures = [{example.images[0] for example in examples} for examples in loaded.values()]
    assert sum(map(len, pictures)) == len(set.union(*pictures)) == 286
    written = {str(row["id"]): row for row in map(json.loads, REAL.read_text().splitlines())}
    for example in (example for examples in loaded.values() for example in examples):
        row = written[example.id]
        assert (example.question, example.references) == (row["query"], (row["label"].strip(),))
        assert example.images[0].size == (row["width"], row["height"])
    sample = loaded["test"][0].images[0]
    assert sample.load().size == sample.size and sample.load().mode == "RGB"
