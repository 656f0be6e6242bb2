"""Which picture a row means: by path, in an archive, by name, by key in a table. Never another one than it says."""

import base64
import io
import unicodedata
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from mlxtune.data.pictures import open_pictures
from mlxtune.data.sources import open_source
from mlxtune.errors import DataError, RowError
from mlxtune.images import StoredImage
from mlxtune.recipe.spec import PicturesSpec, RowsSpec

pyarrow = pytest.importorskip("pyarrow")


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (6, 4), shade).save(stream, "PNG")
    return stream.getvalue()


def place(folder: Path, *paths: str) -> None:
    """The n-th picture has shade n + 1."""
    for number, path in enumerate(paths, start=1):
        if ".zip/" in path:
            archive, _, name = path.partition(".zip/")
            (folder / archive).parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(folder / f"{archive}.zip", "a") as file:
                file.writestr(name, png(number))
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(png(number))


def finder(folder: Path, **given):
    (folder / "rows.jsonl").write_text("")
    spec = RowsSpec(path=str(folder / "rows.jsonl"), task=given.pop("task", "qa"), **given)
    return open_pictures(spec, source=open_source(spec))


def shade(ref) -> int:
    ref.check()
    assert len(ref.digest()) == 32
    return ref.load().getpixel((0, 0))[0]


COCO = "COCO_train2014_000000000123.jpg"
FOUND = {  # what the row says: [(files, which of them), …]
    "png/a.png": [(["png/a.png", "a.png"], 1), (["x/png/a.png", "y/a.png"], 1), (["png/a.jpg"], 1), (["PNG/A.png"], 1)],
    "a.png": [(["a.png", "x/a.png"], 1), (["x/y/a.png"], 1), (["x/a.jpg", "x/b.png"], 1), (["x/A.PNG", "y/a.png"], 2)],
    "./png//a.png": [(["png/a.png"], 1), (["x/png/a.png"], 1)],
    "png\\a.png": [(["png/a.png"], 1), (["x/png/a.png"], 1)],
    f"coco/train2014/{COCO}": [
        ([f"train2014/{COCO}"], 1),
        ([f"x/coco/train2014/{COCO}"], 1),
        ([COCO], 1),
        ([f"images/train2014/{COCO}"], 1),
        ([f"train2014.zip/train2014/{COCO}"], 1),
        ([f"coco/train2014.zip/train2014/{COCO}"], 1),
        ([f"coco.zip/train2014/{COCO}"], 1),
        (["train2017/000000000123.jpg"], 1),
    ],
    "000000000123.jpg": [([f"train2014/{COCO}"], 1), (["train2017/000000000123.jpg"], 1)],
    "/home/her/coco/train2014/x.jpg": [(["train2014/x.jpg"], 1)],
    "2354786": [(["2354786.jpg"], 1), (["images/2354786.jpg", "images/12354786.jpg"], 1), (["2354786", "x/2354786.jpg"], 1)],
    "v1.2": [(["x/v1.2.png", "x/v1.3.png"], 1)],
    "ours/box/png/0.png": [
        (["ours.zip/ours/pie/png/0.png", "ours.zip/ours/box/png/0.png"], 2),
        (["ours.zip/box/png/0.png", "ours.zip/pie/png/0.png"], 1),
        (["ours/box.zip/png/0.png", "ours/pie.zip/png/0.png"], 1),
    ],
    unicodedata.normalize("NFC", "кощёй/й.png"): [([unicodedata.normalize("NFD", "кощёй/й.png"), "x/о.png"], 1)],
    unicodedata.normalize("NFD", "йё.png"): [([unicodedata.normalize("NFC", "x/йё.png")], 1)],
}
CASES = [(text, files, which) for text, cases in FOUND.items() for files, which in cases]


@pytest.mark.parametrize(("text", "files", "which"), CASES)
def test_the_one_picture_that_is_meant(tmp_path, text, files, which):
    place(tmp_path, *files)
    if text == "2354786":
        assert shade(finder(tmp_path)(2354786, where="r")) == shade(finder(tmp_path)(2354786.0, where="r")) == which
    ref = finder(tmp_path)(text, where="r")
    assert shade(ref) == which and ref.where == "r" and ref.size == (6, 4)
    assert ref.key == files[which - 1].rpartition(".zip/")[2]
    assert shade(finder(tmp_path)({"bytes": None, "path": text}, where="r")) == which


@pytest.mark.parametrize(("text", "files", "which"), CASES)
def test_the_same_in_an_archive(tmp_path, text, files, which):
    if any(".zip" in name for name in files):
        return
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for number, name in enumerate(files, start=1):
            archive.writestr(name, png(number))
    found = finder(tmp_path, image_folder=str(tmp_path / "pictures.zip"))(text, where="r")
    assert shade(found) == which and found.folder == str(tmp_path / "pictures.zip")


@pytest.mark.parametrize(
    ("text", "files", "says"),
    [
        ("a.png", [], "picture 'a.png' is not in '"),
        ("red/0.png", ["blue/0.png"], "('blue/0.png' has that name but lies in another folder)"),
        ("red/png/0.png", ["blue/png/0.png"], "'blue/png/0.png' has that name"),
        ("red/0.png", ["blue.zip/0.png", "red.zip/1.png"], "is not in"),
        ("a.png", ["x/a.png", "y/a.png"], "may be 'x/a.png', 'y/a.png' in '"),
        ("a", ["x/a.png", "y/a.jpg"], "may be 'x/a.png', 'y/a.jpg'"),
        ("x", ["x/a.png"], "is not in"),
        ("a.png", ["aa.png", "a.png.txt"], "is not in"),
        ("a" * 300, [], "is not in"),
        ("https://x.org/a.png", [], "is a web address"),
    ],
)
def test_no_picture_rather_than_another_one(tmp_path, text, files, says):
    place(tmp_path, *files)
    with pytest.raises(RowError, match="^rows:3: ") as error:
        finder(tmp_path)(text, where="rows:3")
    assert says in str(error.value) and error.value.reason == "picture missing" and "\n" not in str(error.value)


def test_two_rows_of_other_folders_do_not_get_the_same_picture(tmp_path):
    place(tmp_path, "0.png", "000000000123.jpg")
    find = finder(tmp_path)
    assert shade(find("red/0.png", where="r")) == 1
    assert shade(find("red/0.png", where="r")) == shade(find("x/red/0.png", where="r")) == shade(find("0.png", where="r")) == 1
    with pytest.raises(RowError, match="'red/0.png' and 'blue/0.png' would both be '0.png'"):
        find("blue/0.png", where="r")
    assert shade(find("red/000000000123.jpg", where="r")) == shade(find("blue/000000000123.jpg", where="r")) == 2


@pytest.mark.parametrize("form", ["jpeg bytes", "struct", "stored", "base64", "data", "opened"])
def test_cells_that_hold_the_picture(tmp_path, form):
    text = base64.b64encode(png(9)).decode()
    value = {
        "jpeg bytes": png(9),
        "struct": {"bytes": png(9), "path": "missing.png"},
        "stored": StoredImage(png(9), None),
        "base64": text,
        "data": f"data:image/png;base64,{text}",
        "opened": Image.open(io.BytesIO(png(9))),
    }[form]
    assert shade(finder(tmp_path)(value, where="r")) == 9


@pytest.mark.parametrize("value", [None, True, 1.5, [], {}, {"path": None}, "a\0b", "\ud800", " ", "10**5000", {"path": 3}])
def test_what_is_no_picture_is_a_row_error(tmp_path, value):
    with pytest.raises(RowError) as error:
        finder(tmp_path)(10**5000 if value == "10**5000" else value, where="r")
    str(error.value).encode()


def test_pictures_from_a_folder_of_their_own(tmp_path):
    place(tmp_path / "a", "x/1.png")
    place(tmp_path / "b", "2.png", "x/1.png")
    (tmp_path / "a" / "rows.jsonl").write_text("")
    spec = RowsSpec(path="a/rows.jsonl", image_folder="b")
    find = open_pictures(spec, source=open_source(spec, root=tmp_path), root=tmp_path)
    assert shade(find("x/1.png", where="r")) == 2
    spec = RowsSpec(path="a/rows.jsonl", image_folder="c")
    with pytest.raises(DataError, match="data.image_folder: no such folder '.*/c'. Give the folder or .zip"):
        open_pictures(spec, source=open_source(spec, root=tmp_path), root=tmp_path)


def test_pictures_of_one_name_in_two_folders_are_two_pictures(tmp_path):
    for name in ("a", "b"):
        place(tmp_path / name, "1.png")
    refs = [finder(tmp_path, image_folder=str(tmp_path / name))("1.png", where="r") for name in ("a", "b", "a")]
    assert refs[0] != refs[1] and refs[0] == refs[2] and {ref.key for ref in refs} == {"1.png"}
    assert refs[0].identity != refs[1].identity and refs[0].stamp != refs[1].stamp


def test_rows_of_an_archive_of_pictures(tmp_path):
    place(tmp_path, "p.zip/ivan/a.png", "p.zip/baba/b.png")
    spec = RowsSpec(path=str(tmp_path / "p.zip"))
    source = open_source(spec)
    find = open_pictures(spec, source=source)
    refs = [find(row.values["image"], where=row.where) for row in source.tables["all"]()]
    assert [(ref.key, shade(ref)) for ref in refs] == [("baba/b.png", 2), ("ivan/a.png", 1)]
    assert refs[0].stamp != refs[1].stamp and refs[0].stamp.count("|") == 2


def test_a_damaged_member_of_an_archive_is_an_unreadable_picture(tmp_path):
    place(tmp_path, "p.zip/a.png", "p.zip/b.png")
    content = (tmp_path / "p.zip").read_bytes()
    (tmp_path / "p.zip").write_bytes(content.replace(png(1), png(1)[:-20] + bytes(20)))
    find = finder(tmp_path, image_folder=str(tmp_path / "p.zip"))
    with pytest.raises(RowError, match=r"^r: picture 'a.png' cannot be read \(in .*p.zip: Bad CRC-32") as error:
        find("a.png", where="r").check()
    assert error.value.reason == "picture unreadable" and shade(find("b.png", where="r")) == 2


# -- a table of pictures --------------------------------------------------------------------------------------------------


def table(path: Path, items: list[dict]) -> Path:
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(items), path)
    return path


def keyed(tmp_path, items, **given):
    path = table(tmp_path / "t" / "pictures.parquet", items)
    return finder(tmp_path, images=PicturesSpec(path=str(path), **given))


def test_a_table_of_pictures_by_key(tmp_path):
    items = [{"id": str(n), "image": {"bytes": png(n), "path": None}} for n in range(5)]
    find = keyed(tmp_path, items)
    assert [shade(find(value, where="r")) for value in ("3", 3, 3.0, " 3 ")] == [3] * 4
    ref = find("4", where="rows:7")
    assert ref.where == "rows:7" and callable(ref.source) and "size" in ref.__dict__
    with pytest.raises(RowError, match="^rows:7: no picture has id '9' in .*pictures.parquet. Set data.images") as error:
        find("9", where="rows:7")
    assert error.value.reason == "picture missing"
    assert shade(find(png(77), where="r")) == 77  # a row may hold its picture itself


def test_a_table_is_read_once_and_not_before_it_is_needed(tmp_path, monkeypatch):
    find = keyed(tmp_path, [{"id": n, "image": png(n)} for n in range(3)])
    read = []
    monkeypatch.setattr("mlxtune.data.pictures.open_source", lambda *a, **k: read.append(1) or open_source(*a, **k))
    assert not read and [shade(find(n, where="r")) for n in (2, 1, 2)] == [2, 1, 2] and read == [1]


def test_pictures_that_cannot_be_read_again_are_put_aside(tmp_path, monkeypatch):
    monkeypatch.setattr("mlxtune.data.tables._COSTLY_BYTES", 0)
    find = keyed(tmp_path, [{"id": n, "image": png(n)} for n in range(5)])
    refs = [find(n, where="r") for n in (4, 0, 2)]
    assert not any(isinstance(ref.source, bytes) for ref in refs) and [shade(ref) for ref in refs] == [4, 0, 2]


def test_a_table_of_paths(tmp_path):
    place(tmp_path / "t", "x/a.png", "x/b.png")
    find = keyed(tmp_path, [{"key": "k1", "file": "a.png"}, {"key": "k2", "file": "c.png"}], key="key", image="file")
    assert shade(find("k1", where="r")) == 1
    with pytest.raises(RowError, match="^r: picture 'k2': .*pictures.parquet#2: picture 'c.png' is not in"):
        find("k2", where="r")


@pytest.mark.parametrize(
    ("items", "given", "says"),
    [
        ([{"imageId": "1", "image": png()}], {}, "no field 'id'; it has 'imageId', 'image'. Set data.images.key$"),
        ([{"id": "1", "picture": png()}], {}, "no field 'image'; it has 'id', 'picture'. Set data.images.image"),
        ([{"id": None, "image": png()}], {}, "field 'id' is no key but null"),
        ([{"id": "1", "image": png()}], {"split": "train"}, "data.images.split: .* has no split 'train'; it has 'pictures'"),
    ],
)  # fmt: skip
def test_a_table_of_another_shape(tmp_path, items, given, says):
    with pytest.raises(DataError, match=says) as error:
        keyed(tmp_path, items, **given)("1", where="r")
    assert not isinstance(error.value, RowError)


def test_one_key_for_two_pictures(tmp_path):
    find = keyed(tmp_path, [{"id": key, "image": png(n)} for key, n in (("a", 1), ("a", 1), ("b", 2), ("b", 3), ("b", 2))])
    assert shade(find("a", where="r")) == 1
    with pytest.raises(RowError, match="^r: picture 'b': two pictures have this key, the second at .*pictures.parquet#4"):
        find("b", where="r")


def gqa(tmp_path: Path) -> Path:
    folder = tmp_path / "GQA-ru"
    for config, items in {
        "train_balanced_instructions": [{"id": "q1", "imageId": "7", "question": "Кто?", "answer": "кот"}],
        "train_balanced_images": [{"id": str(n), "image": {"bytes": png(n), "path": None}} for n in (5, 7)],
    }.items():
        table(folder / config / "train-00000-of-00001.parquet", items)
    return folder


def test_the_usual_table_of_a_task(tmp_path):
    spec = RowsSpec(path=str(gqa(tmp_path)), task="gqa_ru", config="train_balanced_instructions")
    find = open_pictures(spec, source=open_source(spec))
    assert shade(find("7", where="r")) == 7
    place(tmp_path / "own", "7.jpg")
    spec = spec.model_copy(update={"image_folder": str(tmp_path / "own")})
    assert shade(open_pictures(spec, source=open_source(spec))("7", where="r")) == 1


def test_without_the_usual_table_pictures_are_looked_for_beside_the_rows(tmp_path):
    folder = gqa(tmp_path)
    for file in (folder / "train_balanced_images").iterdir():
        file.unlink()
    (folder / "train_balanced_images").rmdir()
    place(folder / "train_balanced_instructions", "x/7.jpg")
    rows = folder / "train_balanced_instructions" / "train-00000-of-00001.parquet"
    for path in (folder, rows):
        spec = RowsSpec(path=str(path), task="gqa_ru", config="train_balanced_instructions")
        find = open_pictures(spec, source=open_source(spec))
        assert shade(find("7", where="r")) == 1
        with pytest.raises(RowError, match="picture '8' is not in .* Set data.image_folder"):
            find("8", where="r")
