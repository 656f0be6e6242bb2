"""VQA accuracy and ANLS, against the published rules and values worked out by hand."""

import pytest

from mlxtune.metrics import METRICS, Item
from mlxtune.metrics.vqa import vqa_answer


def vqa(prediction, *references):
    return METRICS["vqa_accuracy"].item(Item(prediction, references))


@pytest.mark.parametrize(("same", "value"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_annotators_each_left_out_once(same, value):
    """With 3 of 10: seven times min(1, 3/3) and three times 2/3, that is 0.9. The short form min(1, n/3) gives 1."""
    references = ("yes",) * same + tuple(f"other {number}" for number in range(10 - same))
    assert vqa("yes", *references) == pytest.approx(value)


@pytest.mark.parametrize(
    ("prediction", "references", "value"),
    [
        ("Yes.", ("yes",), 1.0),
        ("no", ("yes",), 0.0),
        ("yes", ("yes", "no"), 0.5),
        ("yes", ("yes", "yes"), 1.0),
        ("yes", ("yes", "yes", "no"), pytest.approx((0.5 + 0.5 + 1) / 3)),
        ("yes", ("yes", "yes", "no", "no"), pytest.approx((1 / 3 + 1 / 3 + 2 / 3 + 2 / 3) / 4)),  # the published formula
        ("Москва", ("Москва",) * 10, 1.0),
    ],
)
def test_other_numbers_of_annotators(prediction, references, value):
    assert vqa(prediction, *references) == value


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The Dog", "dog"),
        ("a an the", ""),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),  # only one apostrophe may be missing
        ("somebody'd", "somebodyd"),  # the table has it the wrong way round
        ("oclock", "o'clock"),
        ("t-shirt", "t shirt"),  # no space beside it: a space
        ("red - blue", "red blue"),
        ("red -blue", "red blue"),
        ("well- known t-shirt", "well known tshirt"),  # one such mark beside a space decides for all of its kind
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("yes.", "yes"),
        ("U.S.", "us"),
        (".5", ".5"),
        ("dog's", "dog 's"),
        ("what?!", "what"),
        ("(red)", "red"),
        ("red/blue", "red blue"),
        ("line\nbreak\tand", "line break and"),
        ("it's 5:30", "it 's 5:30"),
        ("Две собаки!", "две собаки"),
    ],
)
def test_answers_are_normalised_as_the_challenge_does(text, normalised):
    assert vqa_answer(text) == normalised


def levenshtein(left, right):
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        row, before = [i], row
        for j, b in enumerate(right, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def published_anls(prediction, references):
    """The DocVQA script: lower case, single spaces; the length is that of the raw texts; below 0.5 is nothing."""
    best = 0.0
    for reference in references:
        gold, found = (" ".join(text.strip().lower().split()) for text in (reference, prediction))
        length = max(len(reference), len(prediction))
        best = max(best, 1 - (levenshtein(gold, found) / length if length else 0.0))
    return best if best >= 0.5 else 0.0


@pytest.mark.parametrize(
    ("prediction", "references", "value"),
    [
        ("Invoice", ("invoice",), 1.0),
        ("ab", ("ac",), 0.5),  # exactly at the threshold it stays
        ("abc", ("axy",), 0.0),
        ("1000", ("1008",), 0.75),
        ("kitten", ("sitting",), 1 - 3 / 7),
        ("a  b", ("a b",), 1.0),
        ("ab   ", ("axy",), 0.6),  # white space around the answer makes the texts longer, so the distance weighs less
        ("ab", ("axy",), 0.0),
        ("", ("",), 1.0),
        ("", ("abc",), 0.0),
        ("word", ("other", "work"), 0.75),
        ("ПРИВЕТ", ("привет!",), 1 - 1 / 7),
    ],
)
def test_anls(prediction, references, value):
    assert METRICS["anls"].item(Item(prediction, references)) == pytest.approx(value)
    assert published_anls(prediction, references) == pytest.approx(value)
