"""What could not be graded is counted apart; figures describe answers without judging them."""

import pytest

from mlxtune.metrics import STATUSES, AnswerFigures, answer_figures, count_statuses, repetition, score, status
from mlxtune.metrics.base import item_of_line

OPTIONS = {"A": "да", "B": "нет"}
LINES = [
    ({"prediction": "word", "finish": "stop", "target": "word"}, "graded"),
    ({"prediction": "word", "target": "other"}, "graded"),  # wrong is graded
    ({"prediction": None, "target": "word"}, "image missing"),
    ({"prediction": "", "finish": "stop", "target": "word"}, "empty"),
    ({"prediction": " \n", "finish": "length", "target": "word"}, "empty"),
    ({"prediction": "a long answ", "finish": "length", "target": "word"}, "cut off"),
    ({"prediction": "B", "choices": OPTIONS, "target": "A"}, "graded"),
    ({"prediction": "да", "choices": OPTIONS, "target": "A"}, "graded"),
    ({"prediction": "может быть", "choices": OPTIONS, "target": "A"}, "unparseable"),
    ({"prediction": "E", "choices": OPTIONS, "target": "A"}, "unparseable"),
    ({"prediction": "может быть", "target": "A"}, "graded"),  # no options, no form
    ({"prediction": "может быть", "finish": "length", "choices": OPTIONS, "target": "A"}, "cut off"),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_status(line, expected):
    assert status(line) == expected


def test_counts_add_up_to_all_lines():
    counts = count_statuses(line for line, _ in LINES)
    assert tuple(counts) == STATUSES and counts == {"graded": 5, "empty": 2, "cut off": 2, "unparseable": 2, "image missing": 1}
    assert count_statuses([]) == dict.fromkeys(STATUSES, 0)


def test_only_a_missing_picture_leaves_the_score():
    """Empty, cut off and unparseable stay wrong, as the published protocols have it."""
    found = score(["exact_match"], [item_of_line(line) for line, _ in LINES])[0]["exact_match"]
    assert (found.n, found.ungraded) == (11, 1) and found.value == pytest.approx(1 / 11)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("да да да", 0.0),  # one triple
        ("да да да да", 0.5),
        ("the cat sat on the mat", 0.0),
        ("a b c a b c a b c a b c", 1 - 3 / 10),
        ("а" * 40, 1 - 1 / 38),
        ("абв" * 5, 0.0),  # a word of 15 letters is a word
        ("It is aaaaaaaaaaaaaaaaaaaaaaaa", 1 - 1 / 22),
    ],
)
def test_repetition(text, share):
    assert repetition(text) == pytest.approx(share)


def test_figures():
    found = answer_figures(["one two three", "", None, "да " * 10, "five"])
    assert found == AnswerFigures(
        n=4,
        empty=1,
        words_mean=14 / 4,
        words_median=2.0,
        words_longest=10,
        repetition=pytest.approx((1 - 1 / 8) / 4),
        repetitive=0.25,
    )
    assert answer_figures([None]) is None
