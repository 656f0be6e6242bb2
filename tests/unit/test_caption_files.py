"""The files that captions live in: appended rows, half lines, a person's edits, pictures that move."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlxtune.caption.book import Book, caption_id, flagged
from mlxtune.caption.pictures import Folder, Picture, scan, to_send
from mlxtune.caption.review import Review
from mlxtune.caption.store import Store, locked
from mlxtune.entities import Entity
from mlxtune.errors import DataError, MlxtuneError

YAGA = Entity("baba", "Баба-Яга", cases=("Бабу-Ягу",))


def row(identity: str = "baba-1-c1", **values: Any) -> dict[str, Any]:
    base = {"id": identity, "image": "images/baba/1.png", "image_sha256": "1" * 64, "class": "baba", "names": ["Баба-Яга"]}
    return base | {"kind": "caption", "question": "Кто это?", "answer": "Это Баба-Яга."} | values


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -- the annotation file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 5, 60, 200])
def test_half_a_line_is_repaired_before_the_next(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "annotations.jsonl"
    Store(file).append([row("a"), row("b")])
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    store = Store(file)
    lost = cut > 1  # without its line feed, a line is whole
    assert [held["id"] for held in store] == (["a"] if lost else ["a", "b"])
    assert (store.repaired > 0) is lost
    store.append([row("c")])
    assert [held["id"] for held in lines(file)] == (["a", "c"] if lost else ["a", "b", "c"])


def test_a_later_line_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "annotations.jsonl"
    store = Store(file)
    store.append([row("a", flag="no name"), row("b")])
    store.append([row("a", asked=2)])
    assert len(lines(file)) == 3
    again = Store(file)
    assert [held["id"] for held in again] == ["a", "b"] and again["a"]["asked"] == 2
    again.rewrite(again)
    assert len(lines(file)) == 2


def test_rows_of_others_stay_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "annotations.jsonl"
    theirs = '{"image":"a.png",   "text": "их строка"}\n'
    file.write_text(theirs, encoding="utf-8")
    store = Store(file)
    store.append([row("a")])
    store.rewrite([row("a", answer="other")])
    assert file.read_text(encoding="utf-8").startswith(theirs)
    assert len(Store(file)) == 1 and len(lines(file)) == 2


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    file = tmp_path / "annotations.jsonl"
    Store(file).rewrite([])
    assert not file.exists()
    Store(file).append([row("a")])
    before = file.stat().st_mtime_ns, file.stat().st_ino
    Store(file).rewrite(Store(file))
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "annotations.jsonl"
    file.write_text('{"id": "a"}\n{broken}\n{"id": "b"}\n')
    with pytest.raises(DataError, match=r"annotations.jsonl:2: not a JSON object"):
        Store(file)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "annotations.jsonl")
    store.append([row("a")])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(MlxtuneError, match="No space left on device"):
            store.append([row("b")])
    store.append([row("c")])  # what was half written is cut away
    assert [held["id"] for held in lines(store.path)] == ["a", "c"]


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "annotations.jsonl"
    with locked(file), pytest.raises(MlxtuneError, match="another mlxtune caption"), locked(file):
        pass
    with locked(file), locked(file, only_look=True):
        pass


# -- the review file ----------------------------------------------------------------------------------------------------

AWKWARD = [
    "plain",
    'with "quotes", commas; and ;',
    "two\nlines",
    "=1+1",
    "-5 °C",
    "@home",
    "'quoted'",
    "'=x",
    "  x".strip(),
    "Ё\u2028ж",
]


def test_any_text_comes_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.review.csv"
    rows = [row(f"r{number}", answer=text) for number, text in enumerate(AWKWARD)]
    assert Review(file).add(rows) == len(AWKWARD)
    assert [line.answer for line in Review(file).lines.values()] == AWKWARD
    assert Review(file).add(rows) == 0
    assert file.read_bytes().startswith(b"\xef\xbb\xbf"), "spreadsheets take it for another encoding"


def test_what_a_spreadsheet_makes_of_it_is_kept(tmp_path: Path) -> None:
    """Semicolons, Windows line ends, no line end at the end, another order, a column of the user's own."""
    file = tmp_path / "a.review.csv"
    text = "keep;note;id;answer;question\r\nno;мой;r1;Яга;Кто это?\r\nДА;;r2;Кощей;Кто?"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    review = Review(file)
    assert (review.lines["r1"].keep, review.lines["r2"].keep, review.lines["r2"].answer) == (False, True, "Кощей")
    review.add([row("r1"), row("r3", answer="a;b")])
    content = file.read_bytes().decode("utf-8-sig")
    assert content.startswith(text + "\n"), "a person's lines were changed"
    (*_, last) = csv.DictReader(content.splitlines(), delimiter=";")
    assert last == {"keep": "yes", "note": "", "id": "r3", "answer": "a;b", "question": "Кто это?"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,question,answer\nr1,q,a\n", "no column 'keep'; it has id, question, answer"),
        ("id,question,answer,keep\nr1,q,a,maybe\n", ":2: keep is 'maybe'. Write yes or no"),
        ("id,question,answer,keep\nr1,q,,yes\n", ":2: question or answer is empty"),
        ("id,question,answer,keep\n,q,a,yes\n", ":2: the id is empty"),
        ("id,question,answer,keep\nr1,q,a,\nr1,q,b,\n", ":3: the id 'r1' stands in the file twice"),
        ("id,question,answer,keep\nr1,Кто,a,\n".encode("cp1251"), "not UTF-8. Save it in the spreadsheet as"),
    ],
)
def test_a_broken_review_is_refused_by_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.review.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        Review(file)
    assert str(caught.value).startswith(str(file)) and message in str(caught.value)


# -- both together ------------------------------------------------------------------------------------------------------


def folder_with(root: Path, *names: str) -> Folder:
    for number, name in enumerate(names):
        file = root / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
    return scan(root / "images")


def filled_book(root: Path) -> tuple[Book, Folder]:
    folder = folder_with(root, "baba/1.png", "baba/2.png")
    book = Book(root / "annotations.jsonl")
    made = [row(caption_id(item, 1), image=book.path_of(item), image_sha256=item.sha256) for item in folder.pictures]
    book.kept.append(made)
    book.review.add(book.kept)
    return Book(book.out), folder


def edit(book: Book, **changes: str) -> None:
    """Changes the first line as a spreadsheet would."""
    with book.review.path.open(encoding="utf-8-sig", newline="") as stream:
        table = list(csv.DictReader(stream))
    table[0] |= changes
    with book.review.path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def merged(root: Path, **entities: Entity) -> Book:
    book = Book(root / "annotations.jsonl")
    book.merge(scan(root / "images"), entities)
    return Book(book.out)


def test_an_edit_goes_into_the_annotations_and_is_never_overwritten(tmp_path: Path) -> None:
    book, _ = filled_book(tmp_path)
    edit(book, question="Кто в ступе?", answer="Старуха")
    for _ in range(2):
        book = merged(tmp_path, baba=YAGA)
        first = lines(book.out)[0]
        assert (first["question"], first["answer"], first["edited"], first["flag"]) == (
            "Кто в ступе?",
            "Старуха",
            True,
            "no name",
        )
        before = book.review.path.read_bytes()
        assert book.review.add(book.kept) == 0 and book.review.path.read_bytes() == before
    edit(book, answer="Баба-Яга в ступе")
    assert "flag" not in lines(merged(tmp_path, baba=YAGA).out)[0]


def test_a_rejected_row_is_kept_aside_and_comes_back(tmp_path: Path) -> None:
    book, folder = filled_book(tmp_path)
    edit(book, keep="no")
    book = merged(tmp_path)
    assert len(lines(book.out)) == 1 and len(book.aside) == 1
    assert book.needs(folder, captions=1, questions=0, retry_flagged=True) == [], "it would be paid for twice"
    edit(book, keep="yes")
    book = merged(tmp_path)
    assert len(lines(book.out)) == 2 and len(book.aside) == 0


def test_a_line_that_was_deleted_comes_back(tmp_path: Path) -> None:
    book, _ = filled_book(tmp_path)
    text = book.review.path.read_text(encoding="utf-8")
    book.review.path.write_text("".join(text.splitlines(keepends=True)[:-1]), encoding="utf-8")
    book = merged(tmp_path)
    assert len(book.kept) == 2 and book.review.add(book.kept) == 1


def test_renamed_pictures_keep_their_rows(tmp_path: Path) -> None:
    book, _ = filled_book(tmp_path)
    (tmp_path / "images/baba/1.png").rename(tmp_path / "images/baba/новое имя.png")
    (tmp_path / "images/baba/deeper").mkdir()
    (tmp_path / "images/baba/2.png").rename(tmp_path / "images/baba/deeper/2.png")
    book = merged(tmp_path)
    assert sorted(item["image"] for item in book.kept) == ["images/baba/deeper/2.png", "images/baba/новое имя.png"]
    assert all((tmp_path / item["image"]).is_file() for item in book.kept)
    assert book.needs(scan(tmp_path / "images"), captions=1, questions=0, retry_flagged=True) == []


def test_a_picture_in_another_class_is_another_matter(tmp_path: Path) -> None:
    """Its caption names who it was taken for."""
    book, _ = filled_book(tmp_path)
    (tmp_path / "images/koshei").mkdir()
    (tmp_path / "images/baba/1.png").rename(tmp_path / "images/koshei/1.png")
    book = merged(tmp_path)
    assert len(book.kept) == 1 and len(book.aside) == 1
    book.aside.append([{**next(iter(book.aside)), "id": "baba-1-q1", "kind": "question"}])
    needs = book.needs(scan(tmp_path / "images"), captions=1, questions=1, retry_flagged=True)
    (need,) = [need for need in needs if need.picture.entity == "koshei"]
    assert (need.captions, need.questions) == ((1,), 1)
    (tmp_path / "images/koshei/1.png").rename(tmp_path / "images/baba/1.png")
    assert len(merged(tmp_path).kept) == 3


def test_a_flagged_caption_is_asked_for_a_second_time_and_never_a_third(tmp_path: Path) -> None:
    """Also where a kill came between the two, or after the second and before the review file was written."""
    book, folder = filled_book(tmp_path)
    book.review.path.unlink()
    first, second = (dict(item, answer="Старуха", flag="no name") for item in book.kept)
    book.kept.append([first, second | {"asked": 2}])
    (need,) = Book(book.out).needs(folder, captions=1, questions=0, retry_flagged=True)
    assert (need.flagged, need.captions, need.requests) == ((first["id"],), (), 1)
    assert Book(book.out).needs(folder, captions=1, questions=0, retry_flagged=False) == []


def test_a_new_case_takes_flags_away_without_a_request(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "baba/1.png")
    book = Book(tmp_path / "annotations.jsonl")
    (item,) = folder.pictures
    held = row(caption_id(item, 1), image=book.path_of(item), image_sha256=item.sha256, answer="Вижу Бабу-Ягу")
    book.kept.append([flagged(held)])
    assert lines(book.out)[0]["flag"] == "no name"
    book = merged(tmp_path, baba=YAGA)
    assert "flag" not in lines(book.out)[0] and lines(book.out)[0]["names"] == ["Баба-Яга", "Бабу-Ягу"]


def test_a_kill_between_the_files_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write of the merge is tried as the last one before a kill, for a row that goes and for one that comes back."""
    for keep, sizes in (("no", (1, 1)), ("yes", (2, 0))):
        root = tmp_path / keep
        book, _ = filled_book(root)
        if keep == "yes":
            edit(book, keep="no")
            book = merged(root)
        edit(book, keep=keep)
        for last in range(1, 4):
            state = shutil.copytree(root, tmp_path / f"{keep}-{last}")
            kill_at_write(state, last, monkeypatch)
            after = merged(state)
            assert (len(after.kept), len(after.aside)) == sizes, f"killed after write {last - 1}"


class Killed(BaseException):
    pass


def kill_at_write(root: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = os.fsync, 0

    def counted(handle: int) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", counted)
        try:
            merged(root)
        except Killed:
            return


# -- the folder of pictures ---------------------------------------------------------------------------------------------


def test_what_a_folder_holds(tmp_path: Path) -> None:
    folder_with(tmp_path, "baba/1.png", "baba/sub/2.JPG", "koshei/3.webp", "koshei/4.jfif")
    shutil.copy(tmp_path / "images/baba/1.png", tmp_path / "images/baba/copy.png")
    shutil.copy(tmp_path / "images/baba/1.png", tmp_path / "images/koshei/wrong.png")
    (tmp_path / "images/baba/phone.heic").write_bytes(b"x")
    (tmp_path / "images/baba/.hidden.png").write_bytes(b"x")
    (tmp_path / "images/notes.txt").write_text("x")
    (tmp_path / "images/baba/back").symlink_to(tmp_path / "images")
    found = scan(tmp_path / "images")
    assert [picture.path.name for picture in found.pictures] == ["1.png", "2.JPG", "3.webp", "4.jfif", "wrong.png"]
    assert (found.duplicates, dict(found.left_out), len(found.shared)) == (1, {".heic": 1}, 1)
    assert found.classes == ["baba", "koshei"]


def test_a_class_is_one_word_however_the_disk_spells_it(tmp_path: Path) -> None:
    found = folder_with(tmp_path, "кощеи\u0306/1.png")
    assert found.classes == ["кощей"]


@pytest.mark.parametrize(
    ("files", "message"),
    [((), "no such folder"), (("1.png",), "lies in no class folder"), (("baba/notes.txt",), "holds no picture")],
)
def test_a_folder_of_another_form_is_refused(files: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for name in files:
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    with pytest.raises(DataError, match=message):
        scan(tmp_path / "images")


def test_pictures_are_sent_small_upright_and_without_their_place(tmp_path: Path) -> None:
    image = Image.new("RGB", (3000, 1000), (10, 200, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    exif[0x8825] = {1: "N", 2: (55.0, 45.0, 0.0)}
    image.save(tmp_path / "1.jpg", exif=exif)
    content = to_send(tmp_path / "1.jpg", longest_side=1024)
    (tmp_path / "sent.jpg").write_bytes(content)
    with Image.open(tmp_path / "sent.jpg") as sent:
        assert (sent.format, sent.mode, sent.size, dict(sent.getexif())) == ("JPEG", "RGB", (341, 1024), {})
    small = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    small.save(tmp_path / "2.png")
    (tmp_path / "sent.jpg").write_bytes(to_send(tmp_path / "2.png", longest_side=1024))
    with Image.open(tmp_path / "sent.jpg") as sent:
        assert sent.size == (8, 8) and sent.getpixel((4, 4)) == (255, 255, 255)


def test_an_id_says_class_picture_and_number() -> None:
    assert caption_id(Picture(Path("x"), "ab" * 32, "baba"), 2) == "baba-abababababab-c2"
