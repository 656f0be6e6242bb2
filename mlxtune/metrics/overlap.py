"""Metrics of overlap for longer answers: ROUGE and BLEU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from mlxtune.metrics.base import Item, Metric, Sums
from mlxtune.metrics.text import words

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF


class _UnicodeWords:
    """Tokenizer for rouge-score, whose own one knows [a-z0-9] only: a Russian text scores 0 against itself."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _rouge_scorer(kind: str) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=_UnicodeWords())


def rouge(item: Item, *, kind: str) -> Mapping[str, float]:
    """``{"value": f, "p": precision, "r": recall}`` of the reference with the best f; `kind` is rouge1, rouge2 or rougeL."""
    best = _rouge_scorer(kind).score_multi(item.references, item.prediction)[kind]
    return {"value": float(best.fmeasure), "p": float(best.precision), "r": float(best.recall)}


@cache
def _sentence_bleu() -> BLEU:
    from sacrebleu.metrics import BLEU

    # Without effective order every answer of fewer than four tokens scores 0.
    return BLEU(tokenize="intl", effective_order=True)


def sentence_bleu(item: Item) -> float:
    return float(_sentence_bleu().sentence_score(item.prediction, list(item.references)).score)


def corpus_bleu(items: Sequence[Item]) -> Mapping[str, Any]:
    """``{"value": 0..100, "signature": …}``; with a "note" where the value is 0 only because all answers are short."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize="intl")
    result = bleu.corpus_score(*_columns(items))
    grade = {"value": float(result.score), "signature": str(bleu.get_signature())}
    if result.totals[-1] == 0:
        grade["note"] = "no prediction has four tokens, so BLEU is 0 whatever they say"
    return grade


def bleu_sums(items: Sequence[Item]) -> Sums:
    """Rows are [length, reference length, 4 matches, 4 n-grams]: BLEU is a function of their sums."""
    from sacrebleu.metrics import BLEU

    each = [_sentence_bleu().sentence_score(item.prediction, list(item.references)) for item in items]
    rows = np.array([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in each], np.float64)

    def value(sums: np.ndarray) -> np.ndarray:
        # lists of int: compute_bleu writes into its arguments
        split = ((row[2:6].astype(int).tolist(), row[6:].astype(int).tolist(), row[:2]) for row in sums.reshape(-1, 10))
        scores = [BLEU.compute_bleu(c, t, int(n[0]), int(n[1]), smooth_method="exp").score for c, t, n in split]
        return np.array(scores).reshape(sums.shape[:-1])

    return Sums(rows, value)


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics import CHRF

    return CHRF()


def sentence_chrf(item: Item) -> float:
    return float(_chrf().sentence_score(item.prediction, list(item.references)).score)


def corpus_chrf(items: Sequence[Item]) -> Mapping[str, Any]:
    """``{"value": 0..100, "signature": …}``."""
    from sacrebleu.metrics import CHRF

    chrf = CHRF()  # a signature tells of the last scored texts: no shared object here
    result = chrf.corpus_score(*_columns(items))
    return {"value": float(result.score), "signature": str(chrf.get_signature())}


def chrf_sums(items: Sequence[Item]) -> Sums:
    """Rows are chrF's n-gram counts (answer, reference, both; for each order): chrF is a function of their sums."""
    # sacrebleu has no public way to these; tests hold the sums to its corpus_score.
    rows = np.array(_chrf()._extract_corpus_statistics(*_columns(items)), np.float64)

    def value(sums: np.ndarray) -> np.ndarray:
        scores = [_chrf()._compute_f_score(row) for row in sums.reshape(-1, sums.shape[-1]).tolist()]
        return np.array(scores).reshape(sums.shape[:-1])

    return Sums(rows, value)


def _columns(items: Sequence[Item]) -> tuple[list[str], list[list[str]]]:
    """Answers, and streams of first, second, … references; None where an item has fewer of them than another."""
    return [item.prediction for item in items], [list(s) for s in zip_longest(*(item.references for item in items))]


def _rouge_metric(kind: str, *, unit: str, caveat: str = "") -> Metric:
    return Metric(
        name=kind,
        item=partial(rouge, kind=kind),
        definition=f"F-measure of {unit} shared by answer and reference, mean over items; p (precision) and r (recall) beside "
        "it, each the mean over items. Lower case, no stemming. Of several references the one with the best F counts.",
        source="Lin 2004; computed by the rouge-score library.",
        caveat="Words are runs of letters and digits of any script, because the library's default drops all but a-z and 0-9: "
        "on ASCII text the value equals the default's, elsewhere it does not compare with reports that used the default. "
        f"Without spaces (Chinese, Thai) a sentence is one word. Two empty texts score 0.{caveat}",
    )


OVERLAP = (
    _rouge_metric("rouge1", unit="single words"),
    _rouge_metric("rouge2", unit="word pairs", caveat=" An answer of one word scores 0 even when it is right."),
    _rouge_metric("rougeL", unit="the longest common subsequence of words"),
    Metric(
        name="bleu",
        item=sentence_bleu,
        corpus=corpus_bleu,
        sums=bleu_sums,
        scale=100.0,
        definition="Corpus BLEU-4 from 0 to 100, case-sensitive, exponential smoothing, tokenizer 'intl'; sacrebleu's signature "
        "is stored beside it. An item's own value is sentence BLEU with effective order: the corpus value is not their mean.",
        source="Papineni et al. 2002, Post 2018; computed by the sacrebleu library.",
        caveat="Meant for sentences: where no answer has four tokens it is 0 even if all are right (a note says so). 'intl' "
        "splits Cyrillic quotes, '13a' does not: compare only values with the same signature. Not for text without spaces "
        "(Chinese, Thai).",
    ),
    Metric(
        name="chrf",
        item=sentence_chrf,
        corpus=corpus_chrf,
        sums=chrf_sums,
        scale=100.0,
        definition="chrF2 from 0 to 100: F-score (recall counts twice) of character n-grams up to six, white space left out, "
        "case-sensitive; sacrebleu's signature is stored beside it. Of several references the one with the best F counts. The "
        "value is over the whole set: not the mean of the items' own values.",
        source="Popović 2015; computed by the sacrebleu library with its defaults (nc:6, nw:0).",
        caveat="Any language; forgives word endings, so it suits Russian and Polish better than BLEU. Answers of one word have "
        "few n-grams, and a wrong word of the same letters scores well: not for right or wrong.",
    ),
)
