"""The registry and `score`: what is graded, what is counted apart, what a wrong name says."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest

from mlxtune.errors import RecipeError
from mlxtune.metrics import METRICS, Item, breakdown, get_metrics, item_of_line, score
from mlxtune.types import Example

# The names are fixed: they stand in metrics.json.
ALL = ["exact_match", "relaxed_accuracy", "contains", "token_f1", "relaxed_accuracy_strict", "accuracy", "circular_accuracy"]
ALL += ["option_accuracy", "vqa_accuracy", "anls", "macro_f1", "recognition_rate", "rouge1", "rouge2", "rougeL", "bleu", "chrf"]
CHOICE = ["accuracy", "circular_accuracy", "option_accuracy"]
TEXT = [name for name in ALL if name not in (*CHOICE, "recognition_rate")]


def texts(predictions, references):
    return [None if text is None else Item(text, refs) for text, refs in zip(predictions, references, strict=True)]


def test_every_metric_says_what_it_is():
    assert list(METRICS) == ALL
    for name, metric in METRICS.items():
        assert metric.name == name
        assert min(len(metric.definition), len(metric.source), len(metric.caveat)) > 5
        assert metric.higher_is_better
        assert metric.scale == (100.0 if name in ("bleu", "chrf") else 1.0)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("RougeL", "rougeL"),
        ("rouge-l", "rougeL"),
        ("exact", "exact_match"),
        ("relaxed_acuracy", "relaxed_accuracy"),
        ("f1", "token_f1"),
    ],
)
def test_unknown_name_suggests_the_nearest(wrong, meant):
    with pytest.raises(RecipeError, match=f"no metric '{wrong}'. Did you mean '{meant}'\\? There are: exact_match, "):
        get_metrics(["bleu", wrong])


def test_unknown_name_without_a_neighbour_lists_the_metrics():
    with pytest.raises(RecipeError, match="no metric 'zzz'. There are: exact_match"):
        score(["zzz"], [])


def test_order_of_names_is_kept():
    assert [metric.name for metric in get_metrics(["bleu", "contains"])] == ["bleu", "contains"]


@pytest.mark.parametrize("name", TEXT)
def test_none_is_ungraded_and_not_wrong(name):
    truth = "one two three four five"
    scores, items = score([name], texts([truth, None, truth, "four"], [(truth,), (truth,), (truth,), ()]))
    assert (scores[name].n, scores[name].ungraded) == (2, 2)
    assert scores[name].value == pytest.approx(METRICS[name].scale)
    assert items == [{name: items[0][name]}, {name: None}, {name: items[2][name]}, {name: None}]
    assert items[0][name] == items[2][name] == pytest.approx(METRICS[name].scale)


@pytest.mark.parametrize("predictions", [[], [None, None]])
@pytest.mark.parametrize("name", ALL)
def test_nothing_graded_has_no_value(name, predictions):
    scores, items = score([name], texts(predictions, [("x",)] * len(predictions)))
    assert scores[name].to_dict() == {"value": None, "n": 0, "ungraded": len(predictions)}
    assert items == [{name: None}] * len(predictions)


@pytest.mark.parametrize("name", [name for name in TEXT if name != "macro_f1"])
def test_empty_strings_are_graded(name):
    scores, items = score([name], texts(["", "word", ""], [("word",), ("",), ("",)]))
    both_empty = 0.0 if name.startswith("rouge") or name in ("bleu", "chrf") else METRICS[name].scale
    assert [item[name] for item in items] == [0.0, 0.0, both_empty]
    assert scores[name].n == 3
    if not METRICS[name].sums:
        assert scores[name].value == pytest.approx(both_empty / 3)


def test_scores_are_plain_json_and_repeatable():
    choices, likelihoods = {"A": "cat", "B": "dog"}, {"A": -1.0, "B": float("-inf")}
    items = [Item("The cat sat on the mat today", ("A cat sat on a mat", "cat")), None, Item("да", ("нет",))]
    items += [Item("A", ("A",), choices, ("cat",), "1", {"class": "c", "category": 3}, likelihoods)]
    first, second = (score(ALL, items) for _ in range(2))
    assert first == second
    told = json.loads(json.dumps({name: value.to_dict() for name, value in first[0].items()}, allow_nan=False))
    assert set(told["rouge1"]) == {"value", "n", "ungraded", "p", "r"}
    assert set(told["exact_match"]) == {"value", "n", "ungraded"}
    assert told["bleu"]["signature"].startswith("nrefs:var|case:mixed|eff:no|tok:intl|smooth:exp|version:")
    assert json.loads(json.dumps(first[1], allow_nan=False)) == first[1]


def test_a_metric_grades_what_it_can():
    text, letter = Item("red", ("red",)), Item("B", ("B",), {"A": "red", "B": "blue"}, likelihoods={"A": -2.0, "B": -0.1})
    named = Item("This is Kazan.", names=("Kazan",))
    scores, _ = score(ALL, [text, letter, named, None])
    graded = {name: value.n for name, value in scores.items()}
    assert {name: graded[name] for name in CHOICE} == dict.fromkeys(CHOICE, 1) and graded["recognition_rate"] == 1
    assert all(graded[name] == 2 for name in TEXT) and all(value.n + value.ungraded == 4 for value in scores.values())


def test_breakdown_by_what_items_say_of_themselves():
    items = [Item(*pair, meta={"kind": kind}) for pair, kind in ((("a", ("a",)), 1), (("b", ("c",)), "x"), (("d", ("d",)), "x"))]
    found = breakdown(["exact_match"], [*items, None, Item("a", ("a",))], "kind")
    assert {kind: (scores["exact_match"].value, scores["exact_match"].n) for kind, scores in found.items()} == {
        "x": (0.5, 2),
        "1": (1.0, 1),
    }
    assert list(found) == ["x", "1"] and breakdown(["exact_match"], items, "no such") == {}


@pytest.mark.parametrize(
    ("line", "item"),
    [
        ({"prediction": None, "references": ["x"]}, None),
        ({}, None),
        ({"prediction": "a", "references": ["b", "c"], "target": "b"}, Item("a", ("b", "c"))),
        ({"prediction": 7, "target": 7}, Item("7", ("7",))),
        ({"prediction": "", "group": None, "meta": None, "names": None, "likelihoods": None}, Item("")),
        (
            {"prediction": "A", "target": "B", "choices": {"A": "x"}, "names": ["n"], "group": 5, "likelihoods": {"A": -1.0}},
            Item("A", ("B",), {"A": "x"}, ("n",), "5", {}, {"A": -1.0}),
        ),
    ],
)
def test_lines_become_items(line, item):
    assert item_of_line(line) == item


def test_items_have_the_fields_of_examples():
    own = {field.name for field in dataclasses.fields(Item)} - {"prediction", "likelihoods"}
    assert own < {field.name for field in dataclasses.fields(Example)}


def test_ten_thousand_short_answers_take_seconds():
    score(ALL, [Item("warm up", ("warm up",))])
    predictions = [f"The value in {1900 + i % 120} was {i * 0.37:.2f} per cent" for i in range(10_000)]
    started = time.process_time()
    score(ALL, texts(predictions, [(f"about {i * 0.37:.2f} %",) for i in range(10_000)]))
    assert time.process_time() - started < 12


def test_import_is_light():
    heavy = "torch mlx transformers datasets pyarrow sacrebleu rouge_score nltk scipy rapidfuzz".split()
    code = f"import sys, mlxtune.metrics, mlxtune.statistics; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
