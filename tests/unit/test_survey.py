"""The numbers of `mlxtune data` against counting by hand, the advice against planted faults, and both displays."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mlxtune.data import load_data
from mlxtune.data.duplicates import Shared
from mlxtune.data.policy import Skipped
from mlxtune.data.result import Origin
from mlxtune.errors import RecipeError
from mlxtune.images import ImageRef, image_ref
from mlxtune.recipe import Recipe
from mlxtune.report.samples import samples_page
from mlxtune.survey import Survey, survey
from mlxtune.survey.counting import Seen, Spread, Tally, spread
from mlxtune.survey.model import local_folder, shortened
from mlxtune.survey.pictures import Pictures, shape
from mlxtune.survey.rows import DECODED, spaced, walk
from mlxtune.types import Example
from mlxtune.ui.survey import show
from mlxtune.ui.thumbnail import Thumbnail

TINY_MODEL = Path(__file__).parents[2] / "models/tiny-charts"


def picture(number: int, size: tuple[int, int] = (60, 40)) -> ImageRef:
    return image_ref(Image.fromarray(np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)))


def row(
    number: int, *, answer: str | None = None, question: str | None = None, images: Sequence[ImageRef] | None = None, **meta: Any
):
    question = question if question is not None else f"What is number {number}?"
    images = tuple(images) if images is not None else (picture(number),)
    target = answer if answer is not None else f"it is {number}"
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": question}]
    return Example(
        id=f"row-{number}",
        messages=[{"role": "user", "content": content}],
        question=question,
        target=target,
        references=(target,),
        images=images,
        meta=meta,
    )


def loaded(*, shared: dict[tuple[str, str], Shared] | None = None, skipped: Sequence[Skipped] = (), **splits: Sequence[Example]):
    """What the loader gives, as far as the survey reads it."""
    origins = {split: Origin("rows.jsonl", f"split '{split}'", auto=split == "train") for split in splits}
    return SimpleNamespace(splits=splits, origins=origins, skipped=list(skipped), shared=shared or {})


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate({"model": {"path": "no/such-model"}, "data": {"path": "rows.jsonl", "task": "qa"}, **sections})


def surveyed(rows: Any, *, name: str = "mine", **sections: Any) -> Survey:
    return survey(recipe(**sections), rows, name=name)


# -- counting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([7], (7, 7, 7, 7)),
        ([1, 2], (1, 1, 2, 2)),
        ([3, 1, 2], (1, 2, 3, 3)),
        (list(range(1, 101)), (1, 50, 95, 100)),
        ([1] * 95 + [9] * 5, (1, 1, 1, 9)),
        ([1] * 94 + [9] * 6, (1, 1, 9, 9)),
    ],
)
def test_spread_is_by_nearest_rank(values: list[int], expected: tuple[int, ...] | None) -> None:
    assert spread(Counter(values)) == (expected and Spread(*expected))


def test_spread_agrees_with_numpy() -> None:
    values = np.random.default_rng(0).integers(0, 1000, 777)
    found = spread(Counter(values.tolist()))
    wanted = [np.quantile(values, q, method="inverted_cdf") for q in (0, 0.5, 0.95, 1)]
    assert list(found) == wanted


def test_tally_counts_exactly_while_there_is_room() -> None:
    tally = Tally(room=3)
    for text in ["b", "a", "a", "c", "b", "a"]:
        tally.add(text)
    found = tally.frequent(2)
    assert [(item.value, item.count, item.share) for item in found.values] == [("a", 3, 0.5), ("b", 2, 2 / 6)]
    assert (found.distinct, found.total) == (3, 6)


def test_tally_keeps_the_frequent_ones_in_bounded_room() -> None:
    tally = Tally(room=50)
    for number in range(10_000):
        tally.add("often" if number % 3 == 0 else f"once {number}")
    assert len(tally._counts) <= 50
    found = tally.frequent(5)
    assert found.distinct is None and found.values[0].value == "often"
    assert found.values[0].share == pytest.approx(1 / 3, abs=0.01)


def test_long_texts_that_begin_alike_are_told_apart() -> None:
    tally = Tally()
    tally.add("x" * 1000 + "1")
    tally.add("x" * 1000 + "2")
    assert tally.frequent(5).distinct == 2


def test_seen_counts_what_came_before() -> None:
    seen = Seen()
    assert seen.repeated == 0
    for parts in (("a", "b"), ("ab",), ("a", "b"), ("a", "b")):
        seen.add(*parts)
    assert seen.repeated == 2 and len(seen.distinct) == 2


@pytest.mark.parametrize(("total", "number"), [(1, 60), (59, 60), (60, 60), (61, 60), (100_000, 60), (5, 0)])
def test_samples_are_spread_evenly(total: int, number: int) -> None:
    places = sorted(spaced(total, number))
    assert len(places) == min(total, number)
    if places:
        gaps = np.diff([*places, total])
        assert places[0] == 0 and gaps.max() - gaps.min() <= 1


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "name"),
    [((100, 100), "square"), ((109, 100), "square"), ((120, 100), "landscape"), ((100, 120), "portrait")]
    + [((201, 100), "wide, over 2:1"), ((200, 100), "landscape"), ((100, 201), "tall, over 1:2")],
)
def test_shape(size: tuple[int, int], name: str) -> None:
    assert shape(*size) == name


def test_pictures_are_measured_once_by_what_they_are(tmp_path: Path) -> None:
    flat = Image.new("RGB", (50, 30), (9, 9, 9))
    flat.putpixel((0, 0), (12, 9, 9))  # as a JPEG's noise does
    flat.save(tmp_path / "flat.png")
    Image.new("L", (20, 90), 255).save(tmp_path / "thin.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(1, (64, 48)).load().save(tmp_path / "turned.jpg", exif=turned)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    seen = Pictures()
    for name in ("flat.png", "thin.jpg", "turned.jpg", "broken.png", "gone.png", "flat.png"):
        seen.add(image_ref(name, folder=tmp_path), decode=True)
    facts = seen.facts()
    assert (facts.count, facts.unreadable, facts.decoded) == (5, 2, 3)
    assert dict(facts.sizes) == {(50, 30): 1, (20, 90): 1, (48, 64): 1}
    assert facts.width == Spread(20, 48, 50, 50) and facts.height == Spread(30, 64, 90, 90)
    assert (facts.blank, facts.blank_keys) == (2, ("flat.png", "thin.jpg"))
    assert facts.tiny == 2 and "thin.jpg (20 × 90)" in facts.tiny_keys
    assert {item.value: item.count for item in facts.kinds.values} == {"JPEG, L": 1, "JPEG, RGB": 1, "PNG, RGB": 1}
    assert "broken.png" in facts.problems[0] and "gone.png" in facts.problems[1]


def test_only_a_sample_of_pictures_is_decoded() -> None:
    decoded: list[int] = []

    def reader(number: int) -> Callable[[], bytes]:
        out = io.BytesIO()
        Image.new("RGB", (40, 40 + number % 3), (number % 256, 0, 0)).save(out, "PNG")

        def read() -> bytes:
            decoded.append(number)
            return out.getvalue()

        return read

    rows = [row(number, images=[ImageRef(reader(number), key=str(number))]) for number in range(3 * DECODED)]
    facts, _ = walk("train", rows, samples=5, tick=lambda *_: None)
    assert facts.pictures.count == 3 * DECODED and facts.pictures.height == Spread(40, 41, 42, 42)
    assert facts.pictures.decoded == facts.pictures.blank == DECODED
    assert len([number for number, times in Counter(decoded).items() if times > 1]) == DECODED


# -- rows --------------------------------------------------------------------------------------------------------------


def test_a_split_is_counted() -> None:
    same = picture(1)
    rows = [
        row(0, answer="yes", kind="a", images=[same]),
        row(1, answer="no", kind="a", images=[same, picture(2)]),
        row(2, answer="yes", kind="b", images=[]),
        replace(row(3, answer="a long answer"), references=("a long answer", "another")),
        replace(row(4, answer="A"), choices={"A": "one", "B": "two"}),
    ]
    ticks: list[tuple[str, int, int]] = []
    facts, _ = walk("train", rows, samples=2, tick=lambda *tick: ticks.append(tick))
    assert (facts.rows, facts.pictures.count, facts.text_only, facts.several_pictures) == (5, 4, 1, 1)
    assert (facts.several_answers, facts.with_choices, facts.several_turns, facts.repeated) == (1, 1, 0, 0)
    assert facts.answers.values[0][:2] == ("yes", 2) and facts.answers.distinct == 4
    assert {item.value: item.count for item in facts.meta["kind"].values} == {"a": 2, "b": 1}
    assert facts.answer.words == Spread(1, 1, 3, 3) and facts.answer.characters == Spread(1, 3, 13, 13)
    assert [sample.example.id for sample in facts.samples] == ["row-0", "row-2"]
    assert ticks == [("train", done, 5) for done in range(6)]


def test_questions_that_come_again() -> None:
    one, two = picture(1), picture(2)
    rows = [
        row(0, question="What?", answer="a", images=[one]),
        row(1, question="What?", answer="a", images=[one]),  # a copy
        row(2, question="What?", answer="b", images=[one]),  # contradicts
        row(3, question="What?", answer="b", images=[two]),  # another picture
        replace(row(4, question="Pick", answer="A", images=[one]), choices={"A": "x", "B": "y"}),
        replace(row(5, question="Pick", answer="B", images=[one]), choices={"A": "y", "B": "x"}),  # a rotation
    ]
    facts, _ = walk("train", rows, samples=1, tick=lambda *_: None)
    assert (facts.repeated, facts.contradicted) == (2, 1)


def test_memory_hardly_grows_with_the_rows() -> None:
    import tracemalloc

    class Many(Sequence[Example]):
        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, place: Any) -> Example:
            if place >= self.count:
                raise IndexError
            return row(place, images=[], answer=f"answer {place} " + "x" * 400)

    peaks = []
    for count in (200, 30_000):
        tracemalloc.start()
        walk("train", Many(count), samples=60, tick=lambda *_: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 16e6, peaks


# -- advice ------------------------------------------------------------------------------------------------------------


def clean_rows(first: int, count: int) -> list[Example]:
    return [row(first + number, answer=f"answer {number % 7}") for number in range(count)]


def flat(number: int) -> ImageRef:
    return image_ref(Image.new("RGB", (40, 41 + number), "white"))


TRAIN = clean_rows(0, 12)
FAULTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "one answer": (
        loaded(train=[row(n, answer="Yes" if n < 6 else f"a{n}") for n in range(12)]),
        {},
        r"train: 50\.0 % of the answers are 'Yes'",
    ),
    "asked in two": (loaded(train=TRAIN, validation=TRAIN[:2]), {}, "2 questions are asked of the same picture in train and in"),
    "seen in two": (
        loaded(train=TRAIN, validation=clean_rows(50, 3), shared={("train", "validation"): Shared(4, "a.png", "b.png")}),
        {},
        "4 pictures are in train and in validation, such as 'a.png' = 'b.png'",
    ),
    "unreadable": (loaded(train=[*TRAIN, row(99, images=[image_ref(b"no")])]), {}, "1 of 13 pictures cannot be read, first:"),
    "blank": (loaded(train=[*TRAIN, row(99, images=[flat(1)])]), {}, "1 of 13 pictures looked at are of one colour"),
    "tiny": (loaded(train=[*TRAIN, row(99, images=[picture(99, (9, 70))])]), {}, "1 picture is less than 32 pixels high or wide"),
    "copies": (loaded(train=[*TRAIN, TRAIN[3]]), {}, "train: 1 row is the same question asked again of the same picture"),
    "contradiction": (
        loaded(train=[*TRAIN, replace(TRAIN[3], target="else")]),
        {},
        "train: 1 question is asked again of the same picture with another answer",
    ),
    "copies without pictures": (
        loaded(train=[row(n, images=[], question="What?", answer="a") for n in (0, 1)]),
        {},
        "train: 1 row is the same question asked again without a picture",
    ),
    "lists": (loaded(train=[*TRAIN, row(99, answer="[2003, 2004]")]), {}, "1 answer is written as a list, as in row 'row-99'"),
    "hidden": (loaded(train=[*TRAIN, row(99, answer="a\x1b[31mb")]), {}, "1 row holds? control characters.*first 'row-99'"),
    "classes": (
        loaded(train=[replace(one, meta={"class": "rare" if n == 0 else "common"}) for n, one in enumerate(TRAIN)]),
        {},
        "class 'common' has 11 rows, 'rare' 1",
    ),
    "few": (loaded(train=TRAIN, test=clean_rows(100, 20)), {}, "test: 20 rows are asked; .* ± 22 points"),
    "few are asked": (
        loaded(train=TRAIN, test=clean_rows(100, 250)),
        {"evaluate": {"limit": 50}},
        "test: 50 rows are asked; .* ± 14 points",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_gives_its_advice_alone(fault: str) -> None:
    data, sections, pattern = FAULTS[fault]
    found = surveyed(data, **sections).advice
    assert len(found) == 1, found
    assert re.search(pattern, found[0].text), found[0].text
    assert found[0].remedy


def test_clean_data_gives_no_advice() -> None:
    assert surveyed(loaded(train=TRAIN, validation=clean_rows(50, 5), test=clean_rows(100, 250))).advice == ()


def test_advice_of_balance_is_not_given_twice() -> None:
    data, _, _ = FAULTS["classes"]
    assert surveyed(data, data={"path": "rows", "task": "qa", "balance": "class"}).advice == ()


def test_skipped_rows_are_grouped_by_reason() -> None:
    skipped = [Skipped("train", f"rows:{n}", "picture missing", f"rows:{n}: picture gone") for n in range(5)]
    skipped.append(Skipped("all", "rows:9", "field wrong", "rows:9: not an answer"))
    found = surveyed(loaded(train=TRAIN, skipped=skipped)).skipped
    assert [(one.reason, one.count, len(one.messages)) for one in found] == [("picture missing", 5, 3), ("field wrong", 1, 1)]


# -- the model ---------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_with_a_model_that_is_here() -> None:
    many = [row(number, images=[picture(number, (224, 168))], answer="word " * (1 + 40 * (number == 3))) for number in range(4)]
    sections = {"model": {"path": str(TINY_MODEL)}, "train": {"max_tokens": 100}}
    found = surveyed(loaded(train=many, test=many[:1]), **sections)
    tokens = found.model.tokens["train"]
    assert tokens.pictures == Spread(48, 48, 48, 48)
    assert (tokens.rows, tokens.too_long, tokens.unanswerable, tokens.refused) == (4, 1, 0, 0)
    assert tokens.answers.most > 40 > 4 >= tokens.answers.least
    assert "<|image_pad|> × 48" in found.model.prompt and "What is number 0?" in found.model.prompt
    assert any("1 of 4 sampled rows are longer than train.max_tokens 100" in one.text for one in found.advice)


def test_answers_that_a_test_cannot_get_are_told() -> None:
    long = [row(number, images=[], answer="word " * 40) for number in range(2)]
    model = {"model": {"path": str(TINY_MODEL)}}
    found = surveyed(loaded(train=TRAIN, test=long), **model, evaluate={"max_new_tokens": 5})
    assert any("2 of 2 sampled answers are longer than the 5 tokens" in one.text for one in found.advice)
    assert not any("sampled answers" in one.text for one in surveyed(loaded(train=long), **model).advice)


def test_sets_of_the_comparison_are_surveyed_beside_the_splits() -> None:
    more = loaded(general=clean_rows(300, 4), shared={("train", "general"): Shared(1, "a", "a")})
    found = survey(recipe(), loaded(train=TRAIN), name="mine", sets={"general": more})
    assert [split.name for split in found.splits] == ["train", "general"]
    assert [one.text for one in found.advice] == ["1 picture is in train and in general, such as 'a'"]


def test_a_set_may_not_be_called_like_a_split() -> None:
    with pytest.raises(RecipeError, match="evaluate.sets.train: a split is called 'train' too"):
        survey(recipe(), loaded(train=TRAIN), name="mine", sets={"train": loaded(train=TRAIN)})


def test_rows_that_a_balance_repeats_are_no_copies(tmp_path: Path) -> None:
    lines = [{"question": f"What is {n}?", "answer": f"a{n}", "class": "rare" if n == 0 else "common"} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[5]]))
    data = {"task": "qa", "path": str(tmp_path / "rows.jsonl"), "balance": "class"}
    data["splits"] = {"train": "all", "validation": None, "test": None}
    spec = recipe(data=data)
    facts = survey(spec, load_data(spec.data), name="mine").splits[0]
    assert (facts.rows, facts.redrawn, facts.repeated, facts.contradicted) == (24, 11, 1, 0)
    assert [sample.where[-2:] for sample in facts.samples[11:14]] == [":1", ":2", ":3"]


@pytest.mark.parametrize("path", ["no/such-model", "/no/such/folder", "C:\\models\\a", "a/b/c", "some model"])
def test_a_model_that_is_elsewhere_is_said_and_never_fetched(path: str) -> None:
    assert local_folder(path) is None
    found = surveyed(loaded(train=TRAIN), model={"path": path})
    assert found.model.tokens is None and f"'{path}' is not on this machine" in found.model.note


def test_a_broken_model_folder_does_not_hide_the_rows(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unknown"}))
    found = surveyed(loaded(train=TRAIN), model={"path": str(tmp_path)})
    assert found.splits[0].rows == 12 and "Tokens are not counted" in found.model.note


@pytest.mark.parametrize(
    ("prompt", "short"),
    [
        ("<s>" + "<|image_pad|>" * 256 + "x", "<s><|image_pad|> × 256 x"),
        ("<image>" * 3, "<image>" * 3),
        ("a <b> c " * 9, "a <b> c " * 9),
    ],
)
def test_runs_of_placeholders_are_told_as_a_number(prompt: str, short: str) -> None:
    assert shortened(prompt) == short


# -- displays ----------------------------------------------------------------------------------------------------------

HOSTILE = "\x1b[31mred\x1b[0m [bold]b[/bold] [/nope] \x1b]0;title\x07 \x9b2J \u202egnp.exe <b>\x00" + "x" * 300


def displayed(found: Survey, *, live: bool, width: int = 100, examples: int = 2) -> str:
    out = io.StringIO()
    colours = "truecolor" if live else None
    console = Console(file=out, force_terminal=live, force_interactive=live, width=width, color_system=colours)
    show(found, console, examples=examples, files={"samples": Path("runs/data-mine.html")})
    return out.getvalue()


def bare(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("live", [False, True])
def test_both_displays_say_what_matters(live: bool) -> None:
    skipped = [Skipped("train", "rows:9", "picture missing", "rows:9: picture 'x.png' does not exist")]
    rows = [replace(one, meta={"kind": "value"}) for one in TRAIN]
    found = surveyed(loaded(train=rows, test=clean_rows(100, 20), skipped=skipped))
    text = " ".join(bare(displayed(found, live=live, width=140)).split())
    for part in (
        "mine: rows.jsonl (task qa)",
        "split 'train' (auto)",
        "different answers 7 7",
        "answer 0 (16.7 %)",
        "value (100.0 %)",
        "60 × 40 (100.0 %)",
        "What is number 0?",
        "What is number 6?",
        "row-0",
        "'no/such-model' is not on this machine",
        "picture missing",
        "picture 'x.png' does not exist",
        "20 rows are asked",
        "raise data.limit.test",
        "runs/data-mine.html",
    ):
        assert part in text, part


def test_numbers_of_rows_are_no_kinds() -> None:
    """MMBench's `index` is needed to group rotations; a list of its values tells nobody anything."""
    rows = [row(number, index=number, category=f"c{number % 2}") for number in range(6)]
    found = surveyed(loaded(train=rows, test=[row(9, index=9, category="c0")]))
    assert found.kinds == ("category",)
    text = displayed(found, live=False)
    assert "category of train: c0 (50.0 %)" in text and "index of" not in text
    page = samples_page(found)
    assert '<h3 dir="auto">category</h3>' in page and '<h3 dir="auto">index</h3>' not in page


def test_pictures_are_drawn_only_on_a_terminal() -> None:
    found = surveyed(loaded(train=TRAIN))
    assert displayed(found, live=True).count("▀") > 200
    assert displayed(found, live=True, examples=0).count("▀") == 0
    text = displayed(found, live=False)
    assert "▀" not in text and "\x1b" not in text


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("width", [30, 79, 120])
def test_foreign_text_stays_text(live: bool, width: int) -> None:
    nasty = replace(
        row(1, question=HOSTILE, answer=HOSTILE, **{HOSTILE: HOSTILE}),
        id=HOSTILE,
        choices={HOSTILE: HOSTILE},
        references=(HOSTILE,) * 2,
    )
    skipped = [Skipped("train", HOSTILE, HOSTILE, HOSTILE)]
    found = surveyed(loaded(train=[nasty] * 12, skipped=skipped), name=HOSTILE)
    text = displayed(found, live=live, width=width)
    assert "[bold]b[/bold]" in " ".join(bare(text).split()) or width == 30
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", bare(text))
    assert not re.search(r"\x1b\](?!8;)|\x1b\[2J", text)


def test_a_thumbnail_keeps_the_form_of_its_picture() -> None:
    def cells(size: tuple[int, int], **limits: int) -> list[str]:
        console = Console(file=(out := io.StringIO()), force_terminal=True, color_system="truecolor", width=60)
        console.print(Thumbnail(image_ref(Image.new("RGB", size, (10, 200, 30))), **limits))
        assert "\x1b[38;2;10;200;30" in out.getvalue()
        return bare(out.getvalue()).splitlines()

    assert cells((200, 100), columns=40, rows=20) == ["▀" * 40] * 10
    assert cells((100, 400), columns=40, rows=20) == ["▀" * 10] * 20
    assert cells((1000, 1), columns=40, rows=20) == ["▀" * 40]
    assert cells((300, 300), columns=100, rows=100)[0] == "▀" * 60  # no wider than the terminal


def test_a_thumbnail_of_a_broken_picture_is_its_reason() -> None:
    console = Console(file=(out := io.StringIO()), width=60)
    console.print(Thumbnail(image_ref(b"broken", where="rows:3"), columns=40))
    assert "rows:3: picture" in out.getvalue()
