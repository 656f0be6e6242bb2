"""Metrics over classes: macro-F1 of answers, and recognition of what a picture shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from mlxtune.metrics.base import Item, Metric, Sums
from mlxtune.metrics.text import fold, words

NONE, SEVERAL = "(none)", "(several)"  # in the confusion table: no class, or more than one, is named
Words = tuple[str, ...]


def macro_f1(items: Sequence[Item]) -> Mapping[str, Any]:
    """``{"value", "classes"}``."""
    sums = macro_f1_sums(items)
    totals = sums.rows.sum(axis=0)
    return {"value": float(sums.value(totals)), "classes": sums.rows.shape[1] // 3}


def macro_f1_sums(items: Sequence[Item]) -> Sums:
    """Rows are, for each class, [right, is the reference, is the answer]: F1 is 2 · right / (references + answers)."""
    import numpy as np
    from scipy.sparse import csr_array

    pairs = [_classes(item) for item in items]
    order = {name: number for number, name in enumerate(dict.fromkeys(gold for gold, _ in pairs))}
    size = len(order)
    cells = []  # (row, column)
    for row, (gold, answer) in enumerate(pairs):
        cells.append((row, size + order[gold]))
        if answer in order:
            cells.append((row, 2 * size + order[answer]))
        if answer == gold:
            cells.append((row, order[gold]))
    rows = csr_array((np.ones(len(cells)), tuple(zip(*cells, strict=True))), shape=(len(items), 3 * size))

    def value(sums: np.ndarray) -> np.ndarray:
        right, gold, answered = np.split(np.asarray(sums), 3, axis=-1)
        there = gold > 0  # a class without a reference, in a resample, is none of its classes
        f1 = np.where(there, 2 * right / np.where(there, gold + answered, 1), 0.0)
        return f1.sum(axis=-1) / there.sum(axis=-1)

    return Sums(rows, value)


def _classes(item: Item) -> tuple[str, str]:
    """(class of the item, class answered); of several references the one that was answered, else the first."""
    answer, references = fold(item.prediction), [fold(reference) for reference in item.references]
    return (answer if answer in references else references[0]), answer


def right_class(item: Item) -> float:
    gold, answer = _classes(item)
    return float(gold == answer)


def recognised(item: Item) -> float | None:
    names = [name for name in map(name_words, item.names) if name]
    return float(_names_any(name_words(item.prediction), names)) if names else None


def recognition(items: Sequence[Item]) -> Mapping[str, Any]:
    """``{"value", "by_class", "confusion", "also_others"}``; the last three where items have ``meta["class"]``.

    confusion: class -> class named in the answer -> count; right answers stand on the diagonal, whatever else they name.
    also_others: right answers that name a further class.
    """
    values = [float(recognised(item) or 0.0) for item in items]
    classes = sorted({str(item.meta["class"]) for item in items if item.meta.get("class") is not None})
    if not classes:
        return {"value": fmean(values)}
    owners = _owners(items)
    by_class: dict[str, list[float]] = {name: [] for name in classes}
    confusion: dict[str, Counter[str]] = {name: Counter() for name in by_class}
    also_others = 0
    for item, right in zip(items, values, strict=True):
        if (own := item.meta.get("class")) is None:
            continue
        others = _mentioned(name_words(item.prediction), owners) - {str(own)}
        also_others += bool(right and others)
        by_class[str(own)].append(right)
        confusion[str(own)][str(own) if right else _single(others)] += 1
    return {
        "value": fmean(values),
        "by_class": {name: {"value": fmean(right), "n": len(right)} for name, right in by_class.items()},
        "confusion": {name: dict(counts.most_common()) for name, counts in confusion.items()},
        "also_others": also_others,
    }


def _owners(items: Sequence[Item]) -> dict[Words, set[str]]:
    """Each name, and the classes that it is a name of."""
    owners: dict[Words, set[str]] = {}
    for names, own in {(item.names, str(item.meta["class"])) for item in items if item.meta.get("class") is not None}:
        for name in filter(None, map(name_words, names)):
            owners.setdefault(name, set()).add(own)
    return owners


def name_words(text: str) -> Words:
    """Words of any script in lower case, "ё" as "е"; hyphens and other punctuation part them."""
    return tuple(word.replace("ё", "е") for word in words(text))


def _names_any(answer: Words, names: Iterable[Words]) -> bool:
    joined = f" {' '.join(answer)} "
    return any(f" {' '.join(name)} " in joined for name in names)


def _mentioned(answer: Words, owners: Mapping[Words, set[str]]) -> set[str]:
    """Classes whose names occur in the answer; of overlapping names the longer one counts ("Казанский Кремль", not "Кремль")."""
    lengths = {len(name) for name in owners}
    spans = [(start, start + length) for length in lengths for start in range(len(answer) - length + 1)]
    found: set[str] = set()
    taken: set[int] = set()
    for start, end in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):
        if answer[start:end] in owners and taken.isdisjoint(range(start, end)):
            taken.update(range(start, end))
            found |= owners[answer[start:end]]
    return found


def _single(others: set[str]) -> str:
    return NONE if not others else next(iter(others)) if len(others) == 1 else SEVERAL


CLASSES = (
    Metric(
        name="macro_f1",
        item=right_class,
        corpus=macro_f1,
        sums=macro_f1_sums,
        definition="F1 of each answer class, mean over the classes: a class is a reference (equal as in exact_match), F1 is "
        "2 · right / (rows of the class + answers that name it). An answer that is no class is a miss for its own class only. An "
        "item's own value is whether it is right.",
        source="scikit-learn, f1_score(average='macro') over the classes of the references.",
        caveat="For few classes with many rows each. Rare classes weigh as much as common ones; where nearly every reference is "
        "its own class it is exact_match in disguise.",
    ),
    Metric(
        name="recognition_rate",
        item=recognised,
        corpus=recognition,
        needs_references=False,
        definition="Share of answers in which one of the entity's names (names, aliases and case forms of the entity file) "
        "occurs as whole words, in order. Without regard to case, 'ё' is 'е', hyphens part words. Beside it the rate of each "
        "class (meta 'class') and a confusion table: class, and the class that the answer names instead.",
        source="mlxtune.",
        caveat="Word forms count only if the entity file lists them. An answer that names every entity scores 1: 'also_others' "
        "counts right answers that name a further class. 'not the Kremlin' counts as the Kremlin. Items without names are "
        "ungraded.",
    ),
)
