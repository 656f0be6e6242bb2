"""The registry and `score`: what is graded, what is counted apart, what a wrong name says."""

import json
import subprocess
import sys
import time

import pytest

from mlxtune.errors import RecipeError
from mlxtune.metrics import METRICS, get_metrics, score

ALL = ["exact_match", "relaxed_accuracy", "contains", "token_f1", "rouge1", "rouge2", "rougeL", "bleu"]


def test_every_metric_says_what_it_is():
    assert list(METRICS) == ALL
    for name, metric in METRICS.items():
        assert metric.name == name
        assert min(len(metric.definition), len(metric.source), len(metric.caveat)) > 5
        assert metric.higher_is_better
        assert metric.scale == (100.0 if name == "bleu" else 1.0)


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
        score(["zzz"], [], [])


def test_order_of_names_is_kept():
    assert [metric.name for metric in get_metrics(["bleu", "contains"])] == ["bleu", "contains"]


@pytest.mark.parametrize("name", ALL)
def test_none_is_ungraded_and_not_wrong(name):
    truth = "one two three four five"
    scores, items = score([name], [truth, None, truth, "four"], [(truth,), (truth,), (truth,), ()])
    assert (scores[name].n, scores[name].ungraded) == (2, 2)
    assert scores[name].value == pytest.approx(METRICS[name].scale)
    assert items == [{name: items[0][name]}, {name: None}, {name: items[2][name]}, {name: None}]
    assert items[0][name] == items[2][name] == pytest.approx(METRICS[name].scale)


@pytest.mark.parametrize("predictions", [[], [None, None]])
@pytest.mark.parametrize("name", ALL)
def test_nothing_graded_has_no_value(name, predictions):
    scores, items = score([name], predictions, [("x",)] * len(predictions))
    assert scores[name].to_dict() == {"value": None, "n": 0, "ungraded": len(predictions)}
    assert items == [{name: None}] * len(predictions)


@pytest.mark.parametrize("name", ALL)
def test_empty_strings_are_graded(name):
    scores, items = score([name], ["", "word", ""], [("word",), ("",), ("",)])
    both_empty = 1.0 if name in ("exact_match", "relaxed_accuracy", "contains", "token_f1") else 0.0
    assert [item[name] for item in items] == [0.0, 0.0, both_empty]
    assert scores[name].n == 3 and scores[name].value == pytest.approx(both_empty / 3)


def test_scores_are_plain_json_and_repeatable():
    predictions, references = ["The cat sat on the mat today", None, "да"], [("A cat sat on a mat", "cat"), ("x",), ("нет",)]
    first, second = (score(ALL, predictions, references) for _ in range(2))
    assert first == second
    told = json.loads(json.dumps({name: value.to_dict() for name, value in first[0].items()}, allow_nan=False))
    assert set(told["rouge1"]) == {"value", "n", "ungraded", "p", "r"}
    assert set(told["exact_match"]) == {"value", "n", "ungraded"}
    assert told["bleu"]["signature"].startswith("nrefs:var|case:mixed|eff:no|tok:intl|smooth:exp|version:")
    assert json.loads(json.dumps(first[1], allow_nan=False)) == first[1]


def test_lists_of_unequal_length_are_our_own_mistake():
    with pytest.raises(AssertionError, match="2 predictions for 1 items"):
        score(["contains"], ["a", "b"], [("a",)])


def test_ten_thousand_short_answers_take_seconds():
    score(ALL, ["warm up"], [("warm up",)])
    predictions = [f"The value in {1900 + i % 120} was {i * 0.37:.2f} per cent" for i in range(10_000)]
    started = time.process_time()
    score(ALL, predictions, [(f"about {i * 0.37:.2f} %",) for i in range(10_000)])
    assert time.process_time() - started < 5


def test_import_is_light():
    heavy = "torch mlx transformers datasets pyarrow sacrebleu rouge_score nltk".split()
    code = f"import sys, mlxtune.metrics; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
