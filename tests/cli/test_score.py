"""``mlxtune score``: answers of any tool, the fields of every task, and bad lines by their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxtune.cli import main
from mlxtune.evaluate.schemas import SCHEMAS
from mlxtune.evaluate.score_file import score_file
from tests.helpers.fake_run import Fake, fake_run

GOOD = {"id": "a", "prediction": "Yes", "target": "Yes"}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["score", *map(str, arguments)], prog_name="mlxtune")


def written(file: Path, *rows: Any) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def test_a_table_with_intervals_and_causes(tmp_path: Path) -> None:
    rows = [{"id": str(n), "prediction": "12" if n % 4 else "It is 12", "target": "12"} for n in range(40)]
    result = run(written(tmp_path / "p.jsonl", *rows), "--task", "chartqa")
    assert result.exit_code == 0, result.output
    for part in (
        "40 rows, task chartqa",
        "relaxed accuracy",
        "75.0 %",
        "95 %: 60.0 … 87.5",
        "form sentence",
        "status  graded 40",
    ):
        assert part in result.output, part
    assert list(tmp_path.iterdir()) == [tmp_path / "p.jsonl"] and "\x1b" not in result.output


def test_a_runs_own_predictions_score_as_in_the_run(tmp_path: Path) -> None:
    made = fake_run(tmp_path / "run", Fake())
    out = tmp_path / "deep/metrics.json"
    result = run(
        made.path / "after/predictions.jsonl",
        "--task",
        "chartqa",
        "--against",
        made.path / "before/predictions.jsonl",
        "--out",
        out,
    )
    assert result.exit_code == 0, result.output
    assert "answers  fixed" in result.output and "points (95 %" in result.output
    metrics, own = json.loads(out.read_text()), made.read_json("after/metrics.json")
    assert {name: metrics[name] for name in own} == own
    for name, schema in SCHEMAS.items():
        schema.model_validate_json((out.parent / name).read_bytes())
    found, stored = (json.loads((folder / "benchmark_results.json").read_text()) for folder in (out.parent, made.path))
    for key in ("rows", "pictures", "items_sha256", "status"):
        assert found["sets"]["test"][key] == stored["sets"]["test"][key], key
    for metric, told in stored["sets"]["test"]["metrics"].items():
        assert found["sets"]["test"]["metrics"][metric] == told
    analysis = json.loads((out.parent / "error_analysis.json").read_text())
    assert {key: analysis[key] for key in ("buckets", "by")} == {
        key: made.read_json("error_analysis.json")[key] for key in ("buckets", "by")
    }


@pytest.mark.parametrize(
    ("task", "row", "line"),
    [
        ("chartqa", {"target": ["a", "b"]}, {"target": "a", "references": ["a", "b"]}),
        ("chartqa", {"references": [1, 2.5], "target": "x"}, {"target": "1", "references": ["1", "2.5"]}),
        ("chartqa", {"prediction": 7, "target": 7.0}, {"prediction": "7", "target": "7"}),
        ("chartqa", {"prediction": None}, {"prediction": None}),
        ("chartqa", {"image": "a.png", "kind": "color"}, {"images": ["a.png"]}),
        ("chartqa", {"images": ["a.png", "b.png"], "finish": "length"}, {"images": ["a.png", "b.png"], "finish": "length"}),
        ("qa", {"kind": "color", "meta": {"chart": "bar"}}, {"meta": {"chart": "bar", "kind": "color"}}),
        ("gqa_ru", {"types": {"semantic": "attr"}}, {"meta": {"protocol": "gqa_ru", "semantic": "attr"}}),
        (
            "mmbench_ru",
            {"index": 1000241, "A": "x", "B": "y", "C": "nan", "target": "A", "category": "c", "L2-category": "l"},
            {"group": "241", "choices": {"A": "x", "B": "y"}, "meta": {"category": "c", "index": 1000241, "l2-category": "l"}},
        ),
        ("mmbench_ru", {"choices": ["x", "y"], "target": "B"}, {"choices": {"A": "x", "B": "y"}}),
        ("mmbench_ru", {"choices": {"A": "x", "C": "y"}, "target": "C"}, {"choices": {"A": "x", "C": "y"}}),
        (
            "mmbench_ru",
            {"choices": ["x", "y"], "target": "B", "likelihoods": [-1, -2.5]},
            {"likelihoods": {"A": -1.0, "B": -2.5}},
        ),
        ("mmbench_ru", {"A": "x", "B": "y", "target": "B", "likelihoods": {"A": 0}}, {"likelihoods": {"A": 0.0}}),
        (
            "characters",
            {"target": None, "names": ["Баба-яга", "Яга"], "class": "yaga"},
            {"names": ("Баба-яга", "Яга"), "target": None},
        ),
        ("characters", {"names": "Яга", "kind": "recognition"}, {"names": ("Яга",), "meta": {"kind": "recognition"}}),
    ],
)
def test_fields_of_the_tasks(tmp_path: Path, task: str, row: dict[str, Any], line: dict[str, Any]) -> None:
    (found,) = score_file(written(tmp_path / "p.jsonl", {**GOOD, **row}), task=task).lines
    assert {key: found.get(key) for key in line} == line


def test_the_tasks_own_rules_count(tmp_path: Path) -> None:
    """GQA-ru ignores punctuation; MMBench-ru takes letters out of sentences and groups rotations."""
    rows = [{"id": str(n), "prediction": "Шкаф.", "target": "шкаф"} for n in range(4)]
    assert score_file(written(tmp_path / "g.jsonl", *rows), task="gqa_ru").metrics["exact_match"]["value"] == 1.0
    rotations = [
        {"index": n * 1_000_000 + 7, "prediction": said, "target": "A", "A": "кот", "B": "пёс"}
        for n, said in enumerate(["(A)", "B"])
    ]
    metrics = score_file(written(tmp_path / "m.jsonl", *rotations), task="mmbench_ru").metrics
    assert (metrics["accuracy"]["value"], metrics["circular_accuracy"]["value"]) == (0.5, 0.0)
    named = {"prediction": "Это Баба-Яга!", "names": ["баба-яга"]}
    found = score_file(written(tmp_path / "c.jsonl", named), task="characters").metrics["recognition_rate"]
    assert (found["value"], found["n"]) == (1.0, 1)


def test_ids_come_from_the_index_or_the_line(tmp_path: Path) -> None:
    rows = [{"prediction": "a", "target": "a"}] * 2
    assert [line["id"] for line in score_file(written(tmp_path / "p.jsonl", *rows), task="qa").lines] == ["1", "2"]
    rows = [{"index": 5, "prediction": "A", "target": "A"}]
    assert score_file(written(tmp_path / "m.jsonl", *rows), task="mmbench_ru").lines[0]["id"] == "5"


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        ("chartqa", "{broken", "p.jsonl:2: not JSON"),
        ("chartqa", "[1]", "p.jsonl:2: a row must be an object"),
        ("chartqa", {"id": "b", "target": "x"}, "p.jsonl:2: no field 'prediction'; it has 'id', 'target'"),
        ("chartqa", {"id": "b", "prediction": "x"}, "p.jsonl:2: no field 'target' or 'references'"),
        ("chartqa", {"prediction": ["x"], "target": "x"}, "p.jsonl:2: field 'prediction' is list"),
        ("chartqa", {"prediction": "x", "target": {"a": 1}}, "p.jsonl:2: field 'target' is dict"),
        ("chartqa", GOOD, "p.jsonl:2: id 'a' stands in"),
        ("chartqa", {"prediction": "x", "target": "x", "meta": [1]}, "p.jsonl:2: field 'meta' is list"),
        ("chartqa", {"prediction": "\ud800", "target": "x"}, "p.jsonl:2: field 'prediction' holds broken Unicode"),
        ("mmbench_ru", {"prediction": "A", "target": "кот", "choices": ["кот", "пёс"]}, "is no letter of the options A, B"),
        ("mmbench_ru", {"prediction": "A", "target": "кот"}, "is no capital letter"),
        ("mmbench_ru", {"prediction": "A", "target": "A", "choices": "AB"}, "field 'choices' is str"),
        (
            "mmbench_ru",
            {"prediction": "A", "target": "A", "choices": ["x", "y"], "likelihoods": [1]},
            "field 'likelihoods' is list",
        ),
        ("mmbench_ru", {"prediction": "A", "target": "A", "index": "x1"}, "field 'index' is not a number"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, task: str, row: Any, said: str) -> None:
    first = {**GOOD, "target": "A"} if task == "mmbench_ru" else GOOD
    line = row if isinstance(row, str) else json.dumps(row)
    result = run(written(tmp_path / "p.jsonl", first, line), "--task", task)
    assert result.exit_code == 2 and said in result.output and "Traceback" not in result.output


def test_of_many_bad_lines_a_few_are_named_and_all_counted(tmp_path: Path) -> None:
    result = run(written(tmp_path / "p.jsonl", *[{"target": "x"}] * 12), "--task", "qa")
    assert result.exit_code == 2
    assert result.output.count("no field 'prediction'") == 5 and "and 7 more lines like these" in result.output


def test_other_rows_are_refused(tmp_path: Path) -> None:
    first = written(tmp_path / "a.jsonl", GOOD, {**GOOD, "id": "b"})
    for other, said in (
        ([GOOD], "not the same rows: 1 only in after ('b')"),
        ([GOOD, {**GOOD, "id": "b", "target": "No"}], "another question, picture or reference"),
    ):
        result = run(first, "--task", "qa", "--against", written(tmp_path / "b.jsonl", *other))
        assert result.exit_code == 2 and said in result.output and "b.jsonl (before)" in result.output


def test_a_question_that_one_file_leaves_out_is_no_difference(tmp_path: Path) -> None:
    rows = [{"id": str(n), "prediction": "x", "target": "x"} for n in range(10)]
    asked = [{**row, "question": f"q{row['id']}", "image": "a.png", "prediction": "y"} for row in rows]
    for one, other in ((rows, asked), (asked, rows)):
        result = run(
            written(tmp_path / "a.jsonl", *one), "--task", "qa", "--against", written(tmp_path / "b.jsonl", *other[::-1])
        )
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gone.jsonl", "--task", "qa"), "gone.jsonl: no such file"),
        (("p.jsonl", "--task", "chart"), "error: task: no task 'chart'"),
        (("p.jsonl",), "Missing option '--task'"),
        (("empty.jsonl", "--task", "qa"), "holds no lines"),
        (("p.jsonl", "--task", "qa", "--out", "p.jsonl/metrics.json"), "cannot be written"),
        (("p.jsonl", "--task", "qa", "--out", "error_analysis.json"), "that name is kept"),
        (("p.jsonl", "--task", "qa", "--out", "run/metrics.json"), "the folder of a run"),
    ],
)
def test_what_a_user_can_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "p.jsonl", GOOD)
    written(tmp_path / "empty.jsonl")
    (tmp_path / "run").mkdir()
    written(tmp_path / "run/run.json", {})
    result = run(*arguments)
    assert result.exit_code == 2 and said in result.output and "Traceback" not in result.output


def test_hostile_answers_reach_the_terminal_as_words(tmp_path: Path) -> None:
    rows = [{"id": f"\x1b[31m{n}", "prediction": "\x1b]0;x\x07[bold]", "target": "[/nope]"} for n in range(3)]
    result = run(written(tmp_path / "p.jsonl", *rows), "--task", "qa")
    assert result.exit_code == 0 and "\x1b" not in result.output
