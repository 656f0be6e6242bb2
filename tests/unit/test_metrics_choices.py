"""Multiple choice: lmms-eval's letter extraction told once more and independently, and what is built on it."""

import pytest

from mlxtune.metrics import Item, extract_letter, score

OPTIONS = {"A": "кошка", "B": "собака", "C": "лошадь", "D": "корова"}
ENGLISH = {"A": "red", "B": "blue", "C": "green", "D": "dark red"}


def published(answer, choices):
    """MMBench_Evaluator.can_infer by its rules: whitespace tokens, then affixes, then the options' texts."""
    tokens = set(answer.split())
    alone = [letter for letter in "ABCDE" if letter in tokens]
    if len(alone) == 1 and not ("A" in tokens and len(answer.split()) > 3):
        return alone[0]
    for form in ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{})."):
        found = [letter for letter in "ABCDE" if form.format(letter) in tokens]
        if len(found) == 1:
            return found[0]
    texts = [letter for letter, text in choices.items() if text.lower() in answer.lower()]
    return texts[0] if len(texts) == 1 else None


TABLE = [  # answer, options, letter
    ("B", OPTIONS, "B"),
    (" B\n", OPTIONS, "B"),
    ("B.", OPTIONS, "B"),
    ("(B)", OPTIONS, "B"),
    ("B)", OPTIONS, "B"),
    ("(B).", OPTIONS, "B"),
    ("B: собака", OPTIONS, "B"),
    ("B, потому что", OPTIONS, "B"),
    ("Ответ :B", OPTIONS, "B"),
    ("Ответ: B", OPTIONS, "B"),
    ("Правильный ответ B", OPTIONS, "B"),
    ("Ответ:B", OPTIONS, None),  # one token, and the colon is not its first character
    ("**B**", OPTIONS, None),
    ("[B]", OPTIONS, None),
    ("b", OPTIONS, None),
    ("(b)", OPTIONS, None),
    ("BC", OPTIONS, None),
    ("A or B", ENGLISH, None),
    ("A. or B.", ENGLISH, None),
    ("A or B.", ENGLISH, "A"),  # "B." is no lone letter
    ("B B B", OPTIONS, "B"),
    ("A", OPTIONS, "A"),
    ("The answer A", ENGLISH, "A"),
    ("A dog is blue here", ENGLISH, "B"),  # more than three words: an article
    ("The right answer is A", ENGLISH, None),
    ("I choose A here", ENGLISH, None),
    ("I choose A", ENGLISH, "A"),
    ("The right answer is A.", ENGLISH, "A"),
    ("A. The dog is blue", ENGLISH, "A"),
    ("E", OPTIONS, "E"),  # not offered, and still a letter
    ("F", OPTIONS, None),
    ("На фото СОБАКА.", OPTIONS, "B"),
    ("собака и кошка", OPTIONS, None),
    ("подсобаканный", OPTIONS, "B"),  # inside a word too
    ("dark red", ENGLISH, None),  # holds "red" as well
    ("B. корова", OPTIONS, "B"),  # the letter before the text
    ("", OPTIONS, None),
    ("не знаю", OPTIONS, None),
    ("B", {}, "B"),
    ("собака", {}, None),
]


@pytest.mark.parametrize(("answer", "options", "letter"), TABLE)
def test_letters_are_found_as_published(answer, options, letter):
    assert extract_letter(answer, options) == letter == published(answer, options)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("А", "A"),
        ("В", "B"),
        ("С", "C"),
        ("В.", "B"),
        ("(С)", "C"),
        ("С) потому", "C"),
        ("Правильный ответ В", "B"),
        ("Е", "E"),
        ("А или В", None),
        ("В данном случае ответ С", None),  # a preposition, for a person
        ("В лесу", None),  # a preposition
        ("А на фото слон", None),
        ("С утра темно", None),
        ("Д", None),  # looks like no Latin letter
        ("Б", None),
        ("в", None),
        ("В. На фото лошадь", "C"),  # the published rules find the text, so Cyrillic is not asked
    ],
)
def test_cyrillic_look_alikes_where_the_published_rules_find_nothing(answer, letter):
    assert not answer.isascii() and extract_letter(answer, OPTIONS) == letter
    assert published(answer, OPTIONS) in (None, letter)


def test_a_fifth_and_a_sixth_option_are_letters():
    six = {letter: f"option {letter} of six" for letter in "ABCDEF"}
    assert extract_letter("F.", six) == "F"


def row(answer, right, *, group="", options=OPTIONS, **meta):
    return Item(answer, (right,), options, group=group, meta=meta)


def test_rows_by_category_and_format_errors_counted_apart():
    items = [
        row("B", "B", category="animals", **{"l2-category": "x"}),
        row("собака", "B", category="animals"),
        row("не знаю", "A", category="plants"),
        row("E", "A", category="plants"),  # a letter that is not offered
        row("C", "A"),
        None,
    ]
    assert score(["accuracy"], items)[0]["accuracy"].to_dict() == {
        "value": 0.4,
        "n": 5,
        "ungraded": 1,
        "format_errors": 2,
        "by_category": {"animals": {"value": 1.0, "n": 2}, "plants": {"value": 0.0, "n": 2}},
        "by_l2-category": {"x": {"value": 1.0, "n": 1}},
    }


def test_a_question_is_right_when_all_its_rotations_are():
    two = {"A": "да", "B": "нет"}
    items = [
        row("A", "A", group="1", options=two, category="x"),
        row("B", "B", group="1", options=two, category="x"),
        row("A", "A", group="2", options=two, category="x"),
        row("A", "B", group="2", options=two, category="x"),
        row("A", "A", group="3", options=two, category="y"),  # its other rotation is not in the sample
    ]
    scores, values = score(["accuracy", "circular_accuracy"], items)
    assert scores["accuracy"].value == 0.8
    circular = scores["circular_accuracy"].to_dict()
    assert circular.pop("note").startswith("1 of 3 questions lack rotations")
    assert circular == {
        "value": pytest.approx(2 / 3),
        "n": 5,
        "ungraded": 0,
        "questions": 3,
        "incomplete": 1,
        "format_errors": 0,
        "by_category": {"x": {"value": 0.5, "n": 2}, "y": {"value": 1.0, "n": 1}},
    }
    assert [value["circular_accuracy"] for value in values] == [1.0, 1.0, 1.0, 0.0, 1.0]


def test_rows_without_a_group_are_questions_of_their_own():
    items = [row("A", "A"), row("B", "A"), row("A", "A")]
    told = score(["circular_accuracy"], items)[0]["circular_accuracy"]
    assert told.value == pytest.approx(2 / 3) and told.extra["incomplete"] == 3


def test_rotations_whose_options_are_not_known():
    items = [row("A", "A", group="1", options={}), row("B", "B", group="1", options={}), row("C", "C", group="2", options={})]
    told = score(["circular_accuracy"], items)[0]["circular_accuracy"]
    assert (told.value, told.extra["questions"], told.extra["incomplete"]) == (1.0, 2, 1)


@pytest.mark.parametrize(
    ("references", "options", "gradable"),
    [
        (("B",), OPTIONS, True),
        (("B",), {}, True),  # options not known
        (("E",), OPTIONS, False),
        (("собака",), OPTIONS, False),
        (("собака",), {}, False),
        (("b",), {}, False),
        ((), OPTIONS, False),
    ],
)
def test_what_has_no_right_letter_is_ungraded(references, options, gradable):
    found = score(["accuracy", "circular_accuracy"], [Item("B", references, options)])[0]
    assert {value.n for value in found.values()} == {int(gradable)}


@pytest.mark.parametrize(
    ("likelihoods", "value"),
    [
        ({"A": -3.0, "B": -0.5, "C": -2.0}, 1.0),
        ({"A": -0.1, "B": -0.5}, 0.0),
        ({"A": -0.5, "B": -0.5}, 0.0),  # a tie is the first one's
        ({"B": -0.5, "A": -0.5}, 1.0),
        ({"A": float("-inf"), "B": -9.0}, 1.0),
        ({"A": float("nan"), "B": -9.0}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_likeliest_option(likelihoods, value):
    item = Item("no letter at all", ("B",), OPTIONS, likelihoods=likelihoods)
    assert score(["option_accuracy"], [item])[1] == [{"option_accuracy": value}]
