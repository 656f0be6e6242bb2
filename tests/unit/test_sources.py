"""Rows of every form of file, folder, archive and hub data set, and messages that lead to the next step."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from mlxtune.data.base import SourceRow
from mlxtune.data.sources import open_source
from mlxtune.errors import DataError
from mlxtune.images import StoredImage, image_ref
from mlxtune.recipe.spec import RowsSpec

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (6, 4), shade).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int, *, start: int = 0) -> list[dict]:
    return [{"question": f"q{n}", "answer": f"a{n}"} for n in range(start, start + count)]


def lines(items) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def parquet(path: Path, items: list[dict], **options) -> Path:
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(items), path, **options)
    return path


def write(folder: Path, form: str, items: list[dict], name: str = "train") -> Path:
    path = folder / f"{name}.{form}"
    path.parent.mkdir(parents=True, exist_ok=True)
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


def source(path, **given):
    return open_source(RowsSpec(path=str(path), **given))


def read(path, table: str | None = None, **given) -> list[SourceRow]:
    opened = source(path, **given)
    return [row for name in ([table] if table else opened.everything()) for row in opened.tables[name]()]


def questions(path, table: str | None = None, **given) -> list[str]:
    return [row.values["question"] for row in read(path, table, **given)]


def refusal(path, **given) -> str:
    with pytest.raises(DataError) as error:
        read(path, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def pictures(folder: Path, *paths: str) -> None:
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(png(number))


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


# -- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "second"),
    [("jsonl", ":3"), ("json", "#2"), ("csv", ":3"), ("tsv", ":3"), ("parquet", "#2")],
    ids=lambda value: value,
)
@pytest.mark.parametrize("whole_folder", [True, False])
def test_every_form_gives_the_same_rows(tmp_path, monkeypatch, form, second, whole_folder):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, form, rows(3))
    found = read(tmp_path if whole_folder else path.name, "train")
    assert [dict(row.values) for row in found] == rows(3)
    assert found[1].where == path.name + second


def test_relative_paths_start_from_root(tmp_path):
    write(tmp_path / "d", "jsonl", rows(2))
    opened = open_source(RowsSpec(path="d/train.jsonl"), root=tmp_path)
    assert len(list(opened.tables["train"]())) == 2 and opened.folder == tmp_path / "d"


BAD_LINES = {
    "list": ('{"question": "q"}\n[1]\n', "train.jsonl:2: a row must be an object with named fields, not list [1]"),
    "cut off": ('{"a": 1\n', "train.jsonl:1: not JSON"),
    "deep": ("[" * 100_000 + "\n", "train.jsonl:1: not JSON"),
    "latin": (b'{"question": "\xff"}\n', "train.jsonl:1: not UTF-8"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named(tmp_path, name):
    text, message = BAD_LINES[name]
    (tmp_path / "train.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.json", '{"a": [], "b": []}', "holds 2 lists ('a', 'b'); one list of rows is expected"),
        ("train.json", '{"a": 1}', "holds no list"),
        ("train.json", "3", "a list of rows is expected, not int 3"),
        ("train.json", "", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        ("train.json", '[{"question": "q"}, 3]', "train.json#2: a row must be an object"),
        ("train.json", '[{"question": "q"}', "not JSON (Expecting ',' delimiter: line 1 column 19 (char 18))"),
        ("train.json", '[\n{"question": "q"} {}]', "not JSON (Expecting ',' delimiter: line 2 column 19 (char 20))"),
        ("train.json", '[{"question": "q"},]', "not JSON (Expecting value"),
        ("train.json", "[] x", "not JSON (Extra data: line 1 column 4 (char 3))"),
        ("train.json", '{"a": [] "b": 1}', "not JSON (Expecting ',' delimiter"),
        ("train.json", '{"a": [],}', "not JSON (Expecting property name"),
        ("train.json", "{3: []}", "not JSON (Expecting property name"),
        ("train.json", "[" * 100_000, "not JSON"),
        ("train.csv", "question,answer\nq,a,b\n", "train.csv:2: 3 cells, but the header has 2"),
        ("train.csv", 'question,answer\n"q\nr",a\nq\n', "train.csv:4: 1 cells, but the header has 2"),
        ("train.csv", "question,question\nq,a\n", "a column's name stands twice"),
        ("train.csv", 'question,answer\n"q"x,a\n', "train.csv:2: not CSV"),
        ("train.parquet", "PAR1 but not really", "not a Parquet file that can be read"),
        ("train.arrow", "ARROW1 but not really", "not Arrow data that can be read"),
        ("train.zip", "PK but not really", "not a .zip that can be read"),
        ("train.txt", "q a", "is of no known form"),
    ],
)
def test_a_file_of_another_shape(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    assert message in refusal(tmp_path / name)


def test_bytes_that_are_not_utf8_are_counted_from_the_start_of_the_file(tmp_path):
    good = b'[{"question": "' + "ё".encode() * 600_000 + b'"}, "'
    (tmp_path / "train.json").write_bytes(good + b'\xff"]')
    assert f"not UTF-8 (invalid start byte at byte {len(good)})" in refusal(tmp_path)


def test_a_long_cell_of_a_csv_file(tmp_path):
    (tmp_path / "train.csv").write_text(f"question,answer\nq,{'a' * 200_000}\n")
    assert len(read(tmp_path)[0].values["answer"]) == 200_000


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("form", ["{}", '{{"version": [1], "x": {{"y": []}}, "data": {}}}', "\ufeff \n{}\n"])
def test_a_json_list_is_read_in_pieces_as_if_whole(tmp_path, monkeypatch, chunk, form):
    monkeypatch.setattr("mlxtune.data.json_stream._CHUNK", chunk)
    text = '[{"a": 1.0, "b": 12345678901234567890123, "c": "\\ud800 \\ud83d\\ude00 ё 🦊"} ,\n{"a": NaN, "b": 1e5, "c": [1, -12]}]'
    form = form.replace('"version": [1], ', '"version": 1, ').replace('{{"y": []}}', "7")
    (tmp_path / "train.json").write_text(form.format(text), encoding="utf-8")
    found = [row.values for row in read(tmp_path / "train.json")]
    assert repr(found) == repr(json.loads(text))
    assert isinstance(found[0]["a"], float)


def test_a_number_at_the_end_of_a_piece_is_not_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("mlxtune.data.json_stream._CHUNK", 3)
    (tmp_path / "a.json").write_text("123456")
    assert "not int 123456" in refusal(tmp_path / "a.json")


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_objects_one_behind_the_other_are_rows_under_any_name(tmp_path, monkeypatch, chunk):
    """JSON Lines that are called .json, as many tools write them; a row may hold a list, or several."""
    monkeypatch.setattr("mlxtune.data.json_stream._CHUNK", chunk)
    items = [{"question": f"q{n}", "turns": [1], "images": []} for n in range(3)]
    (tmp_path / "train.json").write_text("\n".join(map(json.dumps, items)) + "\n")
    assert [(row.where.rpartition("#")[2], row.values) for row in read(tmp_path / "train.json")] == [
        (str(number), item) for number, item in enumerate(items, start=1)
    ]
    (tmp_path / "train.json").write_text('{"question": "q"}\n{"question" "r"}\n')
    assert "not JSON (Expecting ':' delimiter: line 2 column 13 (char 30))" in refusal(tmp_path / "train.json")


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_a_csv_file_of_any_country(tmp_path, sign):
    lines = [["question", "answer"], ["a, b; c\td", "1,5"], ["e", "f"]]
    text = "".join(sign.join(f'"{cell}"' for cell in cells) + "\r\n" for cells in lines)
    (tmp_path / "train.csv").write_text(text, encoding="utf-8-sig", newline="")
    assert [dict(row.values) for row in read(tmp_path)] == [
        {"question": "a, b; c\td", "answer": "1,5"},
        {"question": "e", "answer": "f"},
    ]
    assert read(tmp_path)[0].where.endswith("train.csv:2")


def test_a_json_list_needs_the_memory_of_its_rows_not_of_the_file(tmp_path):
    import tracemalloc

    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"question": "q" * 1000, "n": n} for n in range(20_000)]))
    tracemalloc.start()
    assert sum(1 for _ in source(path).tables["train"]()) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 20e6 and peak < 8e6


# -- folders of files -----------------------------------------------------------------------------------------------------


def test_names_pick_files_and_other_files_stay_out(tmp_path):
    for name, items in {"train": rows(3), "val": rows(1, start=3), "test": rows(2, start=4), "notes": [{"x": 1}]}.items():
        write(tmp_path, "jsonl", items, name)
    opened = source(tmp_path)
    assert set(opened.tables) == {"train", "val", "test", "notes"} and opened.everything() == ["train", "val", "test"]


def test_files_without_a_splits_name_are_one_table_and_each_its_own(tmp_path):
    kinds = [f"{kind}_chart_100examples_simplified_qa" for kind in ("box", "candlestick", "funnel")]
    for number, kind in enumerate(kinds):
        write(tmp_path, "json", rows(2, start=2 * number), kind)
    opened = source(tmp_path)
    assert set(opened.tables) == {"all", *kinds} and opened.everything() == ["all"]
    assert questions(tmp_path) == ["q0", "q1", "q2", "q3", "q4", "q5"]
    assert questions(tmp_path, kinds[1]) == ["q2", "q3"]
    write(tmp_path, "json", rows(1), "all")
    assert questions(tmp_path) == questions(tmp_path, "all") == ["q0"]


def test_files_that_all_name_a_split_are_never_mixed(tmp_path):
    for number, name in enumerate(("train_human", "train_augmented", "test_human", "ChartQA-val")):
        write(tmp_path, "json", rows(1, start=number), name)
    opened = source(tmp_path)
    assert sorted(opened.everything()) == ["test", "train", "val"]
    assert questions(tmp_path, "train") == ["q1", "q0"] and questions(tmp_path, "test") == ["q2"]
    assert questions(tmp_path, "train_human") == ["q0"]


def test_two_files_of_one_split(tmp_path):
    for form in ("jsonl", "csv"):
        write(tmp_path, form, rows(2))
    assert "are all split 'train'" in refusal(tmp_path)


def test_settings_beside_rows_and_pictures_are_no_rows(tmp_path):
    (tmp_path / "character_names.json").write_text('{"ivan": "Иван"}')
    (tmp_path / "base_prompts.json").write_text('\ufeff {"prompts": ["Кто это?"]}')
    pictures(tmp_path, "images/ivan/a.png", "images/baba/b.png")
    assert [row.values["class"] for row in read(tmp_path)] == ["baba", "ivan"]
    write(tmp_path, "jsonl", rows(2), "annotations")
    assert questions(tmp_path) == ["q0", "q1"] and set(source(tmp_path).tables) == {"annotations"}


def test_one_object_with_a_list_alone_in_a_folder_is_rows(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps({"version": 1, "data": rows(2)}))
    assert questions(tmp_path) == ["q0", "q1"]


@pytest.mark.parametrize("mark", ["", "-27b6f6e9a2ae1a1e"])
@pytest.mark.parametrize("below", ["data", ".", "default"])
def test_a_split_in_pieces_as_the_hub_writes_it(tmp_path, mark, below):
    for part in range(2):
        parquet(tmp_path / below / f"train-0000{part}-of-00002{mark}.parquet", rows(2, start=2 * part))
    parquet(tmp_path / below / f"val-00000-of-00001{mark}.parquet", rows(1, start=9))
    assert questions(tmp_path, "train") == ["q0", "q1", "q2", "q3"] and questions(tmp_path, "val") == ["q9"]


def test_a_folder_from_the_hub_with_configurations(tmp_path):
    for number, config in enumerate(("train_balanced_images", "train_balanced_instructions", "testdev_balanced_images")):
        split = config.split("_")[0]
        parquet(tmp_path / config / f"{split}-00000-of-00001.parquet", rows(1, start=number))
    assert questions(tmp_path, config="train_balanced_instructions") == ["q1"]
    assert questions(tmp_path, "testdev", config="testdev_balanced_images") == ["q2"]
    assert "holds several data sets: 'testdev_balanced_images', 'train_balanced_images'" in refusal(tmp_path)
    assert "has no folder 'train'; it has 'testdev_balanced_images'," in refusal(tmp_path, config="train")
    assert questions(tmp_path / "train_balanced_images", config="train_balanced_images") == ["q0"]


def test_splits_as_folders_of_files(tmp_path):
    """The layout of ChartQA's own archive."""
    for split, start in (("train", 0), ("test", 5)):
        write(tmp_path / split, "json", rows(1, start=start), f"{split}_human")
        write(tmp_path / split, "json", rows(1, start=start + 1), f"{split}_augmented")
        pictures(tmp_path, f"{split}/png/{split}.png")
        write(tmp_path / split / "tables", "csv", [{"a": "1"}], "x")
    assert set(source(tmp_path).tables) == {"train", "test"}
    assert sorted(questions(tmp_path, "test")) == ["q5", "q6"]
    assert {row.folder for row in read(tmp_path, "test")} == {"test"}
    (tmp_path / "unpacked").mkdir()
    for split in ("train", "test"):
        (tmp_path / split).rename(tmp_path / "unpacked" / split)
    assert sorted(questions(tmp_path, "test")) == ["q5", "q6"], "a lonely folder around them says nothing"


def test_an_empty_folder(tmp_path):
    assert "holds no .jsonl, .json" in refusal(tmp_path)


# -- pictures alone -------------------------------------------------------------------------------------------------------


def listing(path, **given) -> dict[str, list]:
    """Split -> [(picture, class)]"""
    opened = source(path, **given)
    return {
        name: [(row.values["image"], row.values.get("class")) for row in opened.tables[name]()] for name in opened.everything()
    }


LAYOUTS = {
    "classes": (["b/1.png", "b/0.JPG", "a/c.webp"], {"all": [("a/c.webp", "a"), ("b/0.JPG", "b"), ("b/1.png", "b")]}),
    "flat": (["b.png", "a.png"], {"all": [("a.png", None), ("b.png", None)]}),
    "splits, classes": (["train/x/a.png", "test/x/b.png"], {"train": [("train/x/a.png", "x")], "test": [("test/x/b.png", "x")]}),
    "splits, flat": (["train/a.png", "val/b.png"], {"train": [("train/a.png", None)], "val": [("val/b.png", None)]}),
    "train is a class": (["train/a.png", "car/b.png"], {"all": [("car/b.png", "car"), ("train/a.png", "train")]}),
    "wrapped": (["images/x/a.png", "images/y/b.png"], {"all": [("images/x/a.png", "x"), ("images/y/b.png", "y")]}),
    "one class": (["x/a.png", "x/b.png"], {"all": [("x/a.png", "x"), ("x/b.png", "x")]}),
    "deep": (["ours/x/png/a.png", "ours/y/png/a.png"], {"all": [("ours/x/png/a.png", "x"), ("ours/y/png/a.png", "y")]}),
    "system files": (["x/a.png", "x/._a.png", "__MACOSX/x/a.png", ".cache/b.png"], {"all": [("x/a.png", "x")]}),
    "from a phone": (["x/a.png", "x/b.HEIC"], {"all": [("x/a.png", "x"), ("x/b.HEIC", "x")]}),
    "NFD": (["и\u0306/a.png"], {"all": [("и\u0306/a.png", "й")]}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("form", ["folder", "zip", "zip in folder"])
def test_folders_of_pictures(tmp_path, name, form):
    paths, expected = LAYOUTS[name]
    pictures(tmp_path / "d", *paths)
    (tmp_path / "z").mkdir()
    place = {
        "folder": lambda: tmp_path / "d",
        "zip": lambda: zipped(tmp_path / "d.zip", tmp_path / "d"),
        "zip in folder": lambda: zipped(tmp_path / "z" / "d.zip", tmp_path / "d").parent,
    }[form]()
    assert listing(place) == expected


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("packed", [False, True])
def test_metadata_of_pictures_as_the_hub_has_it(tmp_path, form, packed):
    pictures(tmp_path / "d", "a.png", "x/b.png")
    items = [{"file_name": "a.png", "text": "A"}, {"file_name": "x/b.png", "text": "B"}]
    write(tmp_path / "d", form, items, "metadata")
    found = read(zipped(tmp_path / "d.zip", tmp_path / "d") if packed else tmp_path / "d")
    assert [row.values["image"] for row in found] == ["a.png", "x/b.png"]
    assert "class" not in found[0].values and found[1].values["class"] == "x" and found[1].values["text"] == "B"
    assert ("d.zip/metadata." if packed else "d/metadata.") in found[0].where


def test_metadata_in_folders_of_splits(tmp_path):
    for split in ("train", "test"):
        pictures(tmp_path, f"{split}/a.png")
        item = {"file_name": "a.png", "old_file_name": "b.png", "file_names": ["a.png", "c.png"]}
        (tmp_path / split / "metadata.jsonl").write_text(lines([item]))
    (row,) = read(tmp_path, "test")
    assert (row.values["image"], row.values["old"], row.values["images"]) == (
        "test/a.png",
        "test/b.png",
        ["test/a.png", "test/c.png"],
    )


def test_annotations_in_a_folder_of_their_own(tmp_path):
    write(tmp_path / "annotations", "jsonl", rows(2), "train")
    pictures(tmp_path, "images/a.png")
    assert questions(tmp_path) == ["q0", "q1"] and source(tmp_path).folder == tmp_path


def test_notes_among_the_pictures_of_the_only_class_are_not_the_rows(tmp_path):
    pictures(tmp_path, "ivan/a.png")
    write(tmp_path / "ivan", "jsonl", rows(2), "notes")
    assert listing(tmp_path) == {"all": [("ivan/a.png", "ivan")]}


def test_a_table_inside_an_archive(tmp_path):
    parquet(tmp_path / "d" / "train.parquet", rows(1))
    assert "cannot be read inside an archive. Unpack" in refusal(zipped(tmp_path / "d.zip", tmp_path / "d"))
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "holds neither rows nor pictures" in refusal(tmp_path / "empty.zip")


# -- pictures in tables ---------------------------------------------------------------------------------------------------

FORMS = {
    "struct": (lambda n: {"bytes": png(n), "path": None}, lambda cell: [cell]),
    "binary": (png, lambda cell: [cell]),
    "list of structs": (lambda n: [{"bytes": png(n), "path": "a.png"}, {"bytes": png(n + 100), "path": None}], list),
}


def saved(folder: Path, items: list[dict], form: str) -> Path:
    if form == "parquet":
        return parquet(folder / "train.parquet", items, row_group_size=3)
    table = datasets.Dataset.from_list(items)
    if form == "arrow file":
        table.save_to_disk(folder / "s")
        return next((folder / "s").glob("*.arrow"))
    (datasets.DatasetDict(train=table) if form == "dict" else table).save_to_disk(folder / "s")
    return folder / "s"


@pytest.mark.parametrize("form", ["parquet", "table", "dict", "arrow file"])
@pytest.mark.parametrize("kind", FORMS)
def test_pictures_in_tables_are_read_when_asked(tmp_path, form, kind):
    make, cells = FORMS[kind]
    found = read(saved(tmp_path, [{"image": make(n), "n": n} for n in range(7)], form))
    assert [row.values["n"] for row in found] == list(range(7))
    for number, row in enumerate(found):
        for place, cell in enumerate(cells(row.values["image"])):
            assert isinstance(cell, StoredImage)
            reader = pickle.loads(pickle.dumps(cell.read))
            assert reader() == cell.content == png(number + 100 * place)
            ref = image_ref(cell, where=row.where)
            assert callable(ref.source) and ref.load().getpixel((0, 0))[0] == number + 100 * place


def test_struct_cells_without_bytes_are_their_path(tmp_path):
    items = [{"image": {"bytes": None, "path": "a.png"}, "n": 1}, {"image": {"bytes": None, "path": None}, "n": 2}]
    assert [row.values["image"] for row in read(parquet(tmp_path / "a.parquet", items))] == ["a.png", None]


def test_a_picture_that_is_costly_to_read_again_stays_in_hand(tmp_path, monkeypatch):
    path = parquet(tmp_path / "a.parquet", [{"image": png(n % 2), "n": n} for n in range(50)])
    assert all(row.values["image"].read for row in read(path))
    # The file has two pictures in its dictionary; read again, the column has fifty.
    monkeypatch.setattr("mlxtune.data.tables._COSTLY_BYTES", 40 * len(png()))
    found = read(path)
    assert all(row.values["image"].read is None for row in found)
    assert image_ref(found[0].values["image"]).source == png(0)


def test_a_table_in_one_row_group_is_read_in_pieces(tmp_path):
    content = os.urandom(20_000)
    items = [{"image": content[n:] + content[:n]} for n in range(4096)]
    path = parquet(tmp_path / "a.parquet", items, use_dictionary=False, compression="none")
    assert path.stat().st_size > 80e6
    before = pyarrow.total_allocated_bytes()
    peak = max(pyarrow.total_allocated_bytes() - before for _ in source(path).tables["a"]())
    assert peak < 60e6  # a page of 1024 rows as it is stored, and once more unpacked


def test_columns_that_are_kept_are_bounded_in_bytes(tmp_path):
    from mlxtune.data.tables import _Columns

    path = str(parquet(tmp_path / "a.parquet", [{"image": bytes(1000), "n": n} for n in range(50)], row_group_size=5))
    columns = _Columns(max_bytes=12_000)
    for group in (*range(10), 3, 3):
        assert columns.get(path, group, "image")[4].as_py() == bytes(1000)
        assert columns._bytes <= 12_000 and columns._bytes == sum(column.nbytes for column in columns._kept.values())
    assert list(columns._kept)[-1] == (path, 3, "image")


def test_a_table_that_went_away(tmp_path):
    path = parquet(tmp_path / "train.parquet", [{"image": png(7)}])
    ref = image_ref(read(path)[0].values["image"], where="r")
    path.unlink()
    from mlxtune.data import tables

    tables._COLUMNS.clear()
    with pytest.raises(DataError, match="^r: picture 'sha256:"):
        ref.load()
    assert ref.size == (6, 4) and ref.check() is None  # seen while the row was read


# -- the hub --------------------------------------------------------------------------------------------------------------


def hub_table():
    features = datasets.Features(
        {"image": datasets.Image(), "images": datasets.List(datasets.Image()), "label": datasets.List(datasets.Value("string")),
         "human_or_machine": datasets.ClassLabel(names=["human", "machine"])}
    )  # fmt: skip
    cell = [{"bytes": png(n), "path": None} for n in range(4)]
    items = [{"image": cell[n], "images": cell[:n], "label": ["1", "2"], "human_or_machine": n % 2} for n in range(4)]
    return datasets.Dataset.from_list(items, features=features)


@pytest.mark.parametrize("streaming", [None, "table", "file"])
def test_a_hub_data_set(monkeypatch, tmp_path, streaming):
    asked, decoded, load_dataset = [], [], datasets.load_dataset
    table = hub_table()
    if streaming == "file":
        table.to_parquet(tmp_path / "t.parquet")

    def load(path, name, *, revision, streaming):
        asked.append((path, name, revision, streaming))
        if given == "file":
            return load_dataset("parquet", data_files={"train": str(tmp_path / "t.parquet")}, streaming=True)
        return {"train": table.to_iterable_dataset() if streaming else table}

    given = streaming
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *_, **__: decoded.append(1))
    found = read("HuggingFaceM4/ChartQA", "train", config="c", revision="v1", streaming=bool(streaming))
    assert asked == [("HuggingFaceM4/ChartQA", "c", "v1", bool(streaming))]
    assert found[1].where == "HuggingFaceM4/ChartQA:train#2" and found[1].values["label"] == ["1", "2"]
    assert [row.values["human_or_machine"] for row in found] == [0, 1, 0, 1]
    for number, row in enumerate(found):
        assert row.values["image"].content == png(number)
        assert [cell.content for cell in row.values["images"]] == [png(n) for n in range(number)]
        if streaming:
            assert row.values["image"].read is None
        else:
            assert pickle.loads(pickle.dumps(row.values["image"].read))() == png(number)
            assert [cell.read() for cell in row.values["images"]] == [png(n) for n in range(number)]
    assert not decoded


def test_a_reader_of_a_hub_picture_is_small_beside_its_table():
    from mlxtune.data.held import Held
    from mlxtune.data.hub import _read

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return "held" if isinstance(value, Held) else None

    stream = io.BytesIO()
    Pickler(stream).dump(next(_read(hub_table(), shown="x")).values["image"].read)
    assert len(stream.getvalue()) < 150


@pytest.mark.parametrize(
    "error", [ConnectionError("offline\nmore"), FileNotFoundError("no such"), ValueError("unknown config"), "own"]
)
def test_a_hub_data_set_that_is_not_to_be_had(monkeypatch, error):
    def load(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("not found") if error == "own" else error

    monkeypatch.setattr(datasets, "load_dataset", load)
    message = refusal("owner/name")
    assert "'owner/name' is neither a file here nor a data set that the hub gives (" in message and "Check the name" in message


def test_a_stream_that_breaks_says_where(monkeypatch):
    def rows():
        yield {"question": "q"}
        raise ConnectionError("reset\nby peer")

    stream = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": stream})
    assert refusal("owner/name", streaming=True).startswith("owner/name:train: reading ends after row ")


@pytest.mark.parametrize("path", ["missing.jsonl", "a/b.jsonl", "a/b/c", "/nowhere/at/all", "squad", "a/b.zip"])
def test_a_path_that_is_not_there_does_not_ask_the_hub(monkeypatch, path):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    assert "no such file or folder" in refusal(path)
