"""The page of `mlxtune data`: the facts of a survey, then samples of every split with their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mlxtune.report.page import render
from mlxtune.survey import DECODED, SplitFacts, Survey, messages_text

_CHOICES = 30  # a meta column with more values than this is searched, not chosen from


def samples_page(survey: Survey) -> str:
    """HTML; `render` says what holds for every page."""
    return render(
        "samples.html.j2",
        survey=survey,
        filters=_filters(survey),
        decoded=DECODED,
        messages_text=messages_text,
        total=sum(len(split.samples) for split in survey.splits),
    )


def _filters(survey: Survey) -> Mapping[str, tuple[str, list[str]]]:
    """What samples are chosen by: attribute of our own naming -> (label, values). Labels and values are foreign text."""
    splits = [split.name for split in survey.splits]
    chosen = {"split": ("Split", splits)} if len(splits) > 1 else {}
    return chosen | {f"meta{number}": (key, values) for number, (key, values) in enumerate(_columns(survey.splits))}


def _columns(splits: tuple[SplitFacts, ...]) -> Iterator[tuple[str, list[str]]]:
    for key in dict.fromkeys(key for split in splits for key in split.meta):
        samples = (sample.example.meta for split in splits for sample in split.samples)
        values = sorted({str(meta[key]) for meta in samples if key in meta})
        if 1 < len(values) <= _CHOICES:
            yield key, values
