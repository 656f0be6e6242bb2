"""Where the rows of each split come from, and that no picture is in two of them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, strategies

from mlxtune.data.base import Source
from mlxtune.data.duplicates import equal_pictures, linked, shared_pictures
from mlxtune.data.examples import Store, hash64, identified
from mlxtune.data.mix import balanced, repeated, weighted
from mlxtune.data.splits import choose_table, divide, plan_splits
from mlxtune.errors import DataError
from mlxtune.images import ImageRef
from mlxtune.types import Example


def source(*names: str, tmp_path=None) -> Source:
    return Source("rows", tmp_path, {name: lambda: iter(()) for name in names})


def plan(names: str, train="auto", validation="auto", test="auto"):
    return plan_splits({"train": train, "validation": validation, "test": test}, source=source(*names.split()))


@pytest.mark.parametrize(
    ("tables", "splits", "named", "pool", "shares"),
    [
        ("train val test", {}, {"train": "train", "validation": "val", "test": "test"}, [], {}),
        ("training dev testing", {}, {"train": "training", "validation": "dev", "test": "testing"}, [], {}),
        ("train testdev", {}, {"test": "testdev"}, ["train"], {"train": 0.9, "validation": 0.1}),
        ("train", {}, {}, ["train"], {"train": 0.8, "validation": 0.1, "test": 0.1}),
        ("rows", {}, {}, ["rows"], {"train": 0.8, "validation": 0.1, "test": 0.1}),
        ("rows", {"validation": None}, {}, ["rows"], {"train": 0.9, "test": 0.1}),
        ("rows", {"validation": None, "test": None}, {}, ["rows"], {"train": 1.0}),
        # The recipe trains on "val", so that the validation rows are cut out of it.
        ("train val test", {"train": "val"}, {"test": "test"}, ["val"], {"train": 0.9, "validation": 0.1}),
        ("train test", {"train": "train", "test": "test"}, {"test": "test"}, ["train"], {"train": 0.9, "validation": 0.1}),
        ("train test", {"train": None}, {"test": "test"}, ["train"], {"validation": 0.1}),
        ("dev", {"train": None, "test": None}, {"validation": "dev"}, [], {}),
        ("train test", {"train": "train", "validation": None, "test": "test"}, {"train": "train", "test": "test"}, [], {}),
        ("rows", {"train": 0.6, "validation": 0.2, "test": 0.2}, {}, ["rows"], {"train": 0.6, "validation": 0.2, "test": 0.2}),
        ("train test", {"train": 0.8, "validation": 0.2}, {"test": "test"}, ["train"], {"train": 0.8, "validation": 0.2}),
        ("rows", {"train": 0.8}, {}, ["rows"], {"train": 0.8, "validation": 0.1, "test": 0.1}),
        ("rows", {"train": 0.9}, {}, ["rows"], {"train": 0.9, "validation": 0.05, "test": 0.05}),
        ("rows", {"train": "all"}, {}, ["rows"], {"train": 0.8, "validation": 0.1, "test": 0.1}),
        ("rows", {"test": 0.5}, {}, ["rows"], {"test": 0.5, "validation": 0.05, "train": 0.45}),
        ("train val test", {"train": None, "validation": None, "test": "all"}, {}, ["train", "val", "test"], {"test": 1.0}),
        ("test", {"train": 0.5}, {}, ["test"], {"train": 0.5, "validation": 0.1, "test": 0.1}),
    ],
)
def test_plans(tables, splits, named, pool, shares):
    made = plan(tables, **splits)
    assert (dict(made.named), list(made.pool)) == (named, pool)
    assert dict(made.shares) == pytest.approx(shares)


def test_what_auto_became_is_told():
    made = plan("train val")
    assert made.autos == {
        "train": "90 % of the rows of 'train'",
        "validation": "split 'val'",
        "test": "10 % of the rows of 'train'",
    }
    assert plan("train val", train="train", validation="val", test=None).autos == {}


@pytest.mark.parametrize(
    ("tables", "splits", "message"),
    [
        ("train validation", {"validation": "val"}, "it has 'train', 'validation'. Set data.splits.validation: validation"),
        ("train val", {"validation": "validation"}, "Set data.splits.validation: val"),
        ("train test", {"train": "trian"}, "Set data.splits.train: train"),
        ("one two", {}, "holds 'one', 'two', none of them a usual split"),
        ("rows", {"train": "train"}, "Set data.splits.train to a fraction such as 0.8, to 'all', or to null"),
        ("train", {"train": 0.8, "test": 0.3}, "the fractions 0.8, 0.3 sum to more than 1"),
        ("train", {"train": None, "validation": None, "test": None}, "every split is switched off"),
        ("test", {}, "data.splits.train: rows has no rows for it; it has 'test', and the other splits take them. Set"),
        ("val test", {}, "data.splits.train: rows has no rows for it; it has 'val', 'test'"),
        ("rows", {"test": "all"}, "data.splits.train: the other splits take all rows of rows"),
    ],
)
def test_splits_that_cannot_be(tables, splits, message):
    with pytest.raises(DataError) as error:
        plan(tables, **splits)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tables", "split", "chosen"),
    [
        ("train dev test", "auto", ["test"]),
        ("train dev", "auto", ["dev"]),
        ("rows", "auto", ["rows"]),
        ("train dev", "all", ["train", "dev"]),
        ("train dev", "train", ["train"]),
    ],
)
def test_the_split_of_a_further_set(tables, split, chosen):
    usual = ("test", "testing", "testdev", "validation", "valid", "val", "dev")
    assert choose_table(split, source=source(*tables.split()), key="evaluate.sets.x.split", usual=usual) == chosen


def test_a_split_that_a_further_set_does_not_have():
    with pytest.raises(DataError, match="evaluate.sets.x.split: rows has no split 'tset'.*Set evaluate.sets.x.split: test"):
        choose_table("tset", source=source("train", "test"), key="evaluate.sets.x.split", usual=())


def stored(pictures, *, groups=(), questions=(), sizes=None) -> tuple[Store, np.ndarray]:
    """Rows that show the pictures of these names."""
    store = Store()
    for number, names in enumerate(pictures):
        images = tuple(ImageRef(b"", key=name) for name in names)
        question = questions[number] if questions else f"q{number}"
        group = groups[number] if groups else ""
        row = Example(str(number), [], question, "a", ("a",), images=images, group=group)
        store.add(row, where="", picture_bytes=[0] * len(images))
    return store, np.arange(len(store))


def parts_of(store, rows, shares, *, seed=0, equal=None):
    return divide(linked(store, rows, equal or {}), shares=shares, seed=seed)


def test_shares_have_no_picture_in_common_and_do_not_hang_on_the_order_of_rows():
    pictures = [[f"{number % 20}.png"] for number in range(60)]
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    store, rows = stored(pictures)
    parts = parts_of(store, rows, shares)
    names = {key: {pictures[at][0] for at in places} for key, places in parts.items()}
    assert {key: len(places) for key, places in parts.items()} == {"train": 36, "validation": 12, "test": 12}
    assert sum(map(len, names.values())) == len(set.union(*names.values())) == 20
    assert all((np.diff(places) > 0).all() for places in parts.values())

    order = random.Random(1).sample(range(60), 60)
    shuffled, rows = stored([pictures[at] for at in order])
    again = {key: {pictures[order[at]][0] for at in places} for key, places in parts_of(shuffled, rows, shares).items()}
    assert again == names
    other = {key: {pictures[order[at]][0] for at in places} for key, places in parts_of(shuffled, rows, shares, seed=1).items()}
    assert other != names


def test_what_shares_leave_over_is_in_no_split():
    store, rows = stored([[]] * 10)
    assert {key: len(places) for key, places in parts_of(store, rows, {"train": 0.5, "test": 0.2}).items()} == {
        "train": 5,
        "test": 2,
    }


CHAIN = [[f"{n}.png", f"{n + 1}.png"] for n in range(6)]
SINGLE = [[f"x{n}.png"] for n in range(6)]


@pytest.mark.parametrize(
    ("given", "equal"),
    [
        ({"pictures": CHAIN + SINGLE}, None),
        ({"pictures": [[f"{n}.png"] for n in range(6)] + SINGLE, "groups": ["g"] * 6 + [""] * 6}, None),
        ({"pictures": [[]] * 6 + SINGLE, "groups": ["g"] * 6 + [f"s{n}" for n in range(6)]}, None),
        ({"pictures": [[]] * 12, "questions": ["same"] * 6 + [f"q{n}" for n in range(6)]}, None),
        ({"pictures": [[f"{n}.png"] for n in range(6)] + SINGLE}, [f"{n}.png" for n in range(6)]),
    ],
    ids=["pictures of one row", "group", "group without pictures", "text-only question", "equal content"],
)  # fmt: skip
def test_rows_that_belong_together_stay_together(given, equal):
    store, rows = stored(**given)
    hashes = [store.picture_hash(ImageRef(b"", key=name)) for name in equal or []]
    for seed in range(8):
        parts = parts_of(store, rows, {"a": 0.5, "b": 0.5}, seed=seed, equal={key: min(hashes) for key in hashes})
        assert {len([at for at in places if at < 6]) for places in parts.values()} == {0, 6}


def test_the_least_name_names_a_group_whatever_links_it():
    pairs = [[f"{n}", f"{n + 1}"] for n in range(40)]
    names = set()
    for seed in range(5):
        store, rows = stored(random.Random(seed).sample(pairs, 40))
        groups = linked(store, rows, {})
        assert len(set(groups.tolist())) == 1
        names.add(int(groups[0]))
    assert names == {min(store.picture_hash(ImageRef(b"", key=str(n))) for n in range(41))}


def files(tmp_path, contents: dict[str, bytes]) -> tuple[Store, np.ndarray]:
    store = Store()
    for name, content in contents.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        image = ImageRef(path, key=path.name, folder=str(path.parent))
        store.add(Example(name, [], "q", "a", ("a",), images=(image,)), where="", picture_bytes=[len(content)])
    return store, np.arange(len(store))


def test_pictures_of_equal_content_are_one_under_any_name(tmp_path):
    big = bytes(10_000)
    contents = {"a": b"1" * 9, "b": b"1" * 9, "c": b"2" * 9, "d": b"1" * 8, "e": big, "f": big, "g": b"x" + big[1:]}
    store, rows = files(tmp_path, contents)
    equal = equal_pictures(store, rows)
    hashes = dict(zip(contents, store.picture_keys, strict=True))
    assert set(equal) == {hashes[name] for name in "abef"}
    assert equal[hashes["a"]] == equal[hashes["b"]] == min(hashes["a"], hashes["b"]) != equal[hashes["e"]] == equal[hashes["f"]]
    one, other = (identified(store, rows[list(places)], split="x") for places in ([0, 2, 5], [1, 3, 6]))
    assert shared_pictures(one, other, equal) == (1, "a", "b")
    assert shared_pictures(one, other, {}) is None


def test_a_file_equals_a_picture_that_is_named_by_its_content(tmp_path):
    store, _ = files(tmp_path, {"a": b"1" * 9, "b": b"2" * 9})
    from hashlib import sha256

    key = "sha256:" + sha256(b"1" * 9).hexdigest()[:32]
    store.add(Example("c", [], "q", "a", ("a",), images=(ImageRef(b"", key=key),)), where="", picture_bytes=[-9])
    equal = equal_pictures(store, np.arange(3))
    assert set(equal) == {store.picture_keys[0], store.picture_keys[2]}


def test_names_in_the_first_folder_mean_the_same_on_any_machine(tmp_path):
    store, _ = files(tmp_path, {"x/1.png": b"1", "y/1.png": b"2"})
    assert store.picture_keys[0] == hash64("1.png") != store.picture_keys[1]


def test_pictures_of_one_name_in_two_folders_are_two(tmp_path):
    store, rows = files(tmp_path, {"x/1.png": b"1", "y/1.png": b"2"})
    one, other = (identified(store, rows[[at]], split="x") for at in (0, 1))
    assert shared_pictures(one, other, equal_pictures(store, rows)) is None


def test_files_of_different_sizes_are_not_read(tmp_path):
    store, rows = files(tmp_path, {"a": b"1", "b": b"22"})
    for name in "ab":
        (tmp_path / name).unlink()
    assert equal_pictures(store, rows) == {}


def coded(codes) -> tuple[Store, np.ndarray]:
    store = Store()
    for number, code in enumerate(codes):
        store.add(Example(str(number), [], f"q{number}", "a", ("a",)), where="", picture_bytes=[], code=code)
    return store, np.arange(len(store))


def test_every_value_comes_as_often_as_the_commonest():
    codes = np.array([0] * 10 + [1] * 4 + [2] + [-1] * 3)
    store, rows = coded(codes.tolist())
    times = balanced(store, rows, seed=0)
    assert {code: int(times[codes == code].sum()) for code in (0, 1, 2, -1)} == {0: 10, 1: 10, 2: 10, -1: 3}
    assert sorted(times[codes == 1]) == [2, 2, 3, 3]
    assert times.tolist() == balanced(store, rows, seed=0).tolist()
    assert any(balanced(store, rows, seed=seed).tolist() != times.tolist() for seed in range(1, 6))
    assert repeated(np.array([0, 2, 1])).tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ("weight", "counts"), [(1.0, {1: 10}), (2.0, {2: 10}), (0.5, {0: 5, 1: 5}), (2.3, {2: 7, 3: 3}), (0.04, {0: 10})]
)
def test_a_weight_is_copies_and_a_drawn_rest(weight, counts):
    store, rows = coded([-1] * 10)
    times = weighted(store, rows, np.ones(10, np.int64), weight=weight, seed=3)
    assert dict(zip(*np.unique(times, return_counts=True), strict=True)) == counts
    shuffled = np.array(random.Random(0).sample(range(10), 10))
    again = weighted(store, shuffled, np.ones(10, np.int64), weight=weight, seed=3)
    assert [int(times[row]) for row in shuffled] == again.tolist()  # the draw hangs on the row, not on its place


PICTURES = strategies.sets(strategies.integers(0, 15), max_size=4)


@given(
    shown=strategies.lists(strategies.tuples(PICTURES, strategies.integers(0, 8)), max_size=30),
    equal=PICTURES,
    seed=strategies.integers(0, 5),
)
def test_whatever_rows_show_no_split_shares_it(shown, equal, seed):
    """Pictures 0 to 15, of which some are equal; group 0 = none."""
    pictures = [[str(number) for number in sorted(numbers)] for numbers, _ in shown]
    store, rows = stored(pictures, groups=[f"g{group}" if group else "" for _, group in shown])
    hashes = {number: store.picture_hash(ImageRef(b"", key=str(number))) for number in range(16)}
    least = min((hashes[number] for number in equal), default=0)
    groups = linked(store, rows, {hashes[number]: least for number in equal})
    parts = divide(groups, shares={"train": 0.6, "test": 0.4}, seed=seed)
    assert sorted(np.concatenate([*parts.values()]).tolist()) == list(range(len(shown)))

    def held(places) -> set:
        names = {"one" if number in equal else number for at in places for number in shown[at][0]}
        return names | {f"g{shown[at][1]}" for at in places if shown[at][1]}

    assert not held(parts["train"]) & held(parts["test"])
    # Nothing else is tied together: as many groups as a search over shared names finds.
    left, count = [held([at]) or {f"row {at}"} for at in range(len(shown))], 0
    while left:
        names, count = left.pop(), count + 1
        while joined := [other for other in left if other & names]:
            left = [other for other in left if not other & names]
            names = names.union(*joined)
    assert len(set(groups.tolist())) == count
