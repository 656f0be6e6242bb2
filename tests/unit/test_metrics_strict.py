"""The strict variant of relaxed accuracy: what it mends, and what it leaves."""

import pytest

from mlxtune.metrics import METRICS, Item

TABLE = [  # prediction, reference, strict, published
    ("62%", "62", True, False),
    ("62", "62%", True, False),
    ("0.62", "62%", True, True),
    ("62%", "0.62", True, True),
    ("62 %", "62%", True, True),
    ("60%", "62%", True, True),
    ("50%", "62%", False, False),
    ("6.2%", "62%", False, False),
    ("0.0", "0", True, False),
    ("0%", "0", True, False),
    ("-0", "0", True, False),
    ("0.01", "0", False, False),
    ("1,000", "1000", True, False),
    ("1000", "1,000", True, False),
    ("1 000", "1000", True, False),
    ("1\u00a0000", "1,000", True, False),
    ("1'000'000", "1000000", True, False),
    ("1,234,567.8", "1234567.8", True, False),
    ("1,04", "1.04", True, False),
    ("0,5", "0.5", True, False),
    ("1,23", "123", False, False),
    ("10,00", "1000", False, False),
    ("2015", "2014", False, True),
    ("2014", "2014", True, True),
    ("2014.0", "2014", True, True),
    ("2014%", "2014", False, False),
    ("2101", "2110", True, True),  # no year
    ("1799", "1790", True, True),
    ("1805", "1800", False, True),
    ("2014.5", "2014.0", True, True),  # a decimal fraction is no year
    ("2,015", "2,014", True, False),  # nor is a number with a separator
    ("-2015", "-2014", True, True),
    ("105", "100", True, True),
    ("105.01", "100", False, False),
    ("0.105", "0.1", True, True),
    ("1.05", "1", True, False),  # 5.0000000000000044 % to a float
    ("-100", "100", False, False),
    ("\u2212104", "-100", True, False),
    ("+100", "100", True, True),
    ("1e2", "100", True, True),
    ("1_000", "1000", True, True),
    ("1e999", "100", False, False),
    ("nan", "nan", True, False),  # texts
    ("inf", "inf", True, False),
    ("Yes.", "Yes", False, False),
    ("yes", "Yes", True, True),
    ("$100", "100", False, False),
    ("100 USD", "100", False, False),
    ("", "0", False, False),
    ("%", "%", True, True),
    ("[2003, 2004]", "[2003,2004]", True, False),
    ("2003, 2004", "[2003, 2004]", True, False),
    ("2004 and 2003", "[2003, 2004]", True, False),
    ("2003 и 2004", "[2003, 2004]", True, False),
    ("2003,2004", "[2003, 2004]", True, False),
    ("2003; 2004", "[2003, 2004]", True, False),
    ("2003", "[2003, 2004]", False, False),
    ("2003, 2004, 2005", "[2003, 2004]", False, False),
    ("2003, 2005", "[2003, 2004]", False, False),
    ("2003, 2003", "[2003, 2004]", False, False),
    ("['Yes', 'No']", "[Yes, No]", True, False),
    ("No, Yes", "[Yes, No]", True, False),
    ("1,000, 2,000", "[1000, 2000]", True, False),
    ("100, 104", "[104, 99]", True, False),  # 100 fits both, 104 only one: a pairing has to be looked for
    ("104, 100", "[104, 99]", True, False),
    ("5", "[5]", True, False),
    ("", "[]", True, False),
    ("a, b", "a, b", True, True),  # not a list: text
    ("b, a", "a, b", False, False),
]


@pytest.mark.parametrize(("prediction", "reference", "strict", "published"), TABLE)
def test_strict_beside_published(prediction, reference, strict, published):
    item = Item(prediction, (reference,))
    found = {name: METRICS[name].item(item) for name in ("relaxed_accuracy_strict", "relaxed_accuracy")}
    assert found == {"relaxed_accuracy_strict": float(strict), "relaxed_accuracy": float(published)}


def test_best_reference_counts():
    assert METRICS["relaxed_accuracy_strict"].item(Item("2015", ("2014", "2,000", "2015"))) == 1.0
