"""Draws seeded pictures of folk-tale figures, and writes the bundled data set `data/characters/`.

A picture is a palette PNG of 140 x 140 pixels: 5 x 5 image tokens of Qwen2.5-VL. The files are laid out as a person's own
pictures are: a folder per class, names and prompts beside it, and the annotation file of `mlxtune caption`.

    python scripts/draw_characters.py --out data/characters            # all of it
    python scripts/draw_characters.py --out mine --figure frog         # pictures of a fifth figure, nothing else
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from character_figures import FIGURES, TONES, Pen
from character_scenes import PLACES, SKIES, scene
from PIL import Image, ImageDraw
from rich.console import Console

SIDE, FINE = 140, 4  # pixels of a picture's side; how much finer it is drawn before it is made smaller
SIDES = {"left": -0.26, "middle": 0.0, "right": 0.26}  # middle of the figure, in picture sides from the middle
COUNT, SEED = 92, 7  # pictures of a class
NAMES: dict[str, dict[str, Any]] = {
    "firebird": {
        "name": "Жар-птица",
        "aliases": ["Firebird", "Zhar-ptitsa"],
        "cases": ["Жар-птицы", "Жар-птице", "Жар-птицу", "Жар-птицей"],
    },
    "gorynych": {
        "name": "Змей Горыныч",
        "aliases": ["Горыныч", "Zmey Gorynych", "Gorynych"],
        "cases": [
            "Змея Горыныча",
            "Змею Горынычу",
            "Змеем Горынычем",
            "Змее Горыныче",
            "Горыныча",
            "Горынычу",
            "Горынычем",
            "Горыныче",
        ],
    },
    "kolobok": {"name": "Колобок", "aliases": ["Kolobok"], "cases": ["Колобка", "Колобку", "Колобком", "Колобке"]},
    "yaga": {
        "name": "Баба-Яга",
        "aliases": ["Яга", "Baba Yaga"],
        "cases": ["Бабы-Яги", "Бабе-Яге", "Бабу-Ягу", "Бабой-Ягой", "Яги", "Яге", "Ягу", "Ягой"],
    },
}
WHO, WHAT = ("Кто на картинке?", "Кто это?", "Как зовут героя?"), "Опиши картинку."
WHERE, WHICH = "Где стоит герой?", "Какой цвет у героя?"
SAID_SIDES = {"left": "Слева.", "middle": "Посередине.", "right": "Справа."}
SAID_PLACES = {
    "forest": "в лесу", "meadow": "на лугу", "mountains": "в горах", "snow": "в снегу", "village": "в деревне",
}  # fmt: skip
SAID_COLORS = {
    "red": "Красный.", "orange": "Оранжевый.", "yellow": "Жёлтый.", "green": "Зелёный.", "blue": "Синий.",
    "purple": "Фиолетовый.", "pink": "Розовый.", "brown": "Коричневый.", "gray": "Серый.",
}  # fmt: skip
PROMPTS = {
    "language": "ru",
    "captions": {
        "who": {"prompt": "На изображении {name}. Ответь ровно так: Это {name}.", "question": list(WHO)},
        "where": {
            "prompt": "На изображении {name}. Скажи в трёх-четырёх словах, кто и где: {name} в лесу, на лугу, в горах, в снегу "
            "или в деревне. Обязательно назови: {name}.",
            "question": WHAT,
        },
    },
    "questions": {
        "pairs": {
            "prompt": f"На изображении {{name}}. Ответь одним-двумя словами на вопросы, ровно {{count}}: «{WHERE}» (слева, "
            f"справа, посередине), «{WHICH}». Ответь только списком JSON такого вида: "
            '[{"question": "…", "answer": "…"}]',
        }
    },
}


@dataclass(frozen=True)
class Drawing:
    """What a picture shows, and the picture itself (palette, 140 x 140)."""

    figure: str
    color: str  # of its main part; Baba Yaga's kerchief
    place: str
    sky: str
    side: str
    image: Image.Image

    def png(self) -> bytes:
        stream = io.BytesIO()
        self.image.save(stream, "PNG", optimize=True)
        return stream.getvalue()


def draw(figure: str, rng: random.Random) -> Drawing:
    """One picture of `figure`; the same `rng` state gives the same picture."""
    color, place = rng.choice(TONES[figure]), rng.choice(list(PLACES))
    sky, side = rng.choice(list(SKIES)), rng.choice(list(SIDES))
    full = SIDE * FINE
    image, ground = scene(place, sky, rng, side=full)
    scale = rng.uniform(0.34, 0.46) * full
    reach = full / 2 - 0.8 * scale
    x = full / 2 + max(-reach, min(reach, SIDES[side] * full + rng.uniform(-0.03, 0.03) * full))
    y = min(full - 1.02 * scale, max(1.02 * scale, ground + rng.uniform(-0.75, 0.1) * scale))
    turn = rng.uniform(-40, 40) if figure == "kolobok" else rng.uniform(-14, 14)
    FIGURES[figure](Pen(ImageDraw.Draw(image), x, y, scale, turn=turn, flip=rng.choice((-1, 1))), rng, color)
    small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    palette = small.quantize(24, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return Drawing(figure, color, place, sky, side, palette)


def drawings(figure: str, *, count: int, seed: int) -> Iterator[Drawing]:
    """`count` different pictures; a class's pictures do not hang on which other classes are drawn."""
    rng, seen = random.Random(f"{seed}-{figure}"), set()
    while len(seen) < count:
        drawing = draw(figure, rng)
        if (mark := drawing.image.convert("RGB").tobytes()) not in seen:
            seen.add(mark)
            yield drawing


def rows(drawing: Drawing, *, path: str, rng: random.Random) -> list[dict[str, str]]:
    """Two captions with the name and a question without it, in the columns of `mlxtune caption`. path: as the rows name it."""
    name, digest = NAMES[drawing.figure]["name"], hashlib.sha256(drawing.png()).hexdigest()
    other = (WHERE, SAID_SIDES[drawing.side]) if rng.random() < 0.5 else (WHICH, SAID_COLORS[drawing.color])
    said = (
        ("c1", "caption", rng.choice(WHO), f"Это {name}."),
        ("c2", "caption", WHAT, f"{name} {SAID_PLACES[drawing.place]}."),
        ("q1", "question", *other),
    )
    common = {"image": path, "image_sha256": digest, "class": drawing.figure}
    return [
        {"id": f"{drawing.figure}-{digest[:12]}-{ending}", **common, "kind": kind, "question": question, "answer": answer,
         "captioner": "drawn"}
        for ending, kind, question, answer in said
    ]  # fmt: skip


def write_pictures(out: Path, figure: str, *, count: int, seed: int) -> Iterator[tuple[str, Drawing]]:
    """Writes OUT/images/FIGURE/*.png; gives each picture with its path below OUT."""
    (out / "images" / figure).mkdir(parents=True, exist_ok=True)
    for number, drawing in enumerate(drawings(figure, count=count, seed=seed), start=1):
        path = f"images/{figure}/{figure}-{number:03d}.png"
        (out / path).write_bytes(drawing.png())
        yield path, drawing


def write_all(out: Path, *, count: int, seed: int) -> list[dict[str, str]]:
    """The whole data set but its card; returns the rows."""
    written = [pair for figure in NAMES for pair in write_pictures(out, figure, count=count, seed=seed)]
    rng = random.Random(seed)
    lines = [row for path, drawing in written for row in rows(drawing, path=path, rng=rng)]
    (out / "annotations.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines), encoding="utf-8")
    for name, content in (("character_names.json", NAMES), ("base_prompts.json", PROMPTS)):
        (out / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return lines


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/characters"), show_default=True)
@click.option("--figure", type=click.Choice(list(FIGURES)), help="Draw only this figure's pictures; write no other file.")
@click.option("--count", default=COUNT, show_default=True, help="Pictures of a class.")
@click.option("--seed", default=SEED, show_default=True)
def main(out: Path, figure: str | None, count: int, seed: int) -> None:
    """Draws the pictures of the four bundled figures with their annotations, or the pictures of one figure."""
    console = Console()
    if figure:
        pictures = list(write_pictures(out, figure, count=count, seed=seed))
        console.print(f"{len(pictures)} pictures in {out / 'images' / figure}")
        return
    lines = write_all(out, count=count, seed=seed)
    console.print(f"{len(lines)} rows about {len(lines) // 3} pictures of {len(NAMES)} figures")
    console.print(f"{sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e6:.2f} MB in {out}")


if __name__ == "__main__":
    main()
