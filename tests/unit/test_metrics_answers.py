"""Right-or-wrong metrics and token F1, against published rules and values worked out by hand."""

import collections
import re
import string

import pytest

from mlxtune.metrics import METRICS, Item, score
from mlxtune.metrics.text import squad_words, words, words_and_numbers

# ChartQA's rule: prediction, reference, right?
RELAXED = [
    ("62%", "62", False),
    ("62", "62%", False),
    ("0.62", "62%", True),
    ("62%", "0.62", True),
    ("62%", "62%", True),
    ("62 %", "62%", True),  # float() forgives the space
    ("62%%", "62%", True),  # rstrip takes all of them
    ("%", "%", True),
    ("%", "5", False),
    ("0.0", "0", False),
    ("0", "0", True),
    ("0", "0.0", False),
    ("0%", "0", False),
    ("0.01", "0", False),
    ("0", "5", False),
    ("1,000", "1000", False),
    ("1,000", "1,000", True),
    ("2015", "2014", True),
    ("2120", "2014", False),
    ("Yes.", "Yes", False),
    ("yes", "Yes", True),
    ("YES", "yes", True),
    ("да", "Да", True),
    ("105", "100", True),
    ("95", "100", True),
    ("105.01", "100", False),
    ("94.99", "100", False),
    ("-100", "100", False),
    ("-104", "-100", True),
    ("-106", "-100", False),
    ("100", "one hundred", False),
    ("one hundred", "100", False),
    ("1e2", "100", True),
    ("+100", "100", True),
    ("1_000", "1000", True),  # Python's float() takes underscores
    ("$100", "100", False),
    ("100 USD", "100", False),
    ("0,5", "0.5", False),
    ("nan", "nan", False),
    ("inf", "inf", False),
    ("inf", "5", False),
    ("", "", True),
    ("", "0", False),
    (" Yes\n", "Yes", True),  # VLMEvalKit strips the answer ...
    ("Yes", " Yes", False),  # ... and leaves the reference
    ("Yes", "[Yes]", False),
    ("[2003, 2004]", "[2003,2004]", False),
]


def value(name, prediction, references, **others):
    return METRICS[name].grade(Item(prediction, references, **others))["value"]


def lmms_eval_rule(prediction, target):
    """The published rule, told once more and independently: by cases instead of by one expression."""
    numbers = []
    for text in (prediction, target):
        try:
            numbers.append(float(text.rstrip("%")) / 100.0 if text[-1:] == "%" else float(text))
        except ValueError:
            numbers.append(None)
    if None in numbers or numbers[1] == 0:
        return prediction.lower() == target.lower()
    return abs(numbers[0] - numbers[1]) / abs(numbers[1]) <= 0.05


@pytest.mark.parametrize(("prediction", "reference", "right"), RELAXED)
def test_relaxed_accuracy_follows_chartqa(prediction, reference, right):
    assert value("relaxed_accuracy", prediction, (reference,)) == float(right)
    assert lmms_eval_rule(prediction.strip(), reference) == right


@pytest.mark.parametrize(
    ("prediction", "references", "right"),
    [("2004", ("1990", "2003"), True), ("Yes", ("No", "yes"), True), ("62%", ("62", "0.62"), True), ("7", ("1", "2"), False)],
)
def test_relaxed_accuracy_takes_the_best_reference(prediction, references, right):
    assert value("relaxed_accuracy", prediction, references) == float(right)


@pytest.mark.parametrize(
    ("prediction", "references", "right"),
    [
        ("Paris", ("Paris",), True),
        (" paris \n", ("Paris",), True),
        ("new\t york", ("New  York",), True),
        ("Paris.", ("Paris",), False),
        ("Париж", ("париж",), True),
        ("ЁЖ", ("ёж",), True),
        ("и\u0306од", ("йод",), True),  # decomposed й
        ("STRASSE", ("straße",), True),
        ("ﬁve", ("five",), True),
        ("1\u00a0000", ("1 000",), True),
        ("12", ("120",), False),
        ("12", ("12.0",), False),
        ("b", ("a", "B"), True),
        ("", ("",), True),
        ("  ", ("",), True),
        ("", ("a",), False),
    ],
)
def test_exact_match(prediction, references, right):
    assert value("exact_match", prediction, references) == float(right)


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("Да.", "да", True),
        ("да", "да", True),
        (" ДА!\n", "да", True),
        ("светло-серый", "светло серый", False),  # deleted, not made a space
        ("светло-серый", "светлосерый", True),
        ("«да»", "да", False),  # not ASCII
        ("да…", "да", False),
        ("зелёный", "зеленый", False),
        ("правая  сторона", "правая сторона", False),
        ("правая сторона", "правая сторона", True),
        ("правая", "правая сторона", False),
        ("да, справа", "да", False),
        ("...", "!", True),
    ],
)
def test_exact_match_of_gqa_ru_follows_lmms_eval(prediction, reference, right):
    published = [text.lower().translate(str.maketrans("", "", string.punctuation)) for text in (prediction.strip(), reference)]
    assert (published[0] == published[1]) is right  # ignore_case, ignore_punctuation of the evaluate library
    assert value("exact_match", prediction, (reference,), meta={"protocol": "gqa_ru"}) == float(right)


def test_the_protocol_changes_exact_match_of_its_task_alone():
    assert value("exact_match", "Да.", ("да",)) == value("exact_match", "Да.", ("да",), meta={"protocol": "qa"}) == 0.0
    assert value("exact_match", "и\u0306од", ("йод",), meta={"protocol": "gqa_ru"}) == 0.0  # no NFKC there


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("The answer is 12.", "12", True),
        ("120", "12", False),
        ("12.5", "12", False),
        ("1,200", "12", False),
        ("12,000", "12", False),
        ("-12", "12", False),
        ("minus: -12", "-12", True),
        ("it is \u221212", "-12", True),
        ("10-12 people", "12", True),
        ("12%", "12", True),
        ("12", "12%", True),
        ("$12", "12", True),
        ("h2o", "2", False),
        ("at 12:30", "12", False),
        ("at 12:30", "12:30", True),
        ("3/4 of it", "3", False),
        ("½", "1/2", True),
        ("1,000 in all", "1000", True),
        ("1000", "1,000", True),
        ("1,234,567.80", "1234567.8", True),
        ("0,5", "0.5", True),
        ("12.0", "12", True),
        ("value .5", "5", False),
        ("value .5", "0.5", True),
        ("Yes, it is.", "yes", True),
        ("yesterday", "yes", False),
        ("It was New York City", "new york", True),
        ("New blue York", "New York", False),
        ("York New", "New York", False),
        ("Ответ: «Красный»!", "красный", True),
        ("в Париже", "Париж", False),
        ("प्रश्न", "प", False),  # a letter before its vowel signs is no word
        ("", "yes", False),
        ("yes", "", False),
        ("", "", True),
        ("?!", "?!", True),
        ("?", "!", False),
        ("what?", "?", False),
    ],
)
def test_contains(answer, reference, right):
    assert value("contains", answer, (reference,)) == float(right)


def test_contains_takes_any_reference():
    assert value("contains", "It is blue", ("red", "Blue")) == 1.0


def official_squad_f1(a_gold, a_pred):
    """The SQuAD 2.0 evaluation script, restated plainly; ASCII punctuation only."""

    def normalise(text):
        text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split()).split()

    gold, pred = normalise(a_gold), normalise(a_pred)
    if len(gold) == 0 or len(pred) == 0:
        return int(gold == pred)
    num_same = sum((collections.Counter(gold) & collections.Counter(pred)).values())
    if num_same == 0:
        return 0
    precision, recall = 1.0 * num_same / len(pred), 1.0 * num_same / len(gold)
    return (2 * precision * recall) / (precision + recall)


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("Denver Broncos", "Denver Broncos"),
        ("The Denver Broncos!", "Denver Broncos"),
        ("the Broncos of Denver", "Denver Broncos"),
        ("Santa Clara, California", "Levi's Stadium in the San Francisco Bay Area at Santa Clara, California."),
        ("Levi's Stadium", "Levis Stadium"),
        ("gold gold gold", "gold"),
        ("well-known", "well known"),
        ("1,000", "1000"),
        ("$5 + 3", "5 3"),
        ("the", "a"),
        ("the", "gold"),
        ("", "gold"),
        ("", ""),
        ("...", ""),
        ("theatre an anthem", "a theatre anthem"),
        ("a_b c", "ab C"),
    ],
)
def test_token_f1_is_squads_on_ascii(prediction, reference):
    assert value("token_f1", prediction, (reference,)) == pytest.approx(official_squad_f1(reference, prediction), abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "references", "f1"),
    [
        ("«Красная» машина", ("красная машина",), 1.0),
        ("большая красная машина", ("красная машина",), 0.8),  # p 2/3, r 1
        ("кот", ("пёс",), 0.0),
        ("а", ("а",), 1.0),  # Cyrillic а is no article
        ("blue car", ("red", "the blue car", "blue"), 1.0),
        ("blue car", ("red", "blue"), 2 / 3),
        ("“quoted”", ("quoted",), 1.0),
    ],
)
def test_token_f1_by_hand(prediction, references, f1):
    assert value("token_f1", prediction, references) == pytest.approx(f1)


def test_squad_exact_match_stands_beside_f1():
    items = [Item("The Broncos!", ("broncos",)), Item("Broncos Denver", ("Denver Broncos", "x")), Item("the", ("a",))]
    scores, _ = score(["token_f1"], items)
    assert scores["token_f1"].to_dict() == {"value": 1.0, "n": 3, "ungraded": 0, "em": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("normaliser", "text", "tokens"),
    [
        (words, "Don't_stop, 1,000\u00ad %", ["don", "t", "stop", "1", "000"]),
        (words, "हिन्दी में", ["हिन्दी", "में"]),
        (words, "Зелёный — 5!", ["зелёный", "5"]),
        (squad_words, "The U.S.A.'s «answer»", ["usas", "answer"]),
        (words_and_numbers, "About \u22121,200.50 km.", ["about", "-1200.5", "km"]),
        (words_and_numbers, "covid-19; 10.03.2020 (−5) 1,2,3...", ["covid", "19", "10.03.2020", "-5", "1,2,3"]),
    ],
)
def test_normalisers(normaliser, text, tokens):
    assert normaliser(text) == tokens
