"""The report as Markdown: the page without its pictures, for a pull request or a model card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlxtune.report.answer import change_words, interval_words, set_answer
from mlxtune.report.contents import CONTROLS, Contents
from mlxtune.report.examples import Answered, Shown, spoken
from mlxtune.text import NOTHING, clean, duration, memory, name, one_line, percent, place, rate, value

_EXAMPLES = 4  # of each outcome
_GROUPS = 15  # values of a column
# What Markdown or the HTML inside it would take as more than text.
_MARKS = re.compile(r"([\\`*_{}\[\]<>|~$&#!])")


def markdown(told: Contents) -> str:
    """GitHub's Markdown; foreign text is escaped and on one line."""
    parts = (
        _head,
        _outcome,
        _causes,
        _examples,
        _breakdowns,
        _confusion,
        _further,
        _controls,
        _speed,
        _advice,
        _environment,
        _again,
    )
    return "\n".join(line for part in parts for line in part(told)).rstrip("\n") + "\n"


def plain(text: Any, *, longest: int = 300) -> str:
    """Foreign text as one line that Markdown shows as it is; addresses stay words, they become no links."""
    shown = _MARKS.sub(r"\\\1", one_line(None if text is None else str(text), longest=longest))
    return re.sub(r"(?i)\b(https?|ftp|mailto|www)(?=[:.])", "\\1\u200b", shown)


def _head(told: Contents) -> Iterator[str]:
    yield f"# {plain(told.title)}"
    yield ""
    yield f"**{plain(told.answer.sentence)}.**"
    yield ""
    facts = [plain(place(told.results["model"])), f"task {plain(told.results['task'])}"]
    if adapter := told.results["adapter"]:
        shown = plain(place(adapter))
        facts[0] += f" before, with adapter {shown} after" if told.compared else f" with adapter {shown}"
    if told.results.get("backend"):
        facts.append(f"{plain(told.results['backend'])}, {plain(told.results['device'])}")
    if told.trained:
        facts.append(f"{told.results['steps']:,} steps")
    if told.results.get("wall_s"):
        facts.append(f"{duration(told.results['wall_s'])} in all")
    yield " · ".join(facts)
    yield ""
    if told.own:
        yield from _scores(told.own)
    for text in told.missing:
        yield from (plain(text, longest=1000), "")


def _scores(found: Mapping[str, Any]) -> Iterator[str]:
    metrics = found["metrics"]
    if any(one["change"] for one in metrics.values()):
        rows = [
            (plain(name(metric)), _side(one["before"], one), _side(one["after"], one), _change(one), _graded(one))
            for metric, one in metrics.items()
        ]
        yield from _table(("metric", "before", "after", "change", "graded"), rows)
    else:
        rows = [(plain(name(metric)), _side(one["after"] or one["before"], one), _graded(one)) for metric, one in metrics.items()]
        yield from _table(("metric", "score", "graded"), rows)


def _side(side: Mapping[str, Any] | None, one: Mapping[str, Any]) -> str:
    if side is None:
        return NOTHING
    sure = interval_words(side, scale=one["scale"])
    return value(side["value"], scale=one["scale"]) + (f" ({sure})" if sure else "")


def _change(one: Mapping[str, Any]) -> str:
    change = one["change"]
    if not change or change["difference"] is None:
        return plain(change["text"]) if change else NOTHING
    words = change_words(change, one["scale"])
    return words if change["detectable"] else f"no detectable change ({words})"


def _graded(one: Mapping[str, Any]) -> str:
    side = one["after"] or one["before"]
    return f"{side['n']:,}" + (f" ({side['ungraded']:,} ungraded)" if side["ungraded"] else "")


def _outcome(told: Contents) -> Iterator[str]:
    if told.compared and told.analysis:
        yield from _heading("What became of the answers")
        rows = [(spoken(key), f"{one['n']:,}", percent(one["share"])) for key, one in told.analysis["buckets"].items()]
        yield from _table(("answers", "rows", "share"), rows)


def _causes(told: Contents) -> Iterator[str]:
    if not told.causes or not told.analysis:
        return
    yield from _heading("Why answers are wrong")
    sides = [(phase, told.analysis[phase]) for phase in told.phases]
    rows = [
        (spoken(cause.name), *(_share(side, cause.name) for _, side in sides), plain(cause.description)) for cause in told.causes
    ]
    names = [phase for phase, _ in sides] if told.compared else ["wrong answers"]
    yield from _table(("cause", *names, "what it means"), rows)
    yield from (line for text in told.lengths for line in (text, ""))


def _share(side: Mapping[str, Any], cause: str) -> str:
    found = side["causes"].get(cause)
    return f"{found['n']:,} ({percent(found['share'])})" if found else "0"


def _examples(told: Contents) -> Iterator[str]:
    if not told.examples:
        return
    yield from _heading("Examples")
    labels = ["before", "after"] if told.compared else ["answer"]
    chosen: dict[str, list[Shown]] = {}
    for row in told.examples:
        chosen.setdefault(row.bucket, []).append(row)
    rows = [
        (spoken(bucket), plain(row.question), plain(" / ".join(row.references)), *_answers(row, compared=told.compared))
        for bucket, shown in chosen.items()
        for row in shown[:: max(1, len(shown) // _EXAMPLES)][:_EXAMPLES]
    ]
    yield from _table(("outcome", "question", "reference", *labels), rows)


def _answers(row: Shown, *, compared: bool) -> list[str]:
    def said(answer: Answered | None) -> str:
        return NOTHING if answer is None else plain(answer.text) or "(empty)"

    return [said(row.before), said(row.after)] if compared else [said(row.after or row.before)]


def _breakdowns(told: Contents) -> Iterator[str]:
    if told.breakdowns:
        yield from _heading("Where it is right")
    for column, (groups, more) in told.breakdowns.items():
        rows = [
            (
                plain(label),
                f"{group['n']:,}",
                *(_part(group[f"right_{phase}"], group[f"graded_{phase}"]) for phase in told.phases),
            )
            for label, group in list(groups.items())[:_GROUPS]
        ]
        yield from _table((plain(column), "rows", *(told.phases if told.compared else ["right"])), rows)
        more += max(0, len(groups) - _GROUPS)
        if more:
            yield from (f"and {more:,} more values, in error\\_analysis.json", "")


def _confusion(told: Contents) -> Iterator[str]:
    named, confusion = told.confusion
    if confusion:
        yield from _heading("Who is taken for whom")
        rows = [(plain(label), *(str(counts.get(name, 0)) for name in named)) for label, counts in confusion.items()]
        yield from _table(("shown, named →", *map(plain, named)), rows)


def _part(part: int | None, whole: int | None) -> str:
    return percent(part / whole) if part is not None and whole else NOTHING


def _further(told: Contents) -> Iterator[str]:
    if told.further:
        yield from _heading("Further sets")
    for key, found in told.further.items():
        yield from (f"### {plain(key)}", "", f"{plain(set_answer(found, name=key).sentence)}.", "")
        yield from _scores(found)


def _controls(told: Contents) -> Iterator[str]:
    if not told.own or not told.own["controls"]:
        return
    tried = told.own["controls"]
    scale = told.own["metrics"].get(tried["metric"], {"scale": 1.0})["scale"]
    yield from _heading("How much the answers owe to the pictures")
    rows = [
        (label, value(tried[key], scale=scale) if tried[key] is not None else "not tried", meaning)
        for key, (label, meaning) in CONTROLS.items()
    ]
    yield from _table((f"asked ({tried['rows']:,} rows)", plain(name(tried["metric"])), "what it tells"), rows)


def _speed(told: Contents) -> Iterator[str]:
    rows = []
    if told.trained:
        sums, peak = told.training, told.results.get("peak_bytes")
        speed = f"{rate(sums['samples'], sums['wall_s'])} examples"
        rows.append(("training", duration(sums["wall_s"]), speed, memory(peak) if peak else NOTHING))
    for phase, about in told.about.items():
        speed, peak = about.get("speed") or {}, about.get("peak_bytes")
        wall = duration(speed["wall_s"]) if "wall_s" in speed else NOTHING
        each = f"{speed['answers_per_s']:.3g} answers" if "answers_per_s" in speed else NOTHING
        rows.append((f"answers {phase}" if told.compared else "answers", wall, each, memory(peak) if peak else NOTHING))
    if rows:
        yield from _heading("Speed and memory")
        yield from _table(("", "time", "per second", "peak memory"), rows)


def _advice(told: Contents) -> Iterator[str]:
    if told.results["advice"]:
        yield from _heading("What to do next")
        yield from (f"- {plain(piece['text'], longest=1000)}" for piece in told.results["advice"])
        yield ""


def _environment(told: Contents) -> Iterator[str]:
    yield from _heading("Recipe and environment")
    keys = ("seed", "backend", "device", "platform", "python", "started", "status")
    rows = [(key, plain(told.info[key])) for key in keys if told.info.get(key) is not None]
    rows.append(("precision", plain(told.results["precision"])))
    rows += [(plain(library), plain(version)) for library, version in (told.info.get("versions") or {}).items()]
    yield from _table(("", ""), rows)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", told.recipe)), 3)
    yield from ("<details><summary>recipe.yaml</summary>", "", f"{fence}yaml", clean(told.recipe).rstrip("\n"), fence, "")
    yield from ("</details>", "")


def _again(told: Contents) -> Iterator[str]:
    yield from _heading("How to reproduce")
    for what, command in told.commands:
        yield from (f"{what[:1].upper()}{what[1:]}:", "", f"    {one_line(command, longest=2000)}", "")


def _heading(text: str) -> tuple[str, ...]:
    return f"## {text}", ""


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'|'.join(' --- ' for _ in headings)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
