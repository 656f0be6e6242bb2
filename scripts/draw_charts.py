"""Draws small seeded charts with questions and answers, and writes the bundled data set `data/charts/`.

A chart is an RGB picture of 224 x 168 pixels: both sides are multiples of 28, so Qwen2.5-VL sees 8 x 6 = 48 image
tokens. Values are multiples of 10, from 10 to 100, on an axis from 0 to 100; the slices of a pie are percentages that
sum to 100. Columns follow ChartQA (`image`, `query`, `label`), plus `kind` (what is asked) and `chart` (the form).

    python scripts/draw_charts.py --out data/charts
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import click
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table as RichTable

WIDTH, HEIGHT = 224, 168  # pixels
COLORS = {
    "red": (214, 39, 40), "blue": (31, 100, 200), "green": (44, 150, 44), "orange": (255, 140, 20),
    "purple": (130, 70, 190), "pink": (245, 130, 200), "gray": (120, 120, 120), "yellow": (225, 205, 30),
}  # fmt: skip
WORDS = ("Tea", "Milk", "Rice", "Fish", "Corn", "Salt", "Nuts", "Plum", "Beef", "Oats", "Kiwi", "Wine")
SERIES = ("North", "South", "East", "West")
# Weights of the schooling's charts and questions, and of the data set's, which asks less of what the model is weak at.
FORMS = {"bar": 45, "grouped": 15, "line": 22, "pie": 18}
KINDS = {"value": 28, "color": 15, "extreme": 20, "count": 10, "compare": 15, "threshold": 12}
SHOWN = {"bar": 55, "grouped": 8, "line": 17, "pie": 20}
ASKED = {"value": 29, "color": 18, "extreme": 22, "count": 11, "compare": 8, "threshold": 12}
HELD_BACK = "threshold"  # never shown while the tiny model is schooled
SPLITS = {"train": (600, 11), "validation": (100, 12), "test": (300, 13)}  # questions, seed
INK, GRID = (20, 20, 20), (210, 210, 210)


@dataclass(frozen=True)
class Content:
    """What a chart shows, without its style. `colors` has one entry per category (bar, pie) or per series."""

    form: str
    categories: tuple[str, ...]
    series: tuple[str, ...]  # empty where there is one unnamed series
    colors: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]  # [series][category]

    def digest(self) -> bytes:
        """SHA-256 of the content key: form, categories, series, colours and values."""
        key = [self.form, self.categories, self.series, self.colors, self.values]
        return hashlib.sha256(json.dumps(key).encode()).digest()


@dataclass(frozen=True)
class Question:
    """A question, its short answer (`label`) and the same answer as a whole sentence."""

    query: str
    label: str
    kind: str
    sentence: str


@dataclass(frozen=True)
class Chart:
    content: Content
    image: Image.Image  # RGB, 224 x 168
    questions: tuple[Question, ...]


def split_of(content: Content) -> str:
    """'train', 'validation', 'test', or 'schooling': decided by the content alone, so no chart can be in two."""
    digest = content.digest()
    if digest[0] % 16:
        return "schooling"
    return ("validation", "test", "train", "train")[digest[1] % 4]


def draw(
    rng: random.Random,
    *,
    split: str = "schooling",
    questions: int = 3,
    kinds: dict[str, int] = KINDS,
    forms: dict[str, int] = FORMS,
) -> Chart:
    """One chart of `split` with up to `questions` different questions; the same `rng` state gives the same chart."""
    while split_of(content := _content(rng, forms)) != split:
        pass
    image = render(content, rng)
    asked: dict[str, Question] = {}
    for _ in range(questions * 4):
        if len(asked) == questions:
            break
        if question := ask(content, rng.choices(list(kinds), list(kinds.values()))[0], rng):
            asked.setdefault(question.query, question)
    return Chart(content, image, tuple(asked.values()))


def _content(rng: random.Random, forms: dict[str, int] = FORMS) -> Content:
    form = rng.choices(list(forms), list(forms.values()))[0]
    if form == "pie":
        values = (_shares(rng, rng.randint(2, 5)),)
    elif form == "bar":
        values = (tuple(rng.randrange(10, 101, 10) for _ in range(rng.randint(2, 6))),)
    else:
        n_series = rng.choice((2, 2, 3)) if form == "grouped" else rng.choice((1, 1, 2, 2, 3))
        n_categories = rng.randint(2, 6 - n_series) if form == "grouped" else rng.randint(3, 5)
        # Lines never meet at a category: a marker hidden under another cannot be read.
        columns = [rng.sample(range(10, 101, 10), n_series) for _ in range(n_categories)]
        values = tuple(zip(*columns, strict=True))
    series = tuple(rng.sample(SERIES, len(values))) if len(values) > 1 else ()
    categories = tuple(rng.sample(WORDS, len(values[0])))
    n_colors = len(categories) if form in ("bar", "pie") else len(values)
    return Content(form, categories, series, tuple(rng.sample(list(COLORS), n_colors)), values)


def _shares(rng: random.Random, n: int) -> tuple[int, ...]:
    """`n` percentages, multiples of 10, summing to 100."""
    edges = [0, *sorted(rng.sample(range(10, 100, 10), n - 1)), 100]
    return tuple(right - left for left, right in pairwise(edges))


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


@dataclass(frozen=True)
class _Plot:
    """The plot area in pixels, and the style of one picture."""

    right: int
    top: int
    tick: int  # value units between two ticks
    grid: bool
    fill: float  # share of a band that bars cover
    left: int = 28
    bottom: int = 148

    def y(self, value: float) -> int:
        return round(self.bottom - value / 100 * (self.bottom - self.top))


def render(content: Content, rng: random.Random) -> Image.Image:
    """The picture: RGB, 224 x 168. Style (tint, grid, ticks, bar width, right margin) comes from `rng`."""
    tint = rng.choice(((255, 255, 255), (255, 255, 255), (248, 248, 242), (240, 245, 251)))
    image = Image.new("RGB", (WIDTH, HEIGHT), tint)
    canvas = ImageDraw.Draw(image)
    for word, x, y in places(content):
        canvas.text((x, y), word, font=_font(11), fill=INK, anchor="mm")
    if content.form == "pie":
        _pie(canvas, content, rng)
        return image
    for (_, x, y), color in zip(places(content)[len(content.categories) :], content.colors, strict=False):
        canvas.rectangle([x - 28, y - 4, x - 19, y + 5], fill=COLORS[color])
    top, right = 24 if content.series else 10, rng.randint(WIDTH - 4, WIDTH - 1)
    plot = _Plot(right, top, tick=rng.choice((20, 25)), grid=rng.random() < 0.6, fill=rng.uniform(0.6, 0.85))
    _axes(canvas, plot)
    (_lines if content.form == "line" else _bars)(canvas, content, plot)
    return image


def places(content: Content) -> list[tuple[str, int, int]]:
    """Every word of the picture with its middle (x, y) in pixels.

    A word lies inside one 28 x 28 cell, which is one image token: a model this small could not learn to read otherwise.
    """
    if content.form == "pie":
        top = 21 + 28 * ((5 - len(content.categories)) // 2)
        return [(name, 182, top + 28 * index) for index, name in enumerate(content.categories)]
    below = [(name, x, HEIGHT - 7) for name, x in zip(content.categories, _centers(content), strict=True)]
    return below + [(name, 70 + 56 * index, 7) for index, name in enumerate(content.series)]


def _axes(canvas: ImageDraw.ImageDraw, plot: _Plot) -> None:
    for value in range(0, 101, plot.tick):
        y = plot.y(value)
        if plot.grid:
            canvas.line([(plot.left, y), (plot.right, y)], fill=GRID)
        canvas.line([(plot.left - 3, y), (plot.left, y)], fill=INK)
        canvas.text((plot.left - 5, y), str(value), font=_font(9), fill=INK, anchor="rm")
    canvas.line([(plot.left, plot.top), (plot.left, plot.bottom), (plot.right, plot.bottom)], fill=INK)


def _centers(content: Content) -> range:
    """Horizontal middle of each category, in pixels."""
    first, step = {2: (70, 84), 3: (70, 56), 4: (42, 56), 5: (70, 28), 6: (42, 28)}[len(content.categories)]
    return range(first, first + step * len(content.categories), step)


def _bars(canvas: ImageDraw.ImageDraw, content: Content, plot: _Plot) -> None:
    centers = _centers(content)
    width = min(min(centers.step, 2 * (centers.start - plot.left)) * plot.fill / len(content.values), 34)
    for row, values in enumerate(content.values):
        for index, value in enumerate(values):
            x = centers[index] + (row - len(content.values) / 2) * width
            color = content.colors[row if content.series else index]
            box = [round(x), plot.y(value), round(x + width) - 1, plot.bottom - 1]
            canvas.rectangle(box, fill=COLORS[color])


def _lines(canvas: ImageDraw.ImageDraw, content: Content, plot: _Plot) -> None:
    for color, values in zip(content.colors, content.values, strict=True):
        points = [(x, plot.y(value)) for x, value in zip(_centers(content), values, strict=True)]
        canvas.line(points, fill=COLORS[color], width=2)
        for x, y in points:
            canvas.ellipse([x - 3, y - 3, x + 3, y + 3], fill=COLORS[color])


def _pie(canvas: ImageDraw.ImageDraw, content: Content, rng: random.Random) -> None:
    x, y, radius, degrees = 74, HEIGHT // 2, rng.randint(58, 64), -90.0
    box = [x - radius, y - radius, x + radius, y + radius]
    for (_, middle, row), share, color in zip(places(content), content.values[0], content.colors, strict=True):
        canvas.pieslice(box, degrees, degrees + share * 3.6, fill=COLORS[color], outline=(255, 255, 255))
        canvas.rectangle([middle - 29, row - 5, middle - 19, row + 5], fill=COLORS[color])
        degrees += share * 3.6


# Question and whole-sentence answer; half of the answers begin with what was asked for.
WORDINGS = {
    "value": (
        ("What is the value of {s}?", "The value of {s} is {v}."), ("How much is {s}?", "{v} is the value of {s}."),
        ("Which number belongs to {s}?", "The number of {s} is {v}."),
        ("Read the value of {s}.", "{v} belongs to {s}."),
    ),
    "color": (
        ("What color is {s}?", "The color of {s} is {c}."), ("Which color does {s} have?", "{C} is the color of {s}."),
    ),
    "extreme": (
        ("Which {n} is the {hi}?", "The {hi} {n} is {c}."), ("What is the {hi} {n}?", "{c} is the {hi} {n}."),
    ),
    "extreme of a series": (
        ("Where is {s} {hi}?", "The {hi} of {s} is {c}."), ("Which label has {s} {hi}?", "{c} has {s} {hi}."),
    ),
    "count": (
        ("How many {n} are there?", "There {be} {v} {one}."),
        ("What is the number of {n}?", "{v} {one} {be} in the chart."),
    ),
    "compare": (
        ("Is {a} {than} {b}{for_}?", "{yes}, {a} is {not_}{than} {b}{for_}."),
        ("Would you say {a} is {than} {b}{for_}?", "{yes}, {a} is {not_}{than} {b}{for_}."),
    ),
    "threshold": (("Is the value of {s} {than} {t}?", "{yes}, the value of {s} is {not_}{than} {t}."),),
}  # fmt: skip
_Made = tuple[str, str, dict[str, object]] | None  # key of WORDINGS, label, words to fill in


def ask(content: Content, kind: str, rng: random.Random) -> Question | None:
    """A question of `kind`, or None where the chart has no unambiguous one (a tie for the highest, say)."""
    made = _MAKERS[kind](content, rng)
    if made is None:
        return None
    key, label, words = made
    query, sentence = rng.choice(WORDINGS[key])
    return Question(query.format(**words), label, kind, sentence.format(**words))


def _subject(content: Content, rng: random.Random) -> tuple[str, int]:
    """A thing that has one value, and that value."""
    row, index = rng.randrange(len(content.values)), rng.randrange(len(content.categories))
    value = content.values[row][index]
    if content.series:
        return f"{content.series[row]} for {content.categories[index]}", value
    if content.form != "line" and rng.random() < 0.3:
        return f"the {content.colors[index]} {_noun(content)}", value
    return content.categories[index], value


def _noun(content: Content) -> str:
    return {"pie": "slice", "line": "line"}.get(content.form, "bar")


def _value(content: Content, rng: random.Random) -> _Made:
    subject, value = _subject(content, rng)
    return "value", str(value), {"s": subject, "v": value}


def _color(content: Content, rng: random.Random) -> _Made:
    names = content.series or (content.categories if content.form != "line" else ("the line",))
    index = rng.randrange(len(names))
    return _colored("color", content.colors[index], names[index])


def _colored(key: str, color: str, subject: str) -> _Made:
    return key, color.capitalize(), {"s": subject, "c": color, "C": color.capitalize()}


def _extreme(content: Content, rng: random.Random) -> _Made:
    row, high = rng.randrange(len(content.values)), rng.random() < 0.5
    values = content.values[row]
    best = max(values) if high else min(values)
    if values.count(best) > 1:
        return None
    index, is_pie = values.index(best), content.form == "pie"
    hi = ("largest" if is_pie else "highest") if high else ("smallest" if is_pie else "lowest")
    label = content.categories[index]
    if content.form in ("grouped", "line"):
        subject = content.series[row] if content.series else "the line"
        return "extreme of a series", label, {"s": subject, "hi": hi, "c": label}
    if rng.random() < 0.35:
        return _colored("color", content.colors[index], f"the {hi} {_noun(content)}")
    return "extreme", label, {"n": _noun(content), "hi": hi, "c": label}


def _count(content: Content, rng: random.Random) -> _Made:
    things = {"grouped": ("groups", len(content.categories)), "line": ("lines", len(content.values))}
    name, number = things.get(content.form, (_noun(content) + "s", len(content.categories)))
    if content.series and rng.random() < 0.5:
        name, number = "colors", len(content.series)
    one, be = (name, "are") if number > 1 else (name[:-1], "is")
    return "count", str(number), {"n": name, "one": one, "v": number, "be": be}


def _compare(content: Content, rng: random.Random) -> _Made:
    column = rng.randrange(len(content.categories))
    names, values = content.categories, list(content.values[0])
    if content.series:
        names, values = content.series, [row[column] for row in content.values]
    left, right = rng.sample(range(len(names)), 2)
    if values[left] == values[right]:
        return None
    higher = rng.random() < 0.5
    words: dict[str, object] = {"a": names[left], "b": names[right], "than": "higher than" if higher else "lower than"}
    words["for_"] = f" for {content.categories[column]}" if content.series else ""
    return _yes_or_no("compare", (values[left] > values[right]) == higher, words)


def _threshold(content: Content, rng: random.Random) -> _Made:
    subject, value = _subject(content, rng)
    above, yes = rng.random() < 0.5, rng.random() < 0.5
    # A limit at least 10 away from the value: the question is about the value, not about a pixel.
    limits = {True: range(10, value - 9, 10), False: range(-(-(value + 10) // 10) * 10, 100, 10)}
    if not limits[above == yes]:
        yes = not yes
    limit = rng.choice(limits[above == yes])
    return _yes_or_no("threshold", yes, {"s": subject, "t": limit, "than": "above" if above else "below"})


def _yes_or_no(key: str, yes: bool, words: dict[str, object]) -> _Made:
    label = "Yes" if yes else "No"
    return key, label, words | {"yes": label, "not_": "" if yes else "not "}


_MAKERS = {"value": _value, "color": _color, "extreme": _extreme, "count": _count, "compare": _compare}
_MAKERS["threshold"] = _threshold


def describe(content: Content, series: int = 0, rng: random.Random | None = None) -> str:
    """The whole content as sentences, categories in the order of `rng`; of a chart with several series, that of one."""
    form = {"grouped": "grouped bar"}.get(content.form, content.form)
    order = list(range(len(content.categories)))
    if rng:
        rng.shuffle(order)
    items = [f"{content.categories[index]} is {content.values[series][index]}" for index in order]
    if content.form in ("bar", "pie"):
        items = [f"{item} and {content.colors[index]}" for item, index in zip(items, order, strict=True)]
        return f"This is a {form} chart. {', '.join(items)}."
    subject = content.series[series] if content.series else "The line"
    return f"This is a {form} chart. {subject} is {content.colors[series]}. {', '.join(items)}."


def pixel_hash(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def write_split(out: Path, split: str, *, n_questions: int, seed: int) -> list[dict[str, object]]:
    """Writes `split`.jsonl and its pictures; returns the rows. No content and no picture comes twice."""
    rng, rows, seen = random.Random(seed), [], set()
    while len(rows) < n_questions:
        chart = draw(rng, split=split, questions=min(3, n_questions - len(rows)), kinds=ASKED, forms=SHOWN)
        marks = {chart.content.digest().hex(), pixel_hash(chart.image)}
        if marks & seen:
            continue
        seen |= marks
        name = f"images/{split}-{len(seen) // 2:04d}.png"
        chart.image.save(out / name, optimize=True)
        rows += [
            {"image": name, "query": q.query, "label": [q.label], "kind": q.kind, "chart": chart.content.form}
            for q in chart.questions
        ]
    (out / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/charts"), show_default=True)
def main(out: Path) -> None:
    """Writes train.jsonl, validation.jsonl, test.jsonl and images/ under OUT."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    table = RichTable("split", "questions", "pictures", *KINDS)
    for split, (n_questions, seed) in SPLITS.items():
        rows = write_split(out, split, n_questions=n_questions, seed=seed)
        counts = [str(sum(row["kind"] == kind for row in rows)) for kind in KINDS]
        table.add_row(split, str(len(rows)), str(len({row["image"] for row in rows})), *counts)
    console = Console()
    console.print(table)
    console.print(f"{sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 2**20:.2f} MiB in {out}")


if __name__ == "__main__":
    main()
