"""ROUGE and BLEU, against their libraries called directly and against values worked out by hand."""

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from mlxtune.metrics import METRICS, Item, score


def grade(name, prediction, references):
    return METRICS[name].item(Item(prediction, references))


def items_of(predictions, references):
    return [None if text is None else Item(text, refs) for text, refs in zip(predictions, references, strict=True)]


ROUGE = ["rouge1", "rouge2", "rougeL"]
ENGLISH = [
    ("The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog"),
    ("It's 1,000.5 units -- don't ask", "its 1000.5 units; don't_ask"),
    ("a b c d", "d c b a"),
    ("same", "same"),
    ("", "something"),
    ("something", ""),
    ("!!!", "???"),
    ("UPPER lower\nline\tbreak", "upper LOWER line break"),
]


@pytest.mark.parametrize("kind", ROUGE)
@pytest.mark.parametrize(("prediction", "reference"), ENGLISH)
def test_rouge_equals_the_library_on_english(kind, prediction, reference):
    want = RougeScorer([kind]).score(reference, prediction)[kind]
    assert grade(kind, prediction, (reference,)) == {"value": want.fmeasure, "p": want.precision, "r": want.recall}


@pytest.mark.parametrize("kind", ROUGE)
def test_russian_equals_itself(kind):
    text = "Мама мыла раму"
    assert RougeScorer([kind]).score(text, text)[kind].fmeasure == 0.0  # why the tokenizer is passed in
    assert grade(kind, text, (text,)) == {"value": 1.0, "p": 1.0, "r": 1.0}


@pytest.mark.parametrize(
    ("kind", "p", "r"),
    [
        ("rouge1", 3 / 4, 3 / 5),  # кот, сидит, на
        ("rouge2", 1 / 3, 1 / 4),  # сидит на
        ("rougeL", 3 / 4, 3 / 5),  # кот … сидит на
    ],
)
def test_rouge_by_hand_in_russian(kind, p, r):
    told = grade(kind, "Кот сидит на диване.", ("«Рыжий» кот тихо сидит на",))
    assert (told["p"], told["r"]) == pytest.approx((p, r))
    assert told["value"] == pytest.approx(2 * p * r / (p + r))


def test_rouge_l_needs_order_and_rouge_1_does_not():
    assert grade("rouge1", "раму мыла мама", ("мама мыла раму",))["value"] == 1.0
    assert grade("rougeL", "раму мыла мама", ("мама мыла раму",))["value"] == pytest.approx(1 / 3)


def test_rouge_takes_p_and_r_of_the_reference_with_the_best_f():
    told = grade("rouge1", "red car", ("red car seen from behind the house", "red", "blue"))
    assert told == {"value": pytest.approx(2 / 3), "p": 0.5, "r": 1.0}


def test_rouge_over_items_is_the_mean_of_f_p_and_r():
    scores, items = score(["rouge1"], items_of(["red car", "sky", None], [("red",), ("blue",), ("x",)]))
    assert scores["rouge1"].to_dict() == {"value": pytest.approx(1 / 3), "n": 2, "ungraded": 1, "p": 0.25, "r": 0.5}
    assert [item["rouge1"] for item in items] == [pytest.approx(2 / 3), 0.0, None]


def test_a_right_word_has_no_pair():
    assert grade("rouge2", "blue", ("blue",))["value"] == 0.0


RUSSIAN = (["Он сказал: «Завтра утром будет дождь»."], [["Он сказал: «Завтра вечером будет сильный дождь»."]])
CORPORA = [
    (["The dog bit the man.", "It was not surprising."], [["The dog bit the man.", "It was not unexpected."]]),
    (
        ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."],
        [
            ["The dog bit the man.", "It was not unexpected.", "The man bit him first."],
            ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."],
        ],
    ),
    RUSSIAN,
]


@pytest.mark.parametrize(("predictions", "streams"), CORPORA)
def test_bleu_equals_sacrebleu(predictions, streams):
    bleu = BLEU(tokenize="intl")
    want = bleu.corpus_score(predictions, streams)
    scores, items = score(["bleu"], items_of(predictions, zip(*streams, strict=True)))
    assert 0 < want.score < 100
    told = {"value": want.score, "n": len(predictions), "ungraded": 0, "signature": str(bleu.get_signature())}
    assert scores["bleu"].to_dict() == told
    one = BLEU(tokenize="intl", effective_order=True)
    for i, item in enumerate(items):
        assert item["bleu"] == one.sentence_score(predictions[i], [stream[i] for stream in streams]).score


def test_bleu_splits_cyrillic_quotes():
    assert score(["bleu"], items_of(RUSSIAN[0], zip(*RUSSIAN[1], strict=True)))[0]["bleu"].value != pytest.approx(
        BLEU(tokenize="13a").corpus_score(*RUSSIAN).score
    )
    quoted = grade("bleu", "«дождь»", ("дождь",))
    assert 0 < quoted < 100 and BLEU(tokenize="13a", effective_order=True).sentence_score("«дождь»", ["дождь"]).score == 0


def test_bleu_with_different_numbers_of_references():
    predictions = ["The dog bit the man.", "It was not surprising."]
    scores, _ = score(
        ["bleu"], items_of(predictions, [("The dog bit a man.", "The dog bit the man."), ("It was not unexpected.",)])
    )
    streams = [["The dog bit a man.", "It was not unexpected."], ["The dog bit the man.", None]]
    assert scores["bleu"].value == BLEU(tokenize="intl").corpus_score(predictions, streams).score
    assert scores["bleu"].extra["signature"].startswith("nrefs:var|")


def test_bleu_leaves_ungraded_items_out():
    with_none, _ = score(["bleu"], items_of(["The dog bit the man.", None], [("The dog bit a man.",), ("Nothing.",)]))
    alone, _ = score(["bleu"], items_of(["The dog bit the man."], [("The dog bit a man.",)]))
    assert with_none["bleu"].value == alone["bleu"].value


def test_bleu_says_when_it_is_zero_by_definition():
    short, items = score(["bleu"], items_of(["blue", "red"], [("blue",), ("red",)]))
    assert short["bleu"].value == 0.0 and "four tokens" in short["bleu"].extra["note"]
    assert [item["bleu"] for item in items] == pytest.approx([100.0, 100.0])
    wrong, _ = score(["bleu"], items_of(["a b c d"], [("w x y z",)]))
    assert wrong["bleu"].value == 0.0 and "note" not in wrong["bleu"].extra


SHORT = (["blue", "two of them", ""], [["blue", "three", "sky"], ["azure", None, None]])


@pytest.mark.parametrize(("predictions", "streams"), [*CORPORA, SHORT])
def test_chrf_equals_sacrebleu(predictions, streams):
    chrf = CHRF()
    want = chrf.corpus_score(predictions, streams)
    references = [tuple(text for text in row if text is not None) for row in zip(*streams, strict=True)]
    scores, items = score(["chrf"], items_of(predictions, references))
    told = {"value": want.score, "n": len(predictions), "ungraded": 0, "signature": str(chrf.get_signature())}
    assert scores["chrf"].to_dict() == told
    for text, refs, item in zip(predictions, references, items, strict=True):
        assert item["chrf"] == CHRF().sentence_score(text, refs).score


def test_chrf_forgives_word_endings_and_bleu_does_not():
    assert 40 < grade("chrf", "красная машина", ("красную машину",)) < 100
    assert grade("bleu", "красная машина", ("красную машину",)) == 0.0


NO_PAIRS = (["a b c d e", "the dog"], [["a x c y e", "dog the"]])  # words match and no pair does: smoothing


@pytest.mark.parametrize("name", ["bleu", "chrf"])
@pytest.mark.parametrize(("predictions", "streams"), [*CORPORA, SHORT, NO_PAIRS])
def test_sums_give_the_same_value(name, predictions, streams):
    references = [tuple(text for text in row if text is not None) for row in zip(*streams, strict=True)]
    items = items_of(predictions, references)
    rows, value = METRICS[name].sums(items)
    both = value(np.stack([rows.sum(axis=0), rows[:1].sum(axis=0)]))  # any number of sums at once
    assert both == pytest.approx([METRICS[name].corpus(chosen)["value"] for chosen in (items, items[:1])])
