"""Both displays, fed with events: what a person reads, and that foreign text stays text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mlxtune.events import (
    Change,
    Evaluated,
    EvaluationProgress,
    Event,
    Finished,
    Notice,
    Planned,
    Sample,
    Saved,
    StepDone,
    Validated,
)
from mlxtune.metrics import Score
from mlxtune.ui import clean, facts, watch
from mlxtune.ui.facts import Course, direction
from mlxtune.ui.text import change, count, duration, memory, one_line, place, value

HOSTILE = "\x1b[31mred\x1b[0m [bold]b[/bold] [/nope] \x1b]0;title\x07 a\rb\x08 \x9b2J \u202egnp.exe"

PLAN = Planned(
    run=Path("runs/charts-1"),
    model="models/tiny",
    family="qwen2_5_vl",
    parameters=2_541_234,
    task="chartqa",
    data="data/charts",
    splits={"test": (300, 100), "train": (600, 200), "validation": (100, 34)},
    sites={"attention": 16, "mlp": 12},
    trainable=212_992,
    backend="torch",
    backend_reason="no CUDA device",
    device="cpu",
    precision="float32",
    seed=7,
    steps=40,
    batch_size=8,
)


def step(number: int, *, total: int = 40, loss: float = 1.5) -> StepDone:
    return StepDone(
        number, total, loss, 1e-3, 2.0, tokens=900, supervised_tokens=20, samples=8, wall_s=0.5, peak_bytes=812_000_000
    )


def scores(value: float | None, *, ungraded: int = 0) -> dict[str, Score]:
    return {"relaxed_accuracy": Score(value, n=300 - ungraded, ungraded=ungraded), "bleu": Score(12.34, n=300, ungraded=0)}


FINISHED = Finished(
    run=Path("runs/charts-1"),
    changes=(
        Change("relaxed_accuracy", before=0.0, after=0.763, scale=1.0),
        Change("bleu", before=40.0, after=34.12, scale=100.0),
        Change("token_f1", before=None, after=None, scale=1.0),
    ),
    samples=(Sample("Which bar is the highest?", "Milk", "The highest bar is Tea.", "Milk"), Sample("How many?", "4", None, "4")),
    test_rows=300,
    wall_s=187.4,
    commands=(("ask the model", "mlxtune ask a.png 'Why?' --model m"), ("compare", "less runs/charts-1/run.json")),
)


def whole_run() -> Iterator[Event]:
    yield PLAN
    yield from (EvaluationProgress("before", done, 300) for done in range(0, 301, 8))
    yield EvaluationProgress("before", 300, 300)
    yield Evaluated("before", scores(0.0), wall_s=12.0)
    for number in range(1, 41):
        yield step(number)
        if number % 20 == 0:
            yield Validated(number, "loss", 0.5, 0.5, best=number == 20)
            yield Saved(number, Path(f"runs/charts-1/checkpoints/step-{number:06}"))
    yield from (EvaluationProgress("after", done, 300) for done in (0, 100, 200, 300))
    yield Evaluated("after", scores(0.763, ungraded=3), wall_s=11.0)
    yield FINISHED


def shown(events: Sequence[Event] | Iterator[Event], *, live: bool, width: int = 100, program: str = "mlxtune") -> str:
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=live, force_interactive=live, width=width, color_system="standard" if live else None
    )
    with watch(console, program=program) as observe:
        for event in events:
            observe(event)
    return out.getvalue()


def bare(text: str) -> str:
    """Without the escape sequences that Rich itself writes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("live", [False, True])
def test_a_whole_run_says_what_matters(live: bool) -> None:
    text = bare(shown(whole_run(), live=live))
    for part in (
        "backend torch: no CUDA device",
        "qwen2_5_vl, 2.54 M parameters",
        "train 600 (200 pictures) · validation 100 (34 pictures) · test 300 (100 pictures)",
        "attention 16, mlp 12; 212,992 trainable parameters (8.38% of the model)",
        "cpu · float32 · seed 7",
        "validation loss 0.5000",
        "relaxed accuracy 0.0 %, bleu 12.3",
        "up to 3 answers could not be graded",
        "+76.3",
        "-5.9",
        "—",
        "The highest bar is Tea.",
        "300 test rows",
        "runs/charts-1",
        "mlxtune ask a.png 'Why?' --model m",
    ):
        assert part in text, part
    assert text.index("backend torch") < text.index("qwen2_5_vl") < text.index("relaxed accuracy 0.0 %") < text.index("+76.3")


def test_plain_lines_hold_no_control_character_and_are_few() -> None:
    text = shown(whole_run(), live=False)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    lines = text.splitlines()
    assert [line for line in lines if "answered" in line and line.startswith("before")] == [
        "before: 80/300 answered",
        "before: 152/300 answered",
        "before: 232/300 answered",
        "before: 300/300 answered",
    ]
    steps = [int(found[1]) for line in lines if (found := re.match(r"step (\d+)/40: loss", line))]
    assert steps == [1, *range(2, 41, 2)]
    assert "step 20: validation loss 0.5000 (best so far)" in lines
    assert "step 40: validation loss 0.5000" in lines


def test_a_verdict_is_told_in_both_displays() -> None:
    told = replace(
        FINISHED,
        changes=(
            Change("relaxed_accuracy", 0.0, 0.763, 1.0, told="+76.3 points (95 %: 71.0 … 81.0)"),
            Change("contains", 0.7, 0.71, 1.0, asked="charts", told="no detectable change (+1.0 points)", detectable=False),
        ),
        buckets={"fixed": 229, "broken": 0},
        controls={"metric": "relaxed_accuracy", "rows": 64, "full": 0.75, "blank": 0.125, "shuffled": None, "majority": 0.2},
        advice=("41 % of the wrong answers contain the right one: set data.suffix",),
    )
    for live in (True, False):
        text = " ".join(clean(shown([told], live=live)).split())
        for part in (
            "+76.3 points (95 %: 71.0 … 81.0)",
            "charts · contains 70.0 % 71.0 % no detectable change",
            "answers fixed 229 · broken 0",
            "controls relaxed accuracy of 64 rows: as asked 75.0 % · blank pictures 12.5 % · commonest answers 20.0 %",
            "advice 41 % of the wrong answers contain",
        ):
            assert part in text
    assert direction(told.changes[0]) == 1 and direction(told.changes[1]) == 0


def test_plain_table_stands_in_columns() -> None:
    lines = shown([FINISHED], live=False).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("metric"))
    assert lines[start : start + 4] == [
        "metric            before   after  change",
        "relaxed accuracy   0.0 %  76.3 %  +76.3",
        "bleu                40.0    34.1  -5.9",
        "token f1               —       —  —",
    ]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("width", [60, 100])
def test_foreign_text_is_only_text(live: bool, width: int) -> None:
    events = [
        replace(PLAN, model=HOSTILE, data=HOSTILE, device=HOSTILE, splits={HOSTILE: (1, 1)}, sites={HOSTILE: 1}),
        Notice(HOSTILE),
        replace(
            FINISHED,
            samples=(Sample(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
            changes=(Change(HOSTILE, 0.1, 0.2, 1.0),),
            commands=((HOSTILE, HOSTILE),),
        ),
    ]
    raw = shown(events, live=live, width=width)
    text = bare(raw)
    assert "[bold]" in text and "[/nope]" in text
    assert not re.search(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", text)
    assert "\x1b[2J" not in raw and "\x1b]0;" not in raw and "title" not in raw
    if not live:
        assert "\x1b" not in raw and "\r" not in raw


@pytest.mark.parametrize("width", [40, 60, 100, 160])
def test_the_live_display_fits_the_terminal(width: int) -> None:
    for line in bare(shown(whole_run(), live=True, width=width)).replace("\r", "\n").splitlines():
        # What is meant to be copied is never broken.
        assert len(line) <= width or line.startswith(("run folder", "  mlxtune", "  less")), line


@pytest.mark.parametrize("live", [False, True])
def test_a_run_that_only_evaluates_shows_one_score_column(live: bool) -> None:
    result = replace(
        FINISHED,
        changes=(Change("relaxed_accuracy", before=None, after=0.5, scale=1.0),),
        samples=(Sample("How many?", "4", None, "four"),),
    )
    plan = replace(PLAN, steps=0, sites={}, trainable=0)
    text = bare(shown([plan, Evaluated("after", scores(0.5), 1.0), result], live=live))
    assert "evaluate" in text
    assert "50.0 %" in text and "four" in text
    assert not re.search(r"before|after|change|adapter|training", text)


@pytest.mark.parametrize("live", [False, True])
def test_an_adapter_beside_its_model_has_a_before_and_an_after(live: bool) -> None:
    events = [replace(PLAN, steps=0), Evaluated("before", scores(0.1), 1.0), Evaluated("after", scores(0.5), 1.0), FINISHED]
    text = bare(shown(events, live=live))
    assert "before" in text and "after" in text and "evaluate" not in text


def test_training_is_announced_only_where_it_follows() -> None:
    told = [facts.what_follows(phase, PLAN) for phase in ("before", "before/general", "after")]
    assert told == ["getting ready to train", "going on", "writing the results"]
    assert facts.what_follows("before", replace(PLAN, steps=0)) == "going on"


@pytest.mark.parametrize("live", [False, True])
def test_a_run_without_comparison_ends_with_its_folder(live: bool) -> None:
    text = bare(shown([PLAN, step(40), replace(FINISHED, changes=(), samples=())], live=live))
    assert "metric" not in text and "test rows" not in text and "runs/charts-1" in text


def test_commands_are_called_the_way_the_user_calls_them() -> None:
    text = shown([FINISHED], live=False, program=".venv/bin/mlxtune")
    assert "ask the model: .venv/bin/mlxtune ask a.png" in text
    assert "compare: less runs" in text


def test_an_error_leaves_the_terminal_as_it_was() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, force_interactive=True, width=80)
    with pytest.raises(ZeroDivisionError), watch(console) as observe:
        observe(PLAN)
        observe(step(1))
        raise ZeroDivisionError
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1  # cursor hidden, and shown again


def test_time_left_counts_from_the_first_step_seen() -> None:
    now = iter([100.0, 106.0, 106.0])
    course = Course(clock=lambda: next(now))
    course.add(step(21))  # after a resume; it began at 99.5
    course.add(step(22))
    assert course.left_s == pytest.approx((106.0 - 99.5) / 2 * 18)


def test_running_numbers() -> None:
    course = Course()
    course.add(step(1, loss=2.0))
    course.add(step(2, loss=1.0))
    course.validated = Validated(2, "relaxed_accuracy", 0.25, 0.75, best=True, scores={"relaxed_accuracy": 0.25})
    assert course.numbers() == {
        "loss": "1.9000",
        "learning rate": "1.00e-03",
        "gradient norm": "2",
        "tokens/s": "1,800",
        "samples/s": "16",
        "peak memory": "812 MB",
        "validation loss": "0.7500",
        "relaxed accuracy": "25.0 %",
    }


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(0.1, 0.2, 1), (0.2, 0.1, -1), (0.2, 0.2, 0), (None, 0.2, 0), (0.2, None, 0)]
)
def test_better_is_up(before: float | None, after: float | None, expected: int) -> None:
    assert direction(Change("relaxed_accuracy", before, after, 1.0)) == expected


def test_what_moves_is_wiped() -> None:
    raw = shown([PLAN, step(1), replace(FINISHED, changes=(), samples=())], live=True)
    drawn = raw[: raw.index("in all")]
    # Each line of the last frame is erased (2K) before the ending is written.
    assert drawn.rindex("\x1b[2K") > drawn.rindex("gradient norm")


def test_paths_are_written_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = replace(PLAN, model=str(tmp_path / "m"), data="Hub/data", run=tmp_path / "runs" / "a")
    text = shown([plan], live=False)
    assert "model       m (" in text and "Hub/data (task" in text and text.endswith("run folder  runs/a\n")
    assert place("/elsewhere/m") == "/elsewhere/m" and place(tmp_path) == "."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "red"),
        ("a\x00b\rc\x7fd\x85e", "abcde"),
        ("\x1b", ""),
        ("\u202eabc", "abc"),
        ("Łódź 5 m² 図", "Łódź 5 m² 図"),
        ("half \ud800 pair", "half ? pair"),
        ("[bold]", "[bold]"),
    ],
)
def test_clean(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (value(0.7634), "76.3 %"),
        (value(34.12, scale=100.0), "34.1"),
        (value(None), "—"),
        (change(0.1, 0.35), "+25.0"),
        (change(40.0, 30.0, scale=100.0), "-10.0"),
        (change(0.5, 0.49999), "+0.0"),
        (change(None, 0.5), "—"),
        (count(1234), "1,234"),
        (count(2_541_234), "2.54 M"),
        (count(3_754_622_976), "3.75 B"),
        (memory(812_000_000), "812 MB"),
        (memory(7_540_000_000), "7.5 GB"),
        (duration(62.4), "1:02"),
        (duration(3725), "1:02:05"),
        (duration(float("nan")), "—"),
        (one_line("a\n b\t c"), "a b c"),
        (one_line("x" * 200), "x" * 159 + "…"),
        (one_line(None), "—"),
    ],
)
def test_numbers_for_people(made: str, expected: str) -> None:
    assert made == expected


@pytest.mark.parametrize("live", [False, True])
def test_a_score_that_misleads_says_so(live: bool) -> None:
    score = Score(value=0.0, n=3, ungraded=0, extra={"note": "no prediction has four tokens"})
    text = bare(shown([PLAN, Evaluated("after", {"bleu": score}, 1.0)], live=live))
    assert "after, bleu: no prediction has four tokens" in " ".join(text.split())
