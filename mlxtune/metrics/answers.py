"""Metrics for short answers: right or wrong, and how much of the answer is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mlxtune.metrics.base import Item, Metric
from mlxtune.metrics.text import fold, no_ascii_punctuation, squad_words, words_and_numbers


def exact_match(item: Item) -> float:
    same = no_ascii_punctuation if item.meta.get("protocol") == "gqa_ru" else fold
    return float(same(item.prediction) in {same(reference) for reference in item.references})


def relaxed_accuracy(item: Item) -> float:
    answer = item.prediction.strip()
    return float(any(_relaxed_match(answer, reference) for reference in item.references))


def _relaxed_match(prediction: str, target: str) -> bool:
    answer, expected = _chartqa_number(prediction), _chartqa_number(target)
    if answer is not None and expected:  # a target of zero is compared as a string, as in the original
        return abs(answer - expected) / abs(expected) <= 0.05
    return prediction.lower() == target.lower()


def _chartqa_number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def contains(item: Item) -> float:
    return float(any(_occurs(reference, item.prediction) for reference in item.references))


def _occurs(reference: str, answer: str) -> bool:
    needle = words_and_numbers(reference)
    if not needle:
        return fold(reference) == fold(answer)
    return f" {' '.join(needle)} " in f" {' '.join(words_and_numbers(answer))} "


def token_f1(item: Item) -> Mapping[str, float]:
    answer = squad_words(item.prediction)
    targets = [squad_words(reference) for reference in item.references]
    return {"value": max(_f1(answer, target) for target in targets), "em": float(answer in targets)}


def _f1(answer: list[str], target: list[str]) -> float:
    if not answer or not target:
        return float(answer == target)
    same = (Counter(answer) & Counter(target)).total()
    if not same:
        return 0.0
    precision, recall = same / len(answer), same / len(target)
    return 2 * precision * recall / (precision + recall)


ANSWERS = (
    Metric(
        name="exact_match",
        item=exact_match,
        definition="Share of answers equal to a reference after Unicode NFKC, case folding and collapsing white space. "
        "Best over the references. Rows of task gqa_ru follow GQA-ru's protocol instead: lower case, ASCII punctuation deleted, "
        "white space around the answer off, nothing else.",
        source="mlxtune; the 'exact accuracy' of most fine-tuning reports, with case and spacing forgiven. GQA-ru: lmms-eval, "
        "tasks/gqa_ru (exact_match with ignore_case and ignore_punctuation).",
        caveat="Any language. Punctuation counts ('Yes.' is not 'Yes') and so do word endings. NFKC makes 'm²' equal 'm2'. Under "
        "GQA-ru's rule 'Да.' is 'да', but '«да»' and two spaces are not forgiven, 'ё' is not 'е', and 'светло-серый' equals "
        "'светлосерый'.",
    ),
    Metric(
        name="relaxed_accuracy",
        item=relaxed_accuracy,
        definition="ChartQA's rule. A trailing % is taken off and the number divided by 100; if both sides are numbers and the "
        "reference is not zero, the answer may differ from it by 5 %; otherwise both must be equal in lower case. White space "
        "around the answer is taken off, the reference is used as it is. Best over the references.",
        source="Masry et al. 2022, section 5.1; code of pix2struct and lmms-eval (relaxed_correctness); best of several "
        "references and the stripping as in VLMEvalKit.",
        caveat="Kept as published, so that values compare: '62%' for '62', '0.0' for '0', '1,000' for '1000' and 'Yes.' for "
        "'Yes' are wrong; '2015' for '2014' and '0.62' for '62%' are right. Decimal commas ('0,5') are not numbers.",
    ),
    Metric(
        name="contains",
        item=contains,
        definition="Share of answers in which a reference occurs as whole words and numbers, in order: tells knowledge from "
        "form. Both sides: NFKC, case folded, punctuation, % and currency signs gone; digits joined by . , : / are one number, "
        "with its minus; '1,000' = '1000', '0,5' = '0.5', '12.0' = '12'. '12' is not in '120', '12.5' or '-12'. Best over the "
        "references.",
        source="mlxtune.",
        caveat="An answer that names every option scores 1, and so does 'not blue' for 'blue': read it beside exact_match, never "
        "alone. No word forms: 'Париж' is not in 'в Париже'. '1 000' is two numbers, '5kg' one word. No use where words are not "
        "spaced (Chinese, Thai).",
    ),
    Metric(
        name="token_f1",
        item=token_f1,
        definition="F1 of the bag of words shared by answer and reference, mean over items, after NFKC, lower case, deleting "
        "punctuation and dropping the English articles a, an, the. Best over the references. If either side is left without "
        "words, 1 if both are, else 0. em beside it: SQuAD's exact match, the share whose words are the same in the same order.",
        source="SQuAD 2.0 evaluation script (Rajpurkar et al. 2018); punctuation of all scripts as in MLQA (Lewis et al. 2020).",
        caveat="Same as SQuAD on ASCII text. 'a' is dropped in every language, also where it is no article (Polish, French). "
        "No word forms, so inflected languages score lower. Without spaces (Chinese, Thai) a sentence is one word.",
    ),
)
