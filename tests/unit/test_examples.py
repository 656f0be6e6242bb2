"""Examples on disk: what was written comes back, views share their rows, and equal data has one fingerprint anywhere."""

from __future__ import annotations

import errno
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mlxtune.data.examples import Examples, Pieces, Store, data_fingerprint, file_bytes, hash64, identified
from mlxtune.data.held import Held
from mlxtune.errors import DataError
from mlxtune.images import ImageRef
from mlxtune.types import Example


def example(number: int, *, id: str | None = None, image: ImageRef | None = None, **given) -> Example:
    content = [*([{"type": "image"}] if image else []), {"type": "text", "text": f"q{number}?"}]
    return Example(
        id=f"row {number}" if id is None else id,
        messages=[{"role": "user", "content": content}],
        question=f"q{number}",
        target=f"a{number}",
        references=(f"a{number}",),
        images=(image,) if image else (),
        **given,
    )


def stored(items, *, split: str = "train") -> Examples:
    store = Store()
    for number, item in enumerate(items, start=1):
        store.add(item, where=f"rows.jsonl:{number}", picture_bytes=[file_bytes(image) or 0 for image in item.images])
    return identified(store, np.arange(len(items)), split=split)


def test_what_was_written_comes_back(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    image = ImageRef(tmp_path / "a.png", key="a.png", where="rows.jsonl:1", folder=str(tmp_path))
    items = [
        example(0, image=image, choices={"A": "one"}, names=("Баба-Яга",), group="g", meta={"kind": "x", "n": 1}),
        example(1, image=image),
        example(2),
    ]
    examples = stored(items)
    assert list(examples) == items and len(examples) == 3
    assert examples[0].images[0].source == image.source and examples[0].images[0].where == image.where
    assert list(examples.head(1))[:2] == ["row 1", "rows.jsonl:2"]


def test_what_a_picture_has_shown_is_not_looked_for_again():
    image = ImageRef(b"", key="a")
    image.__dict__["size"] = (3, 4)
    assert stored([example(0, image=image)])[0].images[0].size == (3, 4)


@pytest.mark.parametrize("places", [slice(2, 5), slice(None, None, -2), [4, 0, 4], np.array([1, 3]), slice(7, 9), []])
def test_views_are_rows_of_the_same_store(places):
    items = [example(number) for number in range(6)]
    view = stored(items)[places]
    expected = items[places] if isinstance(places, slice) else [items[at] for at in places]
    assert isinstance(view, Examples) and list(view) == expected and len(view) == len(expected)
    assert list(view[:1]) == expected[:1]


def test_places_count_from_the_end_and_end():
    examples = stored([example(number) for number in range(3)])
    assert examples[-1].question == "q2" and examples[np.int64(0)].question == "q0"
    assert [item.question for item in examples[1:]] == ["q1", "q2"] and bool(examples) and not examples[:0]
    with pytest.raises(IndexError):
        examples[3]


def test_a_name_from_its_place_stays_with_the_row_in_every_view():
    examples = stored([example(number, id="") for number in range(4)], split="test")
    assert [item.id for item in examples[2:]] == ["test-3", "test-4"] == [examples.head(at).id for at in (2, 3)]
    assert examples[[3, 3]][1].id == "test-4"


@pytest.mark.parametrize(
    ("given", "unique"),
    [
        (["a#2", "a", "a", "", "7", "a"], ["a#2", "a", "a#3", "train-4", "7", "a#4"]),
        (["train-2", "", "x"], ["train-2", "train-2#2", "x"]),
        (["a", "a", "a#2", "a"], ["a", "a#2", "a#2#2", "a#3"]),
    ],
)
def test_ids_are_unique_within_a_split(given, unique):
    assert [item.id for item in stored([example(number, id=name) for number, name in enumerate(given)])] == unique


@dataclass
class Handle(Held):
    """A handle that cannot be written."""

    content: bytes

    def __reduce__(self):
        raise AssertionError("the handle was pickled")


@dataclass(frozen=True)
class Cell:
    handle: Handle
    index: int

    def __call__(self) -> bytes:
        return self.handle.content[self.index : self.index + 1]


def test_handles_stay_in_memory_once_each():
    handles = [Handle(b"ab"), Handle(b"cd")]
    images = [ImageRef(Cell(handles[number % 2], number // 2), key=str(number)) for number in range(4)]
    examples = stored([example(number, image=image) for number, image in enumerate(images)])
    assert [item.images[0].source() for item in examples] == [b"a", b"c", b"b", b"d"]
    assert examples[0].images[0].source.handle is handles[0] and len(examples.store._handles) == 2


def test_a_picture_put_aside_is_read_again():
    store = Store()
    readers = [store.keep(bytes([number]) * (number + 1)) for number in range(50)]
    for number, read in enumerate(readers):
        store.add(example(number, image=ImageRef(read, key=str(number))), where="", picture_bytes=[0])
    examples = identified(store, np.arange(50), split="train")
    assert [examples[at].images[0].source() for at in (49, 0, 7)] == [bytes([n]) * (n + 1) for n in (49, 0, 7)]


def test_rows_are_read_from_many_threads_and_while_others_are_written():
    store = Store()
    for number in range(400):
        store.add(example(number), where="", picture_bytes=[])
        assert store.example(number // 2).question == f"q{number // 2}"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: store.example(row % 400).question, range(4000)))
    assert found == [f"q{row % 400}" for row in range(4000)]


def test_the_file_goes_with_the_rows():
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    gc.collect()
    before = open_files()
    examples = stored([example(0)])
    assert open_files() > before
    view = examples[:1]
    del examples
    gc.collect()
    assert view[0].question == "q0"
    del view
    gc.collect()
    assert open_files() == before


@pytest.mark.parametrize(("number", "message"), [(errno.ENOSPC, "no room for the rows"), (errno.EACCES, "cannot be written")])
def test_a_full_disk_is_explained(monkeypatch, number, message):
    pieces = Pieces()

    class Full:
        def write(self, piece):
            raise OSError(number, os.strerror(number))

        flush = lambda self: self.write(b"")  # noqa: E731

    monkeypatch.setattr(pieces, "_file", Full())
    with pytest.raises(DataError, match=f"{message}.*Set TMPDIR"):
        pieces.append(b"x")


def test_the_fingerprint_of_rows_on_disk_is_that_of_rows_in_memory(tmp_path):
    (tmp_path / "a.png").write_bytes(b"12345")
    items = [example(0, image=ImageRef(tmp_path / "a.png", key="a.png")), example(1, image=ImageRef(b"x", key="sha256:1"))]
    assert data_fingerprint({"train": stored(items)}) == data_fingerprint({"train": items})


def test_the_fingerprint_hangs_on_what_is_learned_and_asked_alone(tmp_path):
    def fingerprint(*items: Example, split: str = "train") -> str:
        return data_fingerprint({split: stored(items, split=split)})

    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "x.png").write_bytes(b"12345")
    os.utime(folders[1] / "x.png", (0, 0))
    first, elsewhere = (
        example(0, image=ImageRef(folder / "x.png", key="x.png", where=str(folder), folder=str(folder))) for folder in folders
    )
    second = example(1)
    assert fingerprint(first, second) == fingerprint(elsewhere, second)
    prompted = replace(first, messages=[*first.messages[:-1], {"role": "user", "content": "other prompt"}])
    assert fingerprint(first) == fingerprint(prompted)
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]
    changed = [
        (first, second),
        (second, first),
        (first,),
        (replace(first, id="x"), second),
        (replace(first, question="x"), second),
        (replace(first, references=("a0", "x")), second),
        (replace(first, choices={"A": "x"}), second),
        (replace(first, messages=[*turns, *first.messages]), second),
        (replace(first, images=()), second),
    ]
    seen = [fingerprint(*items) for items in changed] + [fingerprint(first, second, split="test")]
    (folders[0] / "x.png").write_bytes(b"123456")
    seen.append(fingerprint(first, second))
    assert len(set(seen)) == len(seen) and all(len(one) == 64 for one in seen)


def test_hashes_are_the_same_everywhere_and_never_nothing():
    assert hash64("a.png") == 16285994259159184982 and 0 < hash64("\ud800") < 2**64
