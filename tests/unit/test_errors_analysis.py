"""Before against after: buckets, tables, refusals of unequal sets, and the published form of error_analysis.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlxtune.errors import RunError
from mlxtune.evaluate import schemas
from mlxtune.evaluate.analysis import error_analysis, sample_evenly
from mlxtune.evaluate.buckets import BUCKETS, breakdown_columns, count_buckets, deciding_metric, is_right, pair_up
from mlxtune.evaluate.errors import CAUSES
from mlxtune.evaluate.results import benchmark_results
from mlxtune.evaluate.schemas import SCHEMAS, BenchmarkResults, ErrorAnalysis, schema_of, write_schemas
from tests.helpers.planted import EACH, planted
from tests.helpers.planted_run import Plan, write_run


def line(id: str, right: float | None, *, prediction: str = "x", metric: str = "exact_match", **more: Any) -> dict[str, Any]:
    base = {"id": id, "question": f"{id}?", "target": "ref", "references": ["ref"], "prediction": prediction, "images": [id]}
    return {**base, "finish": "stop", "scores": {metric: right}, **more}


BEFORE = [line("a", 0.0), line("b", 1.0), line("c", 1.0), line("d", 0.0), line("e", None), line("f", 0.0)]
AFTER = [line("f", 1.0), line("a", 1.0), line("b", 0.0), line("c", 1.0), line("d", 0.0), line("e", 1.0)]


def test_buckets() -> None:
    pairs = pair_up(BEFORE, AFTER, metric="exact_match")
    assert [pair.line["id"] for pair in pairs] == list("fabcde")
    assert count_buckets(pairs) == {"fixed": 2, "broken": 1, "still_right": 1, "still_wrong": 1, "ungraded": 1}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (BEFORE[1:], AFTER, "1 only in after ('a')"),
        (BEFORE, AFTER[1:], "1 only in before ('f')"),
        ([*BEFORE, BEFORE[0]], AFTER, "before: 1 ids come more than once ('a')"),
        (BEFORE, [*AFTER[:-1], line("e", 1.0, question="another?")], "1 rows have another question, picture or reference"),
        (
            BEFORE,
            [*AFTER[:-1], line("e", 1.0, images=["other"])],
            "another question, picture or reference before than after ('e')",
        ),
        (BEFORE, [*AFTER[:-1], line("e", 1.0, references=["other"])], "Compare runs over the same data"),
        (BEFORE, [line(f"x{n}", 1.0) for n in range(9)], "9 only in after ('x0', 'x1', 'x2', …)"),
    ],
)
def test_unequal_sets_are_refused(before: list, after: list, told: str) -> None:
    with pytest.raises(RunError) as raised:
        pair_up(before, after, metric="exact_match")
    assert told in str(raised.value)


def test_an_intersection_is_asked_for_and_told() -> None:
    assert [pair.line["id"] for pair in pair_up(BEFORE[1:], AFTER[1:], metric="exact_match", intersect=True)] == list("bcde")
    found = error_analysis(BEFORE[1:], AFTER, intersect=True)
    assert found["left_out"] == {"after": 1} and found["before"]["n"] == found["after"]["n"] == 5
    with pytest.raises(RunError, match="no row in common"):
        pair_up(BEFORE, [line("x", 1.0)], metric="exact_match", intersect=True)


@pytest.mark.parametrize(
    ("metric", "value", "right"),
    [
        ("exact_match", 1.0, True),
        ("exact_match", 0.0, False),
        ("exact_match", None, None),
        ("rougeL", 0.5, True),
        ("rougeL", 0.49, False),
        ("bleu", 50.0, True),
        ("bleu", 49.0, False),
        ("my_own", 0.7, True),
    ],
)
def test_what_is_right(metric: str, value: float | None, right: bool | None) -> None:
    assert is_right(line("a", value, metric=metric), metric) is right


def test_a_threshold_of_ones_own() -> None:
    assert is_right(line("a", 0.4, metric="rougeL"), "rougeL", right_from=0.3) is True


def test_unknown_metrics_are_refused() -> None:
    with pytest.raises(RunError, match="row 'a': no score 'anls'; it has exact_match"):
        is_right(line("a", 1.0), "anls")
    with pytest.raises(RunError, match="have no scores"):
        deciding_metric([{"id": "a"}])
    with pytest.raises(RunError, match="no predictions to look at"):
        error_analysis([], None)


def test_columns_that_name_rows_are_not_broken_down() -> None:
    rows = [line(f"{n}", 1.0, meta={"kind": n % 3, "imageId": n}, names=["Леший"]) for n in range(300)]
    assert breakdown_columns(rows) == (["kind", "name"], ["imageId"])
    found = error_analysis(rows, rows)
    assert found["not_broken_down"] == ["imageId"] and set(found["by"]) == {"kind", "name"}


def test_tables() -> None:
    before = [line(f"{n}", float(n % 2), meta={"kind": "a" if n < 6 else "b"}) for n in range(10)]
    after = [line(f"{n}", float(n < 5) if n else None, meta={"kind": "a" if n < 6 else "b"}) for n in range(10)]
    table = error_analysis(before, after)["by"]["kind"]
    assert list(table) == ["a", "b"]
    assert {key: value for key, value in table["a"].items() if key != "families"} == {
        "n": 6,
        "right_before": 3,
        "right_after": 4,
        "graded_before": 6,
        "graded_after": 5,
        "fixed": 2,
        "broken": 1,
    }
    assert sum(table["b"]["families"].values()) == 4


def test_one_side_alone() -> None:
    found = error_analysis(None, AFTER)
    assert found["before"] is None and found["buckets"] is None and found["moves"] == {}
    assert found["after"]["wrong"] == 2 and found["after"]["right"] == 4
    assert error_analysis(BEFORE, None)["before"]["ungraded"] == 1


def test_the_planted_run_in_numbers() -> None:
    lines, truth = planted()
    mended = [{**row, "scores": {"exact_match": 1.0}} if truth.get(row["id"]) == "form_sentence" else row for row in lines]
    found = error_analysis(lines, mended)
    ErrorAnalysis.model_validate(found)
    assert found["before"]["wrong"] == EACH * len(CAUSES) and found["buckets"]["fixed"]["n"] == EACH
    assert "form_sentence" not in {name for name, cause in found["after"]["causes"].items() if cause["n"]}
    assert found["moves"]["form_sentence"] == {"right": EACH}
    assert sum(cause["n"] for cause in found["before"]["causes"].values()) == found["before"]["wrong"]
    assert sum(family["share"] for family in found["before"]["families"].values()) == pytest.approx(1.0)
    examples = found["before"]["causes"]["near_miss"]["examples"]
    assert len(examples) == len(set(examples)) == 12 and {truth[id] for id in examples} == {"near_miss"}
    assert list(found["buckets"]) == list(BUCKETS)


@pytest.mark.parametrize("count", [1, 3, 12])
def test_examples_are_spread_evenly_and_seeded(count: int) -> None:
    ids = [str(n) for n in range(100)]
    drawn = [int(id) for id in sample_evenly(ids, count, seed=1)]
    gaps = [b - a for a, b in zip(drawn, drawn[1:], strict=False)]
    assert len(drawn) == count and all(abs(gap - 100 / count) <= 1 for gap in gaps) and max(drawn) < 100
    assert sample_evenly(ids, count, seed=1) == [str(n) for n in drawn]
    assert {tuple(sample_evenly(ids, count, seed=seed)) for seed in range(9)} != {tuple(map(str, drawn))}
    assert sample_evenly(ids[:count], count, seed=1) == ids[:count]


# ---- the published schemas


def test_schemas_are_up_to_date(tmp_path) -> None:
    write_schemas(tmp_path)
    for file in SCHEMAS:
        assert json.loads((tmp_path / file.replace(".json", ".schema.json")).read_text(encoding="utf-8")) == schema_of(file)
    kept = Path(schemas.__file__).parent
    for path in tmp_path.iterdir():
        fresh = path.read_text(encoding="utf-8")
        told = 'run: python -c "from mlxtune.evaluate.schemas import write_schemas; write_schemas()"'
        assert (kept / path.name).read_text(encoding="utf-8") == fresh, told


def test_a_run_is_of_the_published_form(tmp_path) -> None:
    run = write_run(tmp_path, Plan())
    read = [run.read_evaluation(phase)[0] for phase in ("before", "after")]
    written = {"error_analysis.json": error_analysis(*read), "benchmark_results.json": benchmark_results(run)}
    for file, content in written.items():
        stored = json.loads(json.dumps(content, allow_nan=False))
        jsonschema.validate(stored, schema_of(file), cls=jsonschema.Draft202012Validator)
    BenchmarkResults.model_validate(written["benchmark_results.json"])


@pytest.mark.parametrize("change", [{"metric": None}, {"novelty": 1}, {"right_from": 2.0}, {"buckets": {"fixed": {"n": -1}}}])
def test_a_wrong_form_is_refused(change: dict) -> None:
    wrong = {**error_analysis(BEFORE, AFTER), **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema_of("error_analysis.json"), cls=jsonschema.Draft202012Validator)


def test_further_causes_are_counted_beside_the_primary_one() -> None:
    rows = [
        line("a", 0.0, prediction="the ref is it", finish="length"),
        line("b", 0.0, prediction="I begin with", finish="length"),
    ]
    causes = error_analysis(None, rows)["after"]["causes"]
    assert {name: (cause["n"], cause["also"]) for name, cause in causes.items()} == {"form_sentence": (1, 0), "cut_off": (1, 1)}
