"""Answers that any tool produced, scored as a run's own are: lines of a file to lines of predictions.jsonl."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.data.base import SourceRow
from mlxtune.data.text_files import read_jsonl
from mlxtune.errors import DataError, RowError, RunError
from mlxtune.evaluate.analysis import error_analysis
from mlxtune.evaluate.answers import items_sha256
from mlxtune.evaluate.buckets import pair_up
from mlxtune.evaluate.results import OWN, compared_metrics
from mlxtune.images import describe
from mlxtune.metrics import count_statuses, item_of_line, score
from mlxtune.recipe.spec import RowsSpec
from mlxtune.tasks import Task, get_task
from mlxtune.tasks.fields import Fields, answer_text, is_absent, is_number

Line = dict[str, Any]

_LETTERS = string.ascii_uppercase[:8]  # columns A, B, … that hold options
_NAMED = 5  # bad lines in a message
_KEPT = ("finish", "new_tokens")


@dataclass(frozen=True)
class ScoredFile:
    """lines: of predictions.jsonl, with their scores. metrics: the content of metrics.json."""

    path: Path
    task: str
    lines: list[Line]
    metrics: dict[str, dict[str, Any]]


def score_file(path: Path, *, task: str) -> ScoredFile:
    """Reads the JSON Lines file and scores it with the task's metrics. Raises DataError that names bad lines by file:line.

    Fields: `prediction` (null = the question was not asked), `target` or `references` (or `names`), and where they are there
    `id`, `question`, `image` or `images`, `group`, `meta`, `finish`, `choices` (a list or letter -> text) or columns A to H,
    `likelihoods` (like the choices), and the task's own such as `index`, `category`, `kind`, `class`.
    """
    known = get_task(task, key="task")
    lines = _read(path, known)
    scores, values = score(known.metrics, [item_of_line(line) for line in lines])
    scored = [{**line, "scores": own} for line, own in zip(lines, values, strict=True)]
    return ScoredFile(path, task, scored, {name: one.to_dict() for name, one in scores.items()})


def file_results(after: ScoredFile, before: ScoredFile | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(content of benchmark_results.json, of error_analysis.json). Raises RunError where the files are not over the same rows."""
    lines = {"before": None, "after": after.lines}
    if before is not None:
        earlier = _filled(before.lines, after.lines)
        metric = next(iter(after.metrics))
        try:
            pairs = pair_up(earlier, after.lines, metric=metric)
        except RunError as error:
            raise RunError(f"{before.path} (before) and {after.path} (after): {error}") from error
        lines["before"] = [dict(pair.earlier) for pair in pairs]
    scores = {"before": before.metrics if before else None, "after": after.metrics}
    analysis = error_analysis(lines["before"], lines["after"])
    told = {
        "task": after.task,
        "rows": len(after.lines),
        "pictures": len({key for line in after.lines for key in line["images"]}),
        "items_sha256": items_sha256(after.lines),
        "metric": next(iter(after.metrics)),
        "metrics": compared_metrics(lines["before"], lines["after"], scores),
        "status": {phase: dict(count_statuses(found)) if found else None for phase, found in lines.items()},
        "controls": None,
        "speed": {"before": None, "after": None},
    }
    unknown = dict.fromkeys(("adapter", "backend", "device", "seed", "wall_s", "best_step", "peak_bytes", "title"))
    about = {"name": after.path.stem, "kind": "score", "model": "unknown", "task": after.task, "precision": "unknown", "steps": 0}
    return {**unknown, **about, "sets": {OWN: told}, "advice": []}, analysis


# -- reading ----------------------------------------------------------------------------------------------------------


def _read(path: Path, task: Task) -> list[Line]:
    if not path.is_file():
        raise DataError(f"{path}: no such file. Name a JSON Lines file with a prediction in each line")
    spec = RowsSpec(path=str(path), task=task.name)
    lines: list[Line] = []
    seen: dict[str, str] = {}
    problems: list[str] = []
    for number, row in enumerate(_rows(path), start=1):
        try:
            line = _line(row, task, spec, number=number)
            if line["id"] in seen:
                raise RowError(
                    f"{row.where}: id '{line['id']}' stands in {seen[line['id']]} already. Give each row its own", reason="id"
                )
        except RowError as error:
            problems.append(str(error))
            continue
        seen[line["id"]] = row.where
        lines.append(line)
    if problems:
        more = len(problems) - _NAMED
        raise DataError("\n".join(problems[:_NAMED] + ([f"{path}: and {more:,} more lines like these"] if more > 0 else [])))
    if not lines:
        raise DataError(f"{path}: holds no lines. Write one JSON object a line, with 'prediction' and 'target'")
    return lines


def _rows(path: Path) -> Iterator[SourceRow]:
    try:
        yield from read_jsonl(lambda: path.open("rb"), shown=str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _line(row: SourceRow, task: Task, spec: RowsSpec, *, number: int) -> Line:
    values = row.values
    fields = Fields(values, where=row.where, spec=spec, columns=task.columns)
    references = _references(fields)
    names = _texts(values.get("names"), fields, name="names")
    if not references and not names:
        raise fields.refusal(
            f"no field 'target' or 'references'; it has {fields.listed()}. Write the right answer into 'target'",
            reason="field missing",
        )
    choices = _choices(fields)
    _check_letter(references, choices, fields, task)
    # Where the task looks for an answer of its own, it finds the reference.
    own = Fields({task.columns.target[0]: (references or names)[0], **values}, where=row.where, spec=spec, columns=task.columns)
    meta = values.get("meta")
    if meta is not None and not isinstance(meta, Mapping):
        raise fields.refusal(f"field 'meta' is {describe(meta)}, no object with named values. Mend it", reason="field wrong")
    optional = {
        "meta": {**(meta or {}), **task.meta_of(own)},
        "choices": choices,
        "group": _text(values.get("group"), fields, name="group") or task.group(own),
        "names": names,
        "likelihoods": _likelihoods(choices, fields),
        **{key: values[key] for key in _KEPT if values.get(key) is not None},
    }
    return {
        "id": _text(values.get("id"), fields, name="id") or fields.identity() or str(number),
        "question": _text(values.get("question"), fields, name="question"),
        "target": references[0] if references else None,
        "references": list(references),
        "prediction": _prediction(fields),
        "images": list(_texts(values.get("images", values.get("image")), fields, name="images")),
        **{key: value for key, value in optional.items() if value},
    }


def _prediction(fields: Fields) -> str | None:
    if "prediction" not in fields.row:
        raise fields.refusal(
            f"no field 'prediction'; it has {fields.listed()}. Write the answer into 'prediction', null where nothing was asked",
            reason="field missing",
        )
    value = fields.row["prediction"]
    if value is None or isinstance(value, str):
        return None if value is None else fields.checked(value, name="prediction")
    return _text(value, fields, name="prediction")


def _references(fields: Fields) -> tuple[str, ...]:
    for name in ("references", "target"):
        if not is_absent(value := fields.row.get(name)) and value != []:
            return _texts(value, fields, name=name)
    return ()


def _texts(value: Any, fields: Fields, *, name: str) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [] if is_absent(value) else [value]
    return tuple(dict.fromkeys(text for item in items if (text := _text(item, fields, name=name))))


def _text(value: Any, fields: Fields, *, name: str) -> str:
    """A cell as text, "" where there is none. Raises RowError for lists and objects."""
    if value is None or value == "":
        return ""
    if (text := answer_text(value)) is None:
        if isinstance(value, str):  # white space alone
            return ""
        raise fields.refusal(f"field '{name}' is {describe(value)}, no text. Mend it", reason="field wrong")
    return fields.checked(text, name=name)


def _choices(fields: Fields) -> dict[str, str]:
    value = fields.row.get("choices")
    if isinstance(value, list):
        if len(value) > len(string.ascii_uppercase):
            raise fields.refusal(f"field 'choices' has {len(value)} options; 26 letters are there", reason="field wrong")
        value = dict(zip(string.ascii_uppercase, value, strict=False))
    if value is None:
        value = {letter: fields.row[letter] for letter in _LETTERS if not is_absent(fields.row.get(letter))}
    if not isinstance(value, Mapping):
        raise fields.refusal(f"field 'choices' is {describe(value)}, no list of options nor letter -> text", reason="field wrong")
    return {str(letter): _text(text, fields, name=f"choices.{letter}") for letter, text in value.items() if not is_absent(text)}


def _check_letter(references: Sequence[str], choices: Mapping[str, str], fields: Fields, task: Task) -> None:
    """Multiple choice is graded by letters: a reference that is none of them would leave the row ungraded without a word."""
    by_letter = "accuracy" in task.metrics
    if by_letter and choices and references and not set(references) & set(choices):
        raise fields.refusal(
            f"target {describe(references[0])} is no letter of the options {', '.join(choices)}. Write the right option's letter",
            reason="field wrong",
        )
    if by_letter and references and not choices and not (len(references[0]) == 1 and references[0] in string.ascii_uppercase):
        raise fields.refusal(
            f"target {describe(references[0])} is no capital letter. Write the right option's letter", reason="field wrong"
        )


def _likelihoods(choices: Mapping[str, str], fields: Fields) -> dict[str, float] | None:
    value = fields.row.get("likelihoods")
    if value is None:
        return None
    if isinstance(value, list) and len(value) == len(choices):
        value = dict(zip(choices, value, strict=True))
    if not isinstance(value, Mapping) or not all(_is_likelihood(number) for number in value.values()):
        raise fields.refusal(
            f"field 'likelihoods' is {describe(value)}; one number for each option is expected, as a list or letter -> number",
            reason="field wrong",
        )
    return {str(letter): float(number) for letter, number in value.items()}


def _is_likelihood(value: Any) -> bool:
    return is_number(value) or (isinstance(value, float) and value == -math.inf)


def _filled(before: Sequence[Line], after: Sequence[Line]) -> list[Line]:
    """Lines of `before` with the question and pictures of their row in `after` where they tell none, and the reverse in place."""
    later = {line["id"]: line for line in after}
    filled = []
    for line in before:
        other = later.get(line["id"], {})
        for key in ("question", "images"):
            if other and not other[key] and line[key]:
                other[key] = line[key]
        filled.append({**line, **{key: other[key] for key in ("question", "images") if other and not line[key]}})
    return filled
