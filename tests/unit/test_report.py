"""Reports of runs: the answer first, what there is and what there is not, foreign text as text, the same bytes twice."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest

from mlxtune.errors import RunError
from mlxtune.images import ImageRef, image_ref
from mlxtune.outcome import write_results
from mlxtune.report import write_report
from mlxtune.report.answer import answer_of
from mlxtune.report.contents import contents
from mlxtune.report.examples import examples, filters
from mlxtune.report.markdown import markdown, plain
from mlxtune.report.plots import compared_losses, run_plots, smooth
from mlxtune.report.run_page import run_page
from mlxtune.runs import RunFolder
from mlxtune.text import clean
from tests.helpers.fake_run import Fake, answers, fake_run, photo, pictures, write_answers
from tests.helpers.hostile import HOSTILE
from tests.unit.test_page import Seen

SECTIONS = ("curves", "outcome", "causes", "examples", "kinds", "further", "controls", "speed", "next", "recipe", "again")


def none(key: str) -> None:
    return None


def page_of(run: RunFolder) -> str:
    return run_page(contents(run, picture=none))


def results(*, before: float | None, after: float | None, change: dict[str, Any] | None, scale: float = 1.0) -> dict[str, Any]:
    def side(value: float | None) -> dict[str, Any] | None:
        return None if value is None else {"value": value, "low": value - 0.05 * scale, "high": value + 0.05 * scale, "n": 300}

    metric = {"before": side(before), "after": side(after), "change": change, "scale": scale, "higher_is_better": True}
    return {"sets": {"test": {"rows": 300, "metric": "relaxed_accuracy", "metrics": {"relaxed_accuracy": metric}}}}


def change(difference: float, low: float, high: float, *, detectable: bool) -> dict[str, Any]:
    return {"difference": difference, "low": low, "high": high, "detectable": detectable, "text": ""}


@pytest.mark.parametrize(
    ("told", "sentence", "tone"),
    [
        (
            results(before=0.0, after=0.783, change=change(0.783, 0.736, 0.829, detectable=True)),
            "Relaxed accuracy on 300 test questions rose from 0.0 % to 78.3 % (+78.3 points, 95 %: 73.6 … 82.9)",
            "good",
        ),
        (
            results(before=0.5, after=0.4, change=change(-0.1, -0.15, -0.05, detectable=True)),
            "Relaxed accuracy on 300 test questions fell from 50.0 % to 40.0 % (-10.0 points, 95 %: -15.0 … -5.0)",
            "bad",
        ),
        (
            results(before=0.78, after=0.783, change=change(0.003, -0.02, 0.026, detectable=False)),
            "No detectable change in relaxed accuracy on 300 test questions: 78.0 % before, 78.3 % after "
            "(+0.3 points, 95 %: -2.0 … 2.6)",
            "none",
        ),
        (
            results(before=10.0, after=12.0, scale=100.0, change=change(2.0, 1.0, 3.0, detectable=True)),
            "Relaxed accuracy on 300 test questions rose from 10.0 to 12.0 (+2.0 points, 95 %: 1.0 … 3.0)",
            "good",
        ),
        (
            results(before=None, after=0.437, change=None),
            "Relaxed accuracy on 300 test questions is 43.7 % (95 %: 38.7 … 48.7)",
            "none",
        ),
        ({"sets": {}}, "Nothing was asked, so there is no score", "none"),
    ],
    ids=("rose", "fell", "no change", "of 100", "alone", "nothing"),
)
def test_the_answer_in_one_sentence(told: dict[str, Any], sentence: str, tone: str) -> None:
    answer = answer_of(told)
    assert (answer.sentence, answer.tone) == (sentence, tone)


def test_fewer_is_better_where_the_metric_says_so() -> None:
    told = results(before=0.5, after=0.4, change=change(-0.1, -0.15, -0.05, detectable=True))
    told["sets"]["test"]["metrics"]["relaxed_accuracy"]["higher_is_better"] = False
    assert answer_of(told).tone == "good"


def test_a_whole_report(tmp_path: Path) -> None:
    run = fake_run(tmp_path, Fake())
    html_file, text_file = write_report(run, picture=pictures(run))
    assert (html_file, text_file) == (run.path / "report.html", run.path / "report.md")
    html, text = html_file.read_text(encoding="utf-8"), text_file.read_text(encoding="utf-8")
    places = [html.index(f'id="{name}"') for name in SECTIONS]
    assert places == sorted(places)
    seen = Seen(html)
    assert "Relaxed accuracy on 60 test questions rose from" in seen.text and text.startswith(
        "# fake\n\n**Relaxed accuracy on 60"
    )
    assert sum(n for (tag, _), n in seen.elements.items() if tag == "svg" and n) >= 6
    assert seen.text.count("nats per learned token") == 1 and "picture not found" not in seen.text
    for value in ("mlxtune finetune", "--backend torch", "recipe.yaml", "2.13.0", "split 'test'", "picture missing 2"):
        assert value in seen.text, value
    for heading in ("What became of the answers", "Why answers are wrong", "Further sets", "How much the answers owe", "Speed"):
        assert f"## {heading}" in text
    for told in (seen.text, text):
        assert re.search(
            r"Before: answers are \d\.\d words long .* After: answers are .* [\d.]+ % repeat themselves\.", flat(told)
        )
    for told in (html, text):
        assert not re.search(
            r"None(?! of the rules)", re.sub(r"<script>.*?</script>|<style>.*?</style>", "", told, flags=re.DOTALL)
        )


def flat(text: str) -> str:
    return " ".join(text.split())


def test_models_and_adapters_are_named_by_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = fake_run(tmp_path / "a", Fake(steps=0, recipe={"model": {"path": str(tmp_path / "models/m")}}))
    run.update_info(kind="evaluate", adapter=str(tmp_path / "runs/r/adapter"))
    write_results(run)
    html, text = (file.read_text(encoding="utf-8") for file in write_report(run, picture=pictures(run)))
    for told in (Seen(html).text, text):
        assert "models/m before, with adapter runs/r/adapter after" in flat(told)
    assert plain(tmp_path) not in text.partition("##")[0]


def test_who_is_taken_for_whom(tmp_path: Path) -> None:
    run = fake_run(tmp_path, Fake())
    html, text = (file.read_text(encoding="utf-8") for file in write_report(run, picture=pictures(run)))
    assert "taken for whom" not in html + text
    scores = run.read_json("after/metrics.json")
    told = {"Яга <b>": {"Яга <b>": 7, "firebird": 2}, "firebird": {"firebird": 8, "(none)": 1}}
    rate = {"value": 0.8, "n": 18, "ungraded": 0, "confusion": told}
    run.write_json("after/metrics.json", {**scores, "recognition_rate": rate})
    html, text = (file.read_text(encoding="utf-8") for file in write_report(run, picture=pictures(run)))
    table = "Who is taken for whom class Яга <b> firebird (none) Яга <b> 7 2 0 firebird 0 8 1"
    assert "".join(table.split()) in "".join(Seen(html).text.split())
    assert "| firebird | 0 | 8 | 1 |" in text and "Яга <b>" not in html


def test_twice_the_same_bytes(tmp_path: Path) -> None:
    run = fake_run(tmp_path, Fake())
    first, second = ([file.read_bytes() for file in write_report(run, picture=pictures(run))] for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("fake", "without", "said"),
    [
        (Fake(right_before=None, steps=0), {"curves", "outcome"}, "One model was scored"),
        (Fake(looks=False), set(), "no looks at validation rows"),
        (Fake(controls=False), {"controls"}, "No controls were run"),
        (Fake(general=False), {"further"}, ""),
        (
            Fake(right_before=None, right_after=None, general=False),
            {"outcome", "causes", "examples", "kinds", "further", "controls", "next"},
            "No test rows were asked",
        ),
        (Fake(right_before=1.0, right_after=1.0), set(), "No graded answer is wrong"),
        (Fake(right_after=None, steps=0), {"curves", "outcome", "controls"}, "One model was scored"),
        (Fake(steps=1, looks=False), set(), ""),
    ],
    ids=("one model", "no validation", "no controls", "one set", "nothing asked", "all right", "before alone", "one step"),
)
def test_what_a_run_lacks_is_left_out_and_said(tmp_path: Path, fake: Fake, without: set[str], said: str) -> None:
    run = fake_run(tmp_path, fake)
    html = page_of(run)
    there = {name for name in SECTIONS if f'<h2 id="{name}"' in html}
    assert there == set(SECTIONS) - without
    linked = set(re.findall(r'<a href="#(\w+)"', html)) - {"main"}
    assert linked <= there
    assert said in html
    assert said.split("(")[0] in markdown(contents(run, picture=none)) or said == "No graded answer is wrong"


def test_a_run_that_did_not_end_says_so(tmp_path: Path) -> None:
    run = fake_run(tmp_path, Fake())
    run.update_info(status="running")
    assert '<b class="bad">running</b>' in page_of(run)


def test_a_run_without_results_is_refused(tmp_path: Path) -> None:
    run = fake_run(tmp_path, Fake())
    (run.path / "benchmark_results.json").unlink()
    with pytest.raises(RunError, match="mlxtune report"):
        write_report(run, picture=none)
    write_results(run)
    write_report(run, picture=none)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    run = fake_run(tmp_path, Fake())
    (run.path / ".report.html.partial").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_report(run, picture=none)


# -- examples ---------------------------------------------------------------------------------------------------------


def graded(rights: list[tuple[bool | None, bool | None]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    def line(number: int, right: bool | None) -> dict[str, Any]:
        return {
            "id": str(number),
            "question": f"q{number}",
            "target": "a",
            "references": ["a"],
            "prediction": "a" if right else "b",
            "finish": "stop",
            "images": [f"{number}.png"],
            "scores": {"exact_match": None if right is None else float(right)},
        }

    return tuple([line(n, pair[side]) for n, pair in enumerate(rights)] for side in (0, 1))


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ({"fixed": 200, "broken": 200, "still_wrong": 200, "still_right": 9}, {"fixed": 20, "broken": 20, "still_wrong": 20}),
        ({"fixed": 200, "broken": 2, "still_wrong": 200}, {"fixed": 29, "broken": 2, "still_wrong": 29}),
        ({"fixed": 5, "broken": 0, "still_wrong": 3}, {"fixed": 5, "still_wrong": 3}),
        ({"still_right": 50}, {"still_right": 50}),
        ({"fixed": 300}, {"fixed": 60}),
    ],
)
def test_places_are_shared_out(counts: dict[str, int], shown: dict[str, int]) -> None:
    kinds = {"fixed": (False, True), "broken": (True, False), "still_wrong": (False, False), "still_right": (True, True)}
    before, after = graded([kinds[name] for name, count in counts.items() for _ in range(count)])
    found: dict[str, int] = {}
    for row in examples(before, after, picture=none):
        found[row.bucket] = found.get(row.bucket, 0) + 1
    assert found == shown


def test_examples_are_spread_and_carry_both_answers() -> None:
    before, after = graded([(False, True)] * 600)
    rows = examples(before, after, picture=none)
    numbers = [int(row.id) for row in rows]
    assert numbers == sorted(numbers) and {b - a for a, b in zip(numbers, numbers[1:], strict=False)} == {10}
    row = rows[0]
    assert row.before and row.after
    assert (row.before.right, row.after.right, row.cause) == (False, True, row.before.causes[0])
    assert row.images == ((f"{row.id}.png", None),)


def test_one_set_of_answers_has_wrong_and_right_ones() -> None:
    _, after = graded([(None, n % 2 == 0) for n in range(300)] + [(None, None)])
    rows = examples(None, after, picture=none)
    assert {name: sum(row.bucket == name for row in rows) for name in ("wrong", "right", "ungraded")} == {
        "wrong": 40,
        "right": 19,
        "ungraded": 1,
    }
    assert all(row.before is None for row in rows)
    assert filters(rows)["bucket"][1] == ["wrong", "right", "ungraded"]


def test_a_long_answer_is_cut_and_the_rest_counted() -> None:
    before, after = graded([(False, False)])
    after[0]["prediction"] = "x" * 5000
    (row,) = examples(before, after, picture=none)
    assert row.after and row.after.text == "x" * 2000 + " … (3,000 more characters in predictions.jsonl)"


def test_pictures_that_are_gone_are_named(tmp_path: Path) -> None:
    run = fake_run(tmp_path, Fake(drawn=False))
    html = page_of(run)
    assert "picture not found: <bdi>images/" in html and "data:image" not in html


# -- plots ------------------------------------------------------------------------------------------------------------


def plots() -> list[Any]:
    steps = [{"step": n, "loss": 3 / n, "learning_rate": 1e-4, "grad_norm": 1.0} for n in range(1, 2001)]
    looks = [{"step": n, "loss": 4 / n, "scores": {"relaxed_accuracy": 0.5, "bleu": None}} for n in (500, 1000, 2000)]
    return run_plots(steps, looks, best_step=1000, checkpoints=(1500, 2000), scales={"relaxed_accuracy": 1.0})


def test_plots_are_the_same_twice_and_take_the_pages_colours() -> None:
    import matplotlib

    matplotlib.rcParams["lines.linewidth"] = 17.0  # the user's own, which must stay and must not be seen
    try:
        first, second = plots(), plots()
        assert matplotlib.rcParams["lines.linewidth"] == 17.0
    finally:
        matplotlib.rcdefaults()
    assert first == second and len(first) == 4
    for plot in first:
        assert not re.search(r"#[0-9a-f]{6}|<metadata|<style|<!|<\?xml|<svg[^>]*width|17px|stroke-width: 17", str(plot.svg)), (
            plot.title
        )
        assert "var(--plot1)" in plot.svg and str(plot.svg).startswith('<svg class="plot"')
        assert len(plot.svg) < 60_000
    assert "step 1,000 was kept" in first[0].told
    assert plots()[0].svg == plots()[0].svg


def test_ids_of_plots_are_unique_in_a_page(tmp_path: Path) -> None:
    html = page_of(fake_run(tmp_path, Fake()))
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids)) > 50
    for target in re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", html):
        assert (target[0] or target[1]) in ids


def test_names_in_plots_are_words() -> None:
    steps = [{"step": 1, "loss": 1.0, "learning_rate": 1e-4}]
    told = compared_losses([("<script>alert(1)</script> $x$ \x1b[1m", steps, steps)])
    assert all("<script" not in plot.svg and "&lt;script&gt;" in plot.svg and "$x$" in plot.svg for plot in told)


def test_runs_that_learn_the_same_are_told_apart() -> None:
    steps = [{"step": n, "loss": 1 / n} for n in range(1, 9)]
    (plot, _) = compared_losses([(str(n), steps, steps) for n in range(8)])
    lines = re.findall(r'<path d="M[^"]*" clip-path[^>]*style="([^"]*var\(--plot[^"]*)"', plot.svg)
    assert len(lines) == len(set(lines)) == 8 and sum("dasharray" in line for line in lines) >= 5


def test_numbers_on_a_logarithmic_axis_are_no_formulas() -> None:
    steps = [{"step": n, "loss": 1.0, "learning_rate": 0.0, "grad_norm": 10.0 ** (n % 4 - 1)} for n in range(1, 20)]
    (norm,) = [plot.svg for plot in run_plots(steps, [], best_step=None, checkpoints=(), scales={}) if "norm" in plot.title]
    assert "mathdefault" not in norm and all(f">{number}<" in norm for number in ("0.1", "1", "10", "100"))


def test_smoothing_starts_at_the_first_value_and_forgets() -> None:
    assert smooth([5.0]) == [5.0]
    assert smooth([1.0] * 50) == pytest.approx([1.0] * 50)
    assert abs(smooth([10.0] + [0.0] * 100)[-1]) < 1e-3
    assert smooth([1.0, math.nan, 1.0, math.inf, 1.0]) == [1.0] * 5


def test_a_loss_that_is_no_number_any_more_can_still_be_drawn() -> None:
    steps = [{"step": n, "loss": math.nan if n > 5 else 1.0, "learning_rate": 0.0, "grad_norm": math.inf} for n in range(1, 10)]
    found = run_plots(steps, [{"step": 9, "loss": math.nan, "scores": {}}], best_step=None, checkpoints=(), scales={})
    assert [plot.title for plot in found][-1] == "Gradient norm before clipping"


# -- foreign text -----------------------------------------------------------------------------------------------------


def test_hostile_texts_leave_the_page_as_it_is(tmp_path: Path) -> None:
    assert len(HOSTILE) >= 60
    calm = Seen(page_of(fake_run(tmp_path / "calm", Fake(rows=40, texts=("word",)))))
    for start in range(0, len(HOSTILE), 4):  # a page takes half a second
        texts = HOSTILE[start : start + 4]
        run = fake_run(tmp_path / str(start), Fake(rows=12, steps=2, looks=False, general=False, texts=tuple(texts)))
        html = page_of(run)
        seen = Seen(html)
        assert {tag for tag, _ in seen.elements} <= {tag for tag, _ in calm.elements}, texts
        assert seen.elements["script", ()] == 1
        for text in texts:
            assert " ".join(clean(text).split())[:100] in " ".join(seen.text.split()), text
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
        for tag, name, value in seen.values:
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value and value.startswith(("data:image/", "#")), (tag, name, value)


def test_hostile_texts_in_markdown_stay_in_their_cells(tmp_path: Path) -> None:
    run = fake_run(tmp_path, Fake(rows=len(HOSTILE) * 2, texts=tuple(HOSTILE)))
    text = markdown(contents(run, picture=none))
    outside = re.sub(r"(?ms)^<details>.*?</details>$", "", text)
    assert "<" not in re.sub(r"\\<", "", outside)
    tables = re.findall(r"(?m)(?:^\|.*\|$\n)+", outside)
    assert len(tables) >= 6
    for table in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", "a \\| b"),
        ("two\nlines", "two lines"),
        ("<b>*x*</b>", "\\<b\\>\\*x\\*\\</b\\>"),
        ("\\| `c`", "\\\\\\| \\`c\\`"),
        ("see https://x.example", "see https\u200b://x.example"),
        (None, "—"),
        (0, "0"),
    ],
)
def test_plain(text: Any, shown: str) -> None:
    assert plain(text) == shown


# -- size and time ----------------------------------------------------------------------------------------------------


def test_five_thousand_predictions(tmp_path: Path) -> None:
    run = fake_run(tmp_path, Fake(rows=5000, steps=3000, general=False, drawn=False))

    def draw(key: str) -> ImageRef:
        return image_ref(photo(len(key), side=900))

    begin = time.process_time()
    html, _ = write_report(run, picture=draw)
    assert time.process_time() - begin < 10
    assert html.stat().st_size < 15_000_000
    assert html.read_text(encoding="utf-8").count("<article") == 60


def test_sets_of_other_lengths_and_rows_of_one_side(tmp_path: Path) -> None:
    run = fake_run(tmp_path, Fake(general=False))
    lines = answers(Fake(), "before", 0.2)
    write_answers(run, "before", [{**line, "prediction": None} if n < 5 else line for n, line in enumerate(lines)])
    write_results(run)
    html = page_of(run)
    assert "5 ungraded" in html and "no answer" in html
    assert json.loads((run.path / "error_analysis.json").read_text())["buckets"]["ungraded"]["n"] == 5
