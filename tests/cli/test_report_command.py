"""``mlxtune report`` and ``mlxtune compare`` as a user meets them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlxtune.cli import main
from mlxtune.runs import RunFolder
from tests.helpers.fake_run import Fake, fake_run


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="mlxtune")


@pytest.fixture
def made(tmp_path: Path) -> RunFolder:
    return fake_run(tmp_path / "one", Fake())


def test_a_run_is_reported_with_its_pictures(made: RunFolder) -> None:
    result = run("report", made.path)
    assert result.exit_code == 0, result.output
    for part in ("relaxed accuracy", "answers     fixed", "controls", "report      ", "run folder:"):
        assert part in result.output, part
    html = (made.path / "report.html").read_text(encoding="utf-8")
    assert html.count('src="data:image/') > 40 and "picture not found" not in html
    assert (made.path / "report.md").read_text(encoding="utf-8").startswith("# fake")


@pytest.mark.parametrize("lost", ["missing", "older", "of another form"])
def test_results_are_made_where_they_do_not_fit(made: RunFolder, lost: str) -> None:
    file = made.path / "benchmark_results.json"
    right = json.loads(file.read_text())
    if lost == "missing":
        file.unlink()
    elif lost == "older":
        file.write_text(json.dumps({**right, "name": "old"}))
        os.utime(file, (0, 0))
    else:
        file.write_text(json.dumps({"relaxed_accuracy": {"before": 0.1, "after": 0.9}}))
    assert run("report", made.path).exit_code == 0
    assert json.loads(file.read_text()) == right


def test_results_that_fit_stay_as_they_are(made: RunFolder) -> None:
    before = (made.path / "benchmark_results.json").stat().st_mtime_ns
    assert run("report", made.path).exit_code == 0
    assert (made.path / "benchmark_results.json").stat().st_mtime_ns == before


def test_data_that_is_gone_costs_the_pictures_alone(made: RunFolder) -> None:
    shutil.rmtree(made.path.parent / "data")
    result = run("report", made.path)
    assert result.exit_code == 0, result.output
    assert "the report has no pictures, because the data cannot be read" in result.stderr
    assert "picture not found" in (made.path / "report.html").read_text(encoding="utf-8")


def test_a_run_without_test_rows(tmp_path: Path) -> None:
    made = fake_run(tmp_path, Fake(right_before=None, right_after=None, general=False))
    (made.path / "benchmark_results.json").unlink()
    result = run("report", made.path)
    assert result.exit_code == 0, result.output
    assert "No test rows were asked" in (made.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: shutil.rmtree(path), "not the folder of a run"),
        (lambda path: (path / "recipe.yaml").unlink(), "not the folder of a run"),
        (lambda path: (path / "recipe.yaml").write_text("modle: {}\n"), "its recipe.yaml is of another version"),
        (lambda path: (path / "before/evaluation.json").unlink(), "the run is of an earlier version"),
        (lambda path: (path / "run.json").write_text("{"), "files of the run are damaged"),
        (lambda path: (path / "after/predictions.jsonl").write_text('{"id": 1\n'), "files of the run are damaged"),
        (
            lambda path: ((path / "report.html").unlink(missing_ok=True), (path / ".report.html.partial").mkdir()),
            "cannot be written",
        ),
    ],
    ids=("no folder", "no recipe", "old recipe", "old run", "broken run.json", "broken answers", "not writable"),
)
def test_what_a_user_can_mend_is_told_in_words(made: RunFolder, damage: object, said: str) -> None:
    damage(made.path)
    result = run("report", made.path)
    assert result.exit_code == 2 and said in result.output and "Traceback" not in result.output


def test_runs_side_by_side(made: RunFolder, tmp_path: Path) -> None:
    other = fake_run(tmp_path / "other", Fake(seed=1, right_after=0.3, recipe={"lora": {"rank": 4}}))
    (made.path / "benchmark_results.json").unlink()  # is made on the way
    result = run("compare", made.path, other.path, "--html", tmp_path / "deep/page.html")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    for part in ("lora.rank", "60 questions of test", "20 questions of general", "relaxed accuracy of 2 against 1: "):
        assert part in result.output, part
    assert "2 runs over the same 60 questions" in (tmp_path / "deep/page.html").read_text(encoding="utf-8")


def test_other_questions(made: RunFolder, tmp_path: Path) -> None:
    other = fake_run(tmp_path / "other", Fake(first=30))
    refused = run("compare", made.path, other.path)
    assert refused.exit_code == 2 and "--intersect" in refused.output
    allowed = run("compare", made.path, other.path, "--intersect")
    assert allowed.exit_code == 0 and "30 questions of test that all share, scored anew (60 left out)" in allowed.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing argument"),
        (("{run}",), "two different runs"),
        (("{run}", "{run}"), "two different runs"),
        (("{run}", "gone"), "gone"),
    ],
)
def test_compare_refuses(made: RunFolder, arguments: tuple[str, ...], said: str) -> None:
    result = run("compare", *(argument.replace("{run}", str(made.path)) for argument in arguments))
    assert result.exit_code == 2 and said in result.output
