"""Numbers as people write them, and small questions about wording."""

from __future__ import annotations

import pytest

from mlxtune.evaluate import wording
from mlxtune.evaluate.quantities import quantities_in, quantity, readings


@pytest.mark.parametrize(
    ("digits", "values"),
    [
        ("12", (12.0,)),
        ("1,000", (1000.0, 1.0)),
        ("1.000", (1000.0, 1.0)),
        ("0,500", (0.5,)),
        ("0.5", (0.5,)),
        (".5", (0.5,)),
        ("12,5", (12.5,)),
        ("1 000", (1000.0,)),
        ("1 000,500", (1000.5,)),
        ("1'000'000", (1e6,)),
        ("1.000.000", (1e6,)),
        ("1,000,000.25", (1000000.25,)),
        ("1.000,5", (1000.5,)),
        ("12.05.2020", ()),
        ("1,2,3", ()),
        ("1.000,5,2", ()),
    ],
)
def test_readings(digits: str, values: tuple[float, ...]) -> None:
    assert readings(digits) == pytest.approx(values)


@pytest.mark.parametrize(
    "text",
    [
        "62",
        "62 %",
        "-5",
        "−5",
        "$5",
        "5 kg",
        "5 руб.",
        "12 млн руб.",
        "1.5k",
        "три",
        "Seven.",
        "~ 40",
        "45 percent",
        "«7»",
        "90°",
    ],
)
def test_a_text_that_is_one_number(text: str) -> None:
    assert quantity(text) is not None


@pytest.mark.parametrize("text", ["", "red", "70 belongs to Nuts", "from 3 to 5", "[2003, 2004]", "about 5", "A", "5 / 6", "Q3"])
def test_a_text_that_is_not(text: str) -> None:
    assert quantity(text) is None


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("62%", "62", True),
        ("62%", "0.62", True),
        ("62", "0.62", False),
        ("1,000", "1000", True),
        ("1,000", "1", True),  # read as Russians do
        ("2 млн", "2000000", True),
        ("2 млн", "2", True),
        ("2 млн", "2 тыс.", True),  # both may have left the multiplier out
        ("2 млн", "3 тыс.", False),
        ("-5", "5", False),
        ("0.1", "0.10", True),
        ("7", "семь", True),
    ],
)
def test_the_same_number(a: str, b: str, same: bool) -> None:
    left, right = quantity(a), quantity(b)
    assert left and right and left.meets(right) is same and right.meets(left) is same


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("From 3 to 5.5 in 2014", ["3", "5.5", "2014"]),
        ("no number", []),
        ("12.05.2020", []),
        ("about 1 000, or 5%", ["1 000", "5"]),
    ],
)
def test_numbers_in_a_text(text: str, numbers: list[str]) -> None:
    assert [number.text for number in quantities_in(text)] == numbers


@pytest.mark.parametrize(
    ("text", "is_year"), [("2014", True), ("1899", False), ("2014.0", False), ("2 014", False), ("201", False)]
)
def test_years(text: str, is_year: bool) -> None:
    assert quantity(text).is_year is is_year


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Yes.", "yes", True),
        ("The cat", "cat", True),
        ("light-blue", "light blue", True),
        ("Чёрный", "черный", True),
        ("1.5", "15", False),
        ("62%", "62", False),
        ("a", "the", False),
        ("", "", False),
        ("red", "read", False),
    ],
)
def test_same_letters(a: str, b: str, same: bool) -> None:
    assert wording.same_letters(a, b) is same


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("диван", "на диване", True),
        ("стакан", "стаканы", True),
        ("белый", "белого", True),
        ("стол", "столик", False),
        ("дом", "дым", False),
        ("bars", "bar", True),
        ("from the sea", "sea", True),
        ("", "в", False),
    ],
)
def test_grammatical_forms(a: str, b: str, same: bool) -> None:
    assert wording.same_but_for_endings(a, b) is same


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("no no no no", True),
        ("no no no", False),
        ("on the left on the left on the left", True),
        ("on the left, on the left of it", False),
        ("The first bar is red and the second bar is blue and the third bar is green", False),
        ("0.333333333333333", False),
        ("100000000", False),
        ("ааааааааааа", True),
        ("Mississippi", False),
        ("----------------", True),
        ("", False),
        ("He said that it was late. " * 3, True),
        (
            "A dog runs over the grass towards a ball which a boy in a blue shirt has thrown for it near the river bank today",
            False,
        ),
    ],
)
def test_loops(text: str, loops: bool) -> None:
    assert wording.loops(text) is loops


@pytest.mark.parametrize(
    ("text", "noisy"),
    [
        ("шкаф", False),
        ("шкaф", True),
        ("Yes.", True),
        ("12.0", True),
        ("12.5", False),
        ("a\u200bb", True),
        ("COVID-19", False),
        ("S&P 500", False),
    ],
)
def test_noise(text: str, noisy: bool) -> None:
    assert wording.is_noisy(text) is noisy


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Yes, it is", True),
        ("да", True),
        ("It is not so: no", False),
        ("yes and no", True),
        ("red", None),
        ("either no or yes", None),
    ],
)
def test_yes_or_no(text: str, value: bool | None) -> None:
    assert wording.yes_or_no_said(text) is value
