"""Macro-F1 over answer classes, and recognition of entities with its confusion table."""

import time

import numpy as np
import pytest

from mlxtune.metrics import METRICS, Item, score


def macro(*pairs):
    return score(["macro_f1"], [Item(prediction, (gold,)) for gold, prediction in pairs])[0]["macro_f1"]


@pytest.mark.parametrize(
    ("gold", "predicted", "value"),
    [
        ("012012", "021001", 0.8 / 3),  # the example of scikit-learn's documentation: 0.26…
        ("aabb", "aabb", 1.0),
        ("aabb", "bbaa", 0.0),
        ("aaab", "aaaa", (6 / 7 + 0) / 2),
        ("aabb", "axbx", (2 / 3 + 2 / 3) / 2),  # "x" is no class: a miss for a and b only
    ],
)
def test_macro_f1(gold, predicted, value):
    told = macro(*zip(gold, predicted, strict=True))
    assert told.value == pytest.approx(value) and told.extra == {"classes": len(set(gold))}


def test_macro_f1_folds_and_takes_the_reference_that_was_answered():
    items = [Item("ДА", ("да",)), Item("b", ("a", "b")), Item("c", ("a", "b"))]  # classes: да, b, a
    scores, values = score(["macro_f1"], items)
    assert scores["macro_f1"].value == pytest.approx(2 / 3) and [v["macro_f1"] for v in values] == [1.0, 1.0, 0.0]


def test_macro_f1_from_sums_of_some_items_is_that_of_those_items():
    rng = np.random.default_rng(3)
    items = [Item(str(rng.integers(6)), (str(rng.integers(4)),)) for _ in range(60)]
    rows, value = METRICS["macro_f1"].sums(items)
    for _ in range(5):
        chosen = rng.integers(60, size=12)
        want = METRICS["macro_f1"].corpus([items[i] for i in chosen])["value"]
        assert float(value(np.bincount(chosen, minlength=60).astype(float) @ rows)) == pytest.approx(want)


NAMES = ("Казанский Кремль", "Кремль в Казани", "Казанского Кремля")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Это Казанский Кремль.", True),
        ("это КАЗАНСКИЙ  КРЕМЛЬ", True),
        ("«Казанский-Кремль»", True),
        ("стены Казанского Кремля", True),
        ("стены Казанскому Кремлю", False),  # a form that is not listed
        ("Казанский старый Кремль", False),
        ("Кремль", False),
        ("Казанский Кремлёвский дворец", False),
        ("", False),
    ],
)
def test_a_name_as_whole_words(answer, right):
    assert METRICS["recognition_rate"].item(Item(answer, names=NAMES)) == float(right)


@pytest.mark.parametrize(
    ("answer", "name", "right"),
    [
        ("Зеленый дол", "Зелёный Дол", True),
        ("Зеле\u0308ный дол", "Зеленый Дол", True),  # ё of two characters
        ("Чак-чак на столе", "чак чак", True),
        ("Йошкар‑Ола", "Йошкар-Ола", True),  # another hyphen
        ("Idel tower", "Idel", True),
        ("Idelic", "Idel", False),
        ("Шаляпина", "Шаляпин", False),
    ],
)
def test_letters_that_are_the_same(answer, name, right):
    assert METRICS["recognition_rate"].item(Item(answer, names=(name,))) == float(right)


@pytest.mark.parametrize("names", [(), ("",), ("!?",)])
def test_an_item_without_names_is_ungraded(names):
    assert score(["recognition_rate"], [Item("anything", ("x",), names=names)])[0]["recognition_rate"].n == 0


def entity(answer, own, *names):
    return Item(answer, names=names, meta={"class": own})


def test_confusion_says_what_was_named_instead():
    kremlin, moscow, spas = ("Казанский Кремль",), ("Кремль",), ("Спасская башня",)
    items = [
        entity("Это Казанский Кремль", "kazan", *kremlin),
        entity("Казанский Кремль и Спасская башня", "kazan", *kremlin),
        entity("Это Кремль", "kazan", *kremlin),
        entity("Это мечеть", "kazan", *kremlin),
        entity("Казанский Кремль", "spas", *spas),  # the longer name, not Moscow's inside it
        entity("Кремль, а рядом Казанский Кремль", "spas", *spas),
        entity("Кремль", "moscow", *moscow),
        Item("Кремль", names=("Кремль",)),  # of no class
    ]
    told = score(["recognition_rate"], items)[0]["recognition_rate"]
    assert told.value == 4 / 8 and told.extra == {
        "by_class": {"kazan": {"value": 0.5, "n": 4}, "moscow": {"value": 1.0, "n": 1}, "spas": {"value": 0.0, "n": 2}},
        "confusion": {
            "kazan": {"kazan": 2, "moscow": 1, "(none)": 1},
            "moscow": {"moscow": 1},
            "spas": {"kazan": 1, "(several)": 1},
        },
        "also_others": 1,
    }


def test_two_classes_may_share_a_name():
    items = [entity("Лев", "a", "Лев"), entity("Лев", "b", "Лев"), entity("Лев", "c", "Тигр")]
    assert score(["recognition_rate"], items)[0]["recognition_rate"].extra["confusion"] == {
        "a": {"a": 1},
        "b": {"b": 1},
        "c": {"(several)": 1},
    }


def test_without_classes_there_is_only_the_rate():
    told = score(["recognition_rate"], [Item("Лев", names=("Лев",)), Item("Кот", names=("Лев",))])[0]["recognition_rate"]
    assert told.to_dict() == {"value": 0.5, "n": 2, "ungraded": 0}


def test_many_classes_with_many_names_take_seconds():
    names = {own: tuple(f"имя {own} номер {number}" for number in range(12)) for own in range(66)}
    items = [
        entity(f"На картинке видно имя {i % 60} номер {i % 15} среди многих слов " * 4, i % 66, *names[i % 66])
        for i in range(3000)
    ]
    began = time.process_time()
    score(["recognition_rate"], items)
    assert time.process_time() - began < 6
