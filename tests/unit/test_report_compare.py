"""Runs side by side: seeds together, differences named and proved on the same questions, other questions refused."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from mlxtune.errors import RunError
from mlxtune.metrics import item_of_line
from mlxtune.outcome import write_results
from mlxtune.report.compare import Comparison, cell_text, compare, compare_page
from mlxtune.runs import RunFolder
from mlxtune.statistics import paired_metric, row_clusters
from tests.helpers.fake_run import Fake, answers, fake_run, write_answers
from tests.helpers.hostile import HOSTILE
from tests.unit.test_page import Seen

FIRST = {"general": False, "controls": False, "steps": 4, "looks": False, "drawn": False}


def made(folder: Path, **changes: Any) -> RunFolder:
    """Runs of one test share their data, as they would in life."""
    run = fake_run(folder / str(len(list(folder.iterdir()))), Fake(**{**FIRST, **changes}))
    text = (run.path / "recipe.yaml").read_text(encoding="utf-8").replace(str(run.path.parent / "data"), "/data/charts")
    (run.path / "recipe.yaml").write_text(text, encoding="utf-8")
    write_results(run)
    return run


def value(run: RunFolder, metric: str = "relaxed_accuracy") -> float:
    return run.read_json("after/metrics.json")[metric]["value"]


def test_seeds_are_one_line_with_mean_and_deviation(tmp_path: Path) -> None:
    runs = [made(tmp_path, seed=seed) for seed in range(3)]
    told = compare(runs)
    (group,) = told.groups
    values = [value(run) for run in runs]
    cell = group.cells["test"]["relaxed_accuracy"]
    assert (cell.value, cell.deviation) == (pytest.approx(fmean(values)), pytest.approx(stdev(values)))
    assert (group.seeds, told.keys, group.against) == ("0, 1, 2", [], {"test": None})
    assert cell_text(cell, "relaxed_accuracy") == f"{100 * fmean(values):.1f} % ± {100 * stdev(values):.1f}"
    assert cell.before == pytest.approx(fmean(run.read_json("before/metrics.json")["relaxed_accuracy"]["value"] for run in runs))


def test_what_differs_is_named_and_proved_question_by_question(tmp_path: Path) -> None:
    runs = [
        made(tmp_path),
        made(tmp_path, right_after=0.4, seed=0, recipe={"lora": {"rank": 4}, "model": {"max_pixels": 1000}}),
    ]
    told = compare(runs)
    assert told.keys == ["model.max_pixels", "lora.rank"]
    assert [group.told["lora.rank"] for group in told.groups] == ["16", "4"]
    lines = [run.read_evaluation("after") for run in runs]
    items = [[item_of_line(line) for line in read[0]] for read in lines if read]
    assert lines[0]
    expected = paired_metric("relaxed_accuracy", *items, clusters=row_clusters(lines[0][0]))
    assert told.groups[1].against["test"] == expected and told.groups[0].against["test"] is None
    cell = told.groups[0].cells["test"]["relaxed_accuracy"]
    stored = runs[0].read_json("benchmark_results.json")["sets"]["test"]["metrics"]["relaxed_accuracy"]["after"]
    assert (cell.low, cell.high, cell.deviation) == (stored["low"], stored["high"], None)


def test_several_seeds_against_several_are_compared_by_their_means(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, seed=seed, right_after=right, recipe={"lora": {"rank": rank}})
        for rank, right in ((16, 0.9), (4, 0.2))
        for seed in (0, 1)
    ]
    told = compare(runs)
    assert [len(group.runs) for group in told.groups] == [2, 2]
    change = told.groups[1].against["test"]
    assert change and change.detectable
    assert change.difference == pytest.approx(fmean(map(value, runs[2:])) - fmean(map(value, runs[:2])))


def test_the_backend_counts_as_a_difference_and_an_evaluation_has_no_training_keys(tmp_path: Path) -> None:
    first, second = made(tmp_path), made(tmp_path)
    second.update_info(backend="mlx", device="Apple M4 Pro")
    alone = made(tmp_path, right_before=None, steps=0, recipe={"lora": {"rank": 64}})
    told = compare([first, second, alone])
    assert told.keys == ["kind", "backend", "device"]
    assert [group.told["backend"] for group in told.groups] == ["torch", "mlx", "torch"]


def test_other_questions_are_refused_unless_intersected(tmp_path: Path) -> None:
    first, second = made(tmp_path, rows=60), made(tmp_path, rows=60, first=20, recipe={"lora": {"rank": 4}})
    with pytest.raises(RunError, match="different questions in 'test'.*--intersect"):
        compare([first, second])
    told = compare([first, second], intersect=True)
    assert (told.rows, told.left_out) == ({"test": 40}, {"test": 40})
    lines = first.read_evaluation("after")
    assert lines
    shared = [line["scores"]["relaxed_accuracy"] for line in lines[0] if int(line["id"].split("-")[1]) >= 20]
    assert told.groups[0].cells["test"]["relaxed_accuracy"].value == pytest.approx(fmean(shared))
    assert "40 questions that all runs share, scored anew; 40 are left out" in page(told)


def test_one_id_for_two_questions_is_refused_even_then(tmp_path: Path) -> None:
    first, second = made(tmp_path), made(tmp_path)
    lines = answers(Fake(**FIRST), "after", 0.5)
    write_answers(second, "after", [{**line, "question": "Another?"} for line in lines])
    write_results_alone(second)
    with pytest.raises(RunError, match="have another question"):
        compare([first, second], intersect=True)


def write_results_alone(run: RunFolder) -> None:
    """Of a run whose before and after are not the same questions, less the comparison of the two."""
    for file in ("before/metrics.json", "before/predictions.jsonl"):
        (run.path / file).unlink()
    write_results(run)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_two_different_runs_are_needed(tmp_path: Path, count: int) -> None:
    run = made(tmp_path)
    with pytest.raises(RunError, match="two different runs"):
        compare([run] * count)


def test_rows_in_another_order_are_the_same_questions(tmp_path: Path) -> None:
    first, second = made(tmp_path), made(tmp_path)
    lines = answers(Fake(**FIRST), "after", 0.7)
    write_answers(second, "after", lines[::-1])
    told = compare([first, second])
    assert told.groups[0].cells["test"]["relaxed_accuracy"].value == value(first)
    assert len(told.groups) == 1 or told.groups[1].against["test"].difference == pytest.approx(0)


def test_hostile_texts(tmp_path: Path) -> None:
    first = made(tmp_path, rows=6)
    calm = {tag for tag, _ in Seen(page(compare([first, made(tmp_path, rows=6, recipe={"lora": {"rank": 4}})]))).elements}
    for text, other in zip(HOSTILE[:20:2], HOSTILE[1:20:2], strict=True):
        second = made(tmp_path, rows=6, recipe={"lora": {"rank": 4}})
        second.update_info(device=text, name=text, backend=text)
        third = made(tmp_path, rows=6, seed=1, recipe={"lora": {"rank": 4}})
        third.update_info(device=other, name=other, backend=other)
        html = page(compare([first, second, third]))
        assert {tag for tag, _ in Seen(html).elements} <= calm and "<script" not in html


def page(told: Comparison) -> str:
    return compare_page(told)
