"""Which rows a report shows: evenly over each bucket, with both answers, why they are wrong, and their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mlxtune.evaluate.analysis import sample_evenly
from mlxtune.evaluate.buckets import deciding_metric, is_right
from mlxtune.evaluate.errors import causes_of, context_of
from mlxtune.images import ImageRef

FindImage = Callable[[str], ImageRef | None]
Line = Mapping[str, Any]

MOST = 60
_LONGEST = 2000  # characters of a text; the whole stands in predictions.jsonl
_CHOICES = 30  # a column with more values than this is searched, not chosen from
# What a reader wants to see, and its share of the places; what one bucket does not fill goes to the others.
_COMPARED = {"fixed": 3, "broken": 3, "still_wrong": 3, "ungraded": 1}
_ALONE = {"wrong": 6, "right": 3, "ungraded": 1}


class Answered(NamedTuple):
    """right: None where it could not be graded. causes: of a wrong answer, the primary one first. finish: "stop" or "length"."""

    text: str | None
    right: bool | None
    causes: tuple[str, ...]
    finish: str | None


@dataclass(frozen=True)
class Shown:
    """One row of the examples. images: (key, picture or None where it is gone)."""

    bucket: str
    id: str
    question: str
    references: tuple[str, ...]
    before: Answered | None
    after: Answered | None
    images: tuple[tuple[str, ImageRef | None], ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def cause(self) -> str:
        """The primary cause that the row is found by: of the newest wrong answer."""
        for answer in (self.after, self.before):
            if answer and answer.causes:
                return answer.causes[0]
        return ""


def examples(before: Sequence[Line] | None, after: Sequence[Line] | None, *, picture: FindImage, most: int = MOST) -> list[Shown]:
    """At most `most` rows of the two sets of predictions (one may be None), bucket by bucket in the data's order."""
    newest = after or before
    if not newest:
        return []
    metric = deciding_metric(newest)
    context = context_of(newest)
    earlier = {line["id"]: line for line in before or ()} if after else {}
    buckets: dict[str, list[str]] = {}
    for line in newest:
        if not after or not before or line["id"] in earlier:
            buckets.setdefault(_bucket(line, earlier.get(line["id"]), metric), []).append(line["id"])
    later = {line["id"]: line for line in newest}

    def answered(line: Line | None) -> Answered | None:
        if line is None:
            return None
        right = is_right(line, metric)
        causes = causes_of(line, context) if right is False else ()
        return Answered(shortened(line["prediction"]), right, causes, line.get("finish"))

    shown = []
    for bucket, count in _places({name: len(ids) for name, ids in buckets.items()}, most).items():
        for id in sample_evenly(buckets[bucket], count, seed=0):
            line = later[id]
            old, new = (earlier.get(id), line) if after else (line, None)
            shown.append(_shown(line, bucket, answered(old), answered(new), picture))
    return shown


def filters(rows: Sequence[Shown]) -> dict[str, tuple[str, list[str]]]:
    """What examples are chosen by: attribute of our own naming -> (label, values). Labels and values may be foreign text."""
    found: dict[str, tuple[str, list[str]]] = {
        "bucket": ("Outcome", list(dict.fromkeys(spoken(row.bucket) for row in rows))),
        "cause": ("Cause", sorted({spoken(row.cause) for row in rows if row.cause})),
    }
    for number, column in enumerate(dict.fromkeys(key for row in rows for key in row.meta)):
        found[f"meta{number}"] = (column, sorted({row.meta[column] for row in rows if column in row.meta}))
    return {key: (label, values) for key, (label, values) in found.items() if 1 < len(values) <= _CHOICES}


def spoken(key: str) -> str:
    """ "still_wrong" -> "still wrong"."""
    return key.replace("_", " ")


def shortened(text: str | None) -> str | None:
    """`text`, cut where it is very long; what is left out is counted."""
    if text is None or len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} more characters in predictions.jsonl)"


def _bucket(line: Line, earlier: Line | None, metric: str) -> str:
    right = is_right(line, metric)
    if earlier is None:
        return "ungraded" if right is None else "right" if right else "wrong"
    was = is_right(earlier, metric)
    if right is None or was is None:
        return "ungraded"
    return ("still_right" if right else "broken") if was else ("fixed" if right else "still_wrong")


def _places(sizes: Mapping[str, int], most: int) -> dict[str, int]:
    """How many of each bucket: by its share, and what a small one leaves free goes to the others."""
    shares = _ALONE if "wrong" in sizes or "right" in sizes else _COMPARED
    if not any(sizes.get(name) for name in shares):
        shares = {"still_right": 1}
    places = dict.fromkeys((name for name in shares if sizes.get(name)), 0)
    free = min(most, sum(sizes[name] for name in places))
    while free:
        open_ones = [name for name in places if places[name] < sizes[name]]
        total = sum(shares[name] for name in open_ones)
        for name in open_ones:
            more = min(max(1, free * shares[name] // total), sizes[name] - places[name], most - sum(places.values()))
            places[name] += more
        free = min(most, sum(sizes[name] for name in places)) - sum(places.values())
    return places


def _shown(line: Line, bucket: str, before: Answered | None, after: Answered | None, picture: FindImage) -> Shown:
    references = line.get("references") or [line.get("target")]
    return Shown(
        bucket=bucket,
        id=str(line["id"]),
        question=shortened(line.get("question")) or "",
        references=tuple(shortened(str(reference)) or "" for reference in references if reference is not None),
        before=before,
        after=after,
        images=tuple((key, picture(key)) for key in _keys(line.get("images"))),
        choices=line.get("choices") or {},
        meta={str(key): str(value) for key, value in (line.get("meta") or {}).items() if value is not None},
    )


def _keys(images: Iterable[str] | None) -> list[str]:
    return [str(key) for key in images or ()]
