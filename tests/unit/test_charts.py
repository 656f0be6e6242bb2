"""The bundled charts: reproducible, disjoint from each other and from the schooling, and with right answers."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data" / "charts"


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


charts = _load(ROOT / "scripts" / "draw_charts.py")
BAR = charts.Content("bar", ("Tea", "Milk", "Rice"), (), ("red", "blue", "green"), ((35, 60, 60),))
PIE = charts.Content("pie", ("Tea", "Milk"), (), ("red", "blue"), ((30, 70),))
LINE = charts.Content("line", ("Tea", "Milk", "Rice"), (), ("red",), ((10, 50, 90),))
LINES = charts.Content("line", ("Tea", "Milk", "Rice"), ("North", "East"), ("red", "gray"), ((10, 50, 90), (20, 60, 30)))
GROUPED = charts.Content("grouped", ("Tea", "Milk"), ("North", "East"), ("red", "gray"), ((10, 50), (20, 20)))


def rows(split: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def asked(content, kind: str, tries: int = 300) -> dict[str, str]:
    """Every question of a kind that comes up, with its label."""
    made = [charts.ask(content, kind, random.Random(seed)) for seed in range(tries)]
    return {question.query: question.label for question in made if question}


@pytest.mark.parametrize("split", charts.SPLITS)
def test_bundled_split_is_reproducible(split: str, tmp_path: Path) -> None:
    n_questions, seed = charts.SPLITS[split]
    (tmp_path / "images").mkdir()
    drawn = charts.write_split(tmp_path, split, n_questions=n_questions, seed=seed)
    assert drawn == rows(split)
    for name in {row["image"] for row in drawn}:
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), np.asarray(Image.open(DATA / name))), name


def test_bundled_rows_have_chartqa_columns() -> None:
    for split, (n_questions, _) in charts.SPLITS.items():
        assert len(rows(split)) == n_questions
        for row in rows(split):
            assert set(row) == {"image", "query", "label", "kind", "chart"}
            assert len(row["label"]) == 1 and row["label"][0]
            assert row["kind"] in charts.KINDS and row["chart"] in charts.FORMS
            with Image.open(DATA / row["image"]) as image:
                assert image.size == (charts.WIDTH, charts.HEIGHT) and image.mode == "RGB"


def test_no_picture_and_no_question_of_a_picture_comes_twice() -> None:
    names = [row["image"] for split in charts.SPLITS for row in rows(split)]
    hashes = {name: charts.pixel_hash(Image.open(DATA / name)) for name in set(names)}
    assert len(set(hashes.values())) == len(hashes)
    pairs = [(row["image"], row["query"]) for split in charts.SPLITS for row in rows(split)]
    assert len(set(pairs)) == len(pairs)
    assert all(name.startswith(f"images/{split}-") for split in charts.SPLITS for name in [r["image"] for r in rows(split)])


def test_bundled_size() -> None:
    assert sum(file.stat().st_size for file in DATA.rglob("*") if file.is_file()) <= 4 * 2**20


@pytest.mark.parametrize("split", ["schooling", *charts.SPLITS])
def test_every_chart_of_a_split_has_a_content_of_its_range(split: str) -> None:
    rng = random.Random(0)
    for _ in range(10):
        content = charts.draw(rng, split=split).content
        digest = content.digest()
        assert charts.split_of(content) == split
        assert (digest[0] % 16 == 0) == (split != "schooling")


def test_content_alone_decides_the_split() -> None:
    drawn = [charts.render(LINES, random.Random(seed)) for seed in range(20)]
    assert len({charts.pixel_hash(image) for image in drawn}) > 10  # styles differ ...
    assert len({charts.split_of(LINES) for _ in drawn}) == 1  # ... the split does not


def test_same_seed_same_chart() -> None:
    first, second = (charts.draw(random.Random(3), questions=5) for _ in range(2))
    assert first.content == second.content and first.questions == second.questions
    assert np.array_equal(np.asarray(first.image), np.asarray(second.image))


def test_values() -> None:
    found = asked(BAR, "value")
    assert found["What is the value of Tea?"] == "35"
    assert found["How much is the blue bar?"] == "60"
    assert asked(LINES, "value")["Read the value of East for Rice."] == "30"
    assert all("slice" in query for query in asked(PIE, "value") if "red" in query)


def test_colors() -> None:
    assert asked(PIE, "color") == {
        "What color is Tea?": "Red", "Which color does Tea have?": "Red",
        "What color is Milk?": "Blue", "Which color does Milk have?": "Blue",
    }  # fmt: skip
    assert asked(LINE, "color")["What color is the line?"] == "Red"
    assert asked(GROUPED, "color")["What color is East?"] == "Gray"


def test_extremes_leave_ties_out() -> None:
    found = asked(BAR, "extreme")  # Milk and Rice tie for the highest
    assert found["Which bar is the lowest?"] == "Tea"
    assert found["What color is the lowest bar?"] == "Red"
    assert not any("highest" in query for query in found)
    found = asked(GROUPED, "extreme")
    assert found["Where is North highest?"] == "Milk"
    assert not any("East" in query for query in found)
    assert asked(PIE, "extreme")["What is the largest slice?"] == "Milk"


def test_counts() -> None:
    assert asked(BAR, "count")["How many bars are there?"] == "3"
    assert asked(PIE, "count")["What is the number of slices?"] == "2"
    assert asked(LINE, "count")["How many lines are there?"] == "1"
    assert asked(GROUPED, "count")["How many groups are there?"] == "2"
    assert asked(LINES, "count")["How many colors are there?"] == "2"
    sentences = {charts.ask(LINE, "count", random.Random(seed)).sentence for seed in range(9)}
    assert sentences == {"There is 1 line.", "1 line is in the chart."}


def test_comparisons_leave_equal_values_out() -> None:
    found = asked(BAR, "compare")
    assert found["Is Milk higher than Tea?"] == "Yes"
    assert found["Is Milk lower than Tea?"] == "No"
    assert not any("Milk" in query and "Rice" in query for query in found)
    assert asked(LINES, "compare")["Is North higher than East for Rice?"] == "Yes"


def test_thresholds_keep_their_distance() -> None:
    for content in (BAR, PIE, LINE, LINES, GROUPED):
        for query, label in asked(content, "threshold").items():
            limit = int(query.rstrip("?").split()[-1])
            subject = query.removeprefix("Is the value of ").split(" above ")[0].split(" below ")[0]
            value = int(asked(content, "value", 2000)[f"What is the value of {subject}?"])
            assert abs(value - limit) >= 10
            assert label == ("Yes" if (value > limit) == ("above" in query) else "No")


def test_yes_and_no_are_balanced() -> None:
    rng, labels = random.Random(0), []
    for _ in range(600):
        chart = charts.draw(rng, kinds={"threshold": 1, "compare": 1})
        labels += [question.label == "Yes" for question in chart.questions]
    assert 0.45 < np.mean(labels) < 0.55


def test_shares_of_a_pie_sum_to_a_hundred() -> None:
    rng = random.Random(0)
    for n in range(2, 6):
        for _ in range(50):
            shares = charts._shares(rng, n)
            assert len(shares) == n and sum(shares) == 100 and min(shares) >= 10
            assert all(share % 10 == 0 for share in shares)


def test_bars_have_the_height_of_their_value() -> None:
    content = charts.Content("bar", ("Tea", "Milk"), (), ("red", "blue"), ((50, 100),))
    pixels = np.asarray(charts.render(content, random.Random(1)))  # [H, W, 3] uint8
    heights = [(pixels == charts.COLORS[color]).all(-1).any(1).sum() for color in content.colors]
    assert heights[0] * 2 == pytest.approx(heights[1], abs=2)


def test_sentence_holds_the_label() -> None:
    rng = random.Random(0)
    for _ in range(300):
        for question in charts.draw(rng, questions=6).questions:
            assert question.label.lower() in question.sentence.lower()
            assert question.sentence.rstrip(".").lower() != question.label.lower()


def test_description() -> None:
    assert charts.describe(PIE) == "This is a pie chart. Tea is 30 and red, Milk is 70 and blue."
    expected = "This is a line chart. East is gray. Tea is 20, Milk is 60, Rice is 30."
    assert charts.describe(LINES, 1) == expected
    shuffled = {charts.describe(PIE, rng=random.Random(seed)) for seed in range(9)}
    assert shuffled == {charts.describe(PIE), "This is a pie chart. Milk is 70 and blue, Tea is 30 and red."}


def test_every_word_lies_in_one_image_token() -> None:
    rng = random.Random(0)
    for _ in range(200):
        cells = [(x // 28, y // 28) for _, x, y in charts.places(charts.draw(rng).content)]
        assert len(set(cells)) == len(cells)
        assert all(x % 28 == 14 for _, x, _ in charts.places(charts.draw(rng).content))
