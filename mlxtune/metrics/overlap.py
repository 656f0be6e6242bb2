"""Metrics of overlap for longer answers: ROUGE and BLEU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from mlxtune.metrics.base import Metric, References
from mlxtune.metrics.text import words

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU


class _UnicodeWords:
    """Tokenizer for rouge-score, whose own one knows [a-z0-9] only: a Russian text scores 0 against itself."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _rouge_scorer(kind: str) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=_UnicodeWords())


def rouge(prediction: str, references: References, *, kind: str) -> Mapping[str, float]:
    """``{"value": f, "p": precision, "r": recall}`` of the reference with the best f; `kind` is rouge1, rouge2 or rougeL."""
    best = _rouge_scorer(kind).score_multi(references, prediction)[kind]
    return {"value": float(best.fmeasure), "p": float(best.precision), "r": float(best.recall)}


@cache
def _sentence_bleu() -> BLEU:
    from sacrebleu.metrics import BLEU

    # Without effective order every answer of fewer than four tokens scores 0.
    return BLEU(tokenize="intl", effective_order=True)


def sentence_bleu(prediction: str, references: References) -> float:
    return float(_sentence_bleu().sentence_score(prediction, list(references)).score)


def corpus_bleu(predictions: Sequence[str], references: Sequence[References]) -> Mapping[str, Any]:
    """``{"value": 0..100, "signature": …}``; with a "note" where the value is 0 only because all predictions are short."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize="intl")
    streams = [list(stream) for stream in zip_longest(*references)]  # None where an item has fewer references than another
    result = bleu.corpus_score(list(predictions), streams)
    grade = {"value": float(result.score), "signature": str(bleu.get_signature())}
    if result.totals[-1] == 0:
        grade["note"] = "no prediction has four tokens, so BLEU is 0 whatever they say"
    return grade


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
        scale=100.0,
        definition="Corpus BLEU-4 from 0 to 100, case-sensitive, exponential smoothing, tokenizer 'intl'; sacrebleu's signature "
        "is stored beside it. An item's own value is sentence BLEU with effective order: the corpus value is not their mean.",
        source="Papineni et al. 2002, Post 2018; computed by the sacrebleu library.",
        caveat="Meant for sentences: where no answer has four tokens it is 0 even if all are right (a note says so). 'intl' "
        "splits Cyrillic quotes, '13a' does not: compare only values with the same signature. Not for text without spaces "
        "(Chinese, Thai).",
    ),
)
