"""``mlxtune data`` as a user meets it: on real rows, without a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mlxtune.cli import main

CHARTS = Path(__file__).parents[2] / "recipes/charts-tiny.yaml"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["data", *arguments], prog_name="mlxtune")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty rows of ten pictures, one row without its picture."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for number in range(20):
        name = f"{number // 2}.png"
        Image.new("RGB", (40, 60), (number, 100, 0)).save(tmp_path / name)
        rows.append({"image": name, "question": f"<b>What is {number}?</b>", "answer": f"it is {number % 3}"})
    rows.append({"image": "gone.png", "question": "Where?", "answer": "there"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text("model: {path: no/model}\ndata: {task: qa, path: ./rows.jsonl}\nout: ./runs\n")
    return tmp_path


def test_rows_are_shown_and_a_page_is_written(folder: Path) -> None:
    result = run("mine.yaml")
    assert result.exit_code == 0, result.output
    for part in ("mine: rows.jsonl (task qa)", "picture missing", "gone.png", "of one colour", "samples: runs/data-mine.html"):
        assert part in result.output, part
    assert "\x1b" not in result.output and "▀" not in result.output
    page = (folder / "runs/data-mine.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;What is 0?&lt;/b&gt;" in page and "<b>What" not in page
    assert page.count("<article") == 20


def test_rows_that_are_left_out_are_listed_before_a_run(folder: Path) -> None:
    result = run("mine.yaml")
    assert "left out: runs/data-mine.skipped.jsonl" in result.output
    (line,) = (folder / "runs/data-mine.skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["reason"] == "picture missing" and json.loads(line)["where"] == "rows.jsonl:21"
    (folder / "gone.png").write_bytes((folder / "0.png").read_bytes())
    assert "left out" not in run("mine.yaml").output
    assert not (folder / "runs/data-mine.skipped.jsonl").exists(), "what is mended is not listed any more"


def test_options(folder: Path) -> None:
    assert run("mine.yaml", "--no-html").exit_code == 0
    assert not (folder / "runs").exists()
    result = run("mine.yaml", "--html", "deep/page.html", "--examples", "0", "--set", "data.limit.train=2")
    assert result.exit_code == 0, result.output
    assert "samples: deep/page.html" in result.output and "question    " not in result.output
    assert (folder / "deep/page.html").is_file()
    assert run("mine.yaml", "--examples", "2").output.count("question    ") == 2


def test_the_sets_of_the_comparison_are_read_too(folder: Path) -> None:
    (folder / "other.jsonl").write_text(json.dumps({"question": "Is it?", "answer": "no"}) + "\n")
    with (folder / "mine.yaml").open("a") as recipe:
        recipe.write("evaluate: {sets: {general: {task: qa, path: ./other.jsonl}}}\n")
    result = run("mine.yaml", "--no-html")
    assert result.exit_code == 0, result.output
    assert "general" in result.output and "answers of general: no (100.0 %)" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine.yaml", "--html", "rows.jsonl/page.html"], "rows.jsonl/page.html: the page cannot be written"),
        (["mine.yaml", "--html", "a.html", "--no-html"], "give one of them"),
        (["mine.yaml", "--set", "data.path=gone.jsonl"], "gone.jsonl"),
        (["mine.yaml", "--set", "data.question=ask"], "no field 'ask'"),
        (["nothing.yaml"], "nothing.yaml"),
    ],
)
def test_what_a_user_can_mend_is_one_line(folder: Path, arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and said in result.output and "Traceback" not in result.output


def test_the_bundled_charts(tmp_path: Path) -> None:
    result = run(str(CHARTS), "--html", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    cells = {line[:26].strip(): line[26:].split() for line in lines}
    assert cells["rows"] == ["600", "100", "300"] and cells["pictures"] == ["200", "34", "100"]
    assert "answers of train: No (12.8 %) · Yes (10.5 %)" in result.output
    assert "<|image_pad|> × 48" in result.output and "nothing stands out" in lines
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<article") == 180 and len(page) < 2_000_000
