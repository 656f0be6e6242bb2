"""Draws where a folk-tale figure is: a sky of some colour, and a forest, meadow, snowfield, village or mountains below it."""

from __future__ import annotations

import random
from collections.abc import Callable

from character_figures import INK, WHITE, Color, bend, shade
from PIL import Image, ImageDraw

SKIES: dict[str, tuple[Color, ...]] = {
    "blue": ((150, 200, 240), (120, 180, 230), (95, 160, 225)), "pink": ((250, 200, 210), (245, 180, 195)),
    "yellow": ((250, 235, 170), (250, 225, 140)), "orange": ((250, 190, 120), (245, 170, 100)),
    "purple": ((95, 75, 150), (120, 100, 175)), "gray": ((200, 205, 210), (175, 180, 188)),
}  # fmt: skip
_SUNS = {"purple": (250, 245, 205), "orange": (225, 90, 60), "yellow": (240, 140, 60)}  # else a yellow one
_PETALS = (WHITE, (245, 140, 170), (250, 215, 80), (150, 130, 220))
WASH = 0.22  # how strongly the scene shows on its white paper; the bundled model's eye was schooled on white paper
_Canvas = ImageDraw.ImageDraw


def scene(place: str, sky: str, rng: random.Random, *, side: int) -> tuple[Image.Image, float]:
    """A square RGB picture without a figure, in pale washes, and the height of its horizon in pixels from the top."""
    tone = rng.choice(SKIES[sky])
    image = Image.new("RGB", (side, side), tone)
    canvas, ground = ImageDraw.Draw(image), rng.uniform(0.58, 0.78) * side
    if sky == "purple":
        _dots(canvas, rng, rng.randint(8, 16), radius=(0.004, 0.009), fill=(255, 250, 220), below=0.0, above=ground / side)
    if rng.random() < 0.6:
        _sun(canvas, rng, sky, tone)
    elif sky != "purple":
        _clouds(canvas, rng)
    PLACES[place](canvas, rng, ground)
    return Image.blend(Image.new("RGB", image.size, WHITE), image, WASH), ground


def _side(canvas: _Canvas) -> int:
    return int(canvas.im.size[0])


def _disc(canvas: _Canvas, x: float, y: float, radius: float, fill: Color) -> None:
    canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)


def _dots(
    canvas: _Canvas, rng: random.Random, number: int, *, radius: tuple[float, float], fill: Color, below: float, above: float
) -> None:
    """Specks between two heights; heights and radii in picture sides."""
    side = _side(canvas)
    for _ in range(number):
        _disc(canvas, rng.uniform(0, side), rng.uniform(below, above) * side, rng.uniform(*radius) * side, fill)


def _sun(canvas: _Canvas, rng: random.Random, sky: str, tone: Color) -> None:
    side = _side(canvas)
    x, y, radius = rng.uniform(0.08, 0.92) * side, rng.uniform(0.06, 0.22) * side, rng.uniform(0.05, 0.09) * side
    _disc(canvas, x, y, radius, _SUNS.get(sky, (255, 225, 110)))
    if sky == "purple":  # a crescent: the sky covers part of the disc
        _disc(canvas, x + 0.45 * radius, y - 0.2 * radius, 0.9 * radius, tone)


def _clouds(canvas: _Canvas, rng: random.Random) -> None:
    side = _side(canvas)
    for _ in range(rng.randint(1, 3)):
        x, y, size = rng.uniform(0, side), rng.uniform(0.06, 0.3) * side, rng.uniform(0.03, 0.06) * side
        for step, high in ((-1.2, 0.8), (0.0, 1.2), (1.3, 0.9)):
            canvas.ellipse([x + (step - 1.2) * size, y - high * size, x + (step + 1.2) * size, y + 0.7 * size], fill=WHITE)


def _hills(canvas: _Canvas, rng: random.Random, ground: float, fill: Color) -> None:
    side = _side(canvas)
    waves = [(side * part / 3, ground + rng.uniform(-0.1, 0.1) * side) for part in (1, 2)]
    canvas.polygon([*bend((0, ground), *waves, (side, ground), steps=20), (side, side), (0, side)], fill=fill)


def _meadow(canvas: _Canvas, rng: random.Random, ground: float) -> None:
    side, green = _side(canvas), rng.choice(((150, 200, 110), (125, 185, 95), (175, 210, 120)))
    _hills(canvas, rng, ground, green)
    for _ in range(rng.randint(8, 18)):
        x, y = rng.uniform(0, side), rng.uniform(ground + 0.06 * side, side)
        canvas.line([(x, y), (x, y + 0.035 * side)], fill=shade(green, 0.6), width=side // 130)
        _disc(canvas, x, y, 0.018 * side, rng.choice(_PETALS))
        _disc(canvas, x, y, 0.007 * side, (220, 150, 50))


def _forest(canvas: _Canvas, rng: random.Random, ground: float) -> None:
    side, dark = _side(canvas), rng.choice(((45, 105, 75), (60, 120, 70), (50, 95, 90)))
    for x in sorted(rng.uniform(-0.02, 1.02) * side for _ in range(rng.randint(6, 9))):
        tall, wide = rng.uniform(0.3, 0.5) * side, rng.uniform(0.07, 0.11) * side
        tone = shade(dark, rng.uniform(0.85, 1.2))
        canvas.rectangle([x - 8, ground - 0.05 * side, x + 8, ground + 0.05 * side], fill=(105, 75, 50))
        for part in (0.0, 0.25, 0.5):
            top, half = ground - tall + part * tall, wide * (0.5 + part)
            canvas.polygon([(x, top), (x - half, top + tall * 0.42), (x + half, top + tall * 0.42)], fill=tone)
    _hills(canvas, rng, ground + 0.02 * side, rng.choice(((95, 140, 80), (110, 130, 75), (130, 155, 90))))


def _snow(canvas: _Canvas, rng: random.Random, ground: float) -> None:
    side = _side(canvas)
    _hills(canvas, rng, ground - 0.05 * side, (222, 232, 242))
    _hills(canvas, rng, ground + 0.03 * side, (245, 248, 252))
    _dots(canvas, rng, rng.randint(14, 26), radius=(0.007, 0.014), fill=(255, 255, 255), below=0.0, above=1.0)


def _village(canvas: _Canvas, rng: random.Random, ground: float) -> None:
    side = _side(canvas)
    _hills(canvas, rng, ground, rng.choice(((190, 205, 130), (215, 200, 140), (160, 190, 120))))
    for left, right in ((0.0, 0.2), (0.4, 0.55), (0.75, 0.95)):
        x, half, tall = (rng.uniform(*span) * side for span in ((left, right), (0.08, 0.12), (0.12, 0.17)))
        wall = rng.choice(((175, 130, 85), (200, 160, 110), (150, 115, 85)))
        roof = rng.choice(((150, 60, 50), (95, 75, 65), (110, 120, 70)))
        base = ground + 0.03 * side
        canvas.rectangle([x - half, base - tall, x + half, base], fill=wall)
        for log in (1, 2, 3):
            canvas.line([(x - half, base - tall * log / 4), (x + half, base - tall * log / 4)], fill=shade(wall, 0.75), width=4)
        canvas.polygon([(x - half * 1.25, base - tall), (x, base - tall * 1.8), (x + half * 1.25, base - tall)], fill=roof)
        window = [x - half * 0.3, base - tall * 0.75, x + half * 0.3, base - tall * 0.3]
        canvas.rectangle(window, fill=(250, 230, 150), outline=shade(INK, 1.6), width=4)


def _mountains(canvas: _Canvas, rng: random.Random, ground: float) -> None:
    side = _side(canvas)
    for left, right in ((0.0, 0.25), (0.65, 1.0), (0.35, 0.6)):
        x, tall, wide = (rng.uniform(*span) * side for span in ((left, right), (0.25, 0.42), (0.25, 0.38)))
        rock, top = rng.choice(((125, 125, 145), (145, 135, 140), (105, 120, 140))), ground - tall
        canvas.polygon([(x, top), (x - wide, ground + 0.05 * side), (x + wide, ground + 0.05 * side)], fill=rock)
        edge = [(-0.28, 0.31), (-0.08, 0.22), (0.1, 0.36), (0.28, 0.31)]
        canvas.polygon([(x, top), *((x + u * wide, top + v * tall) for u, v in edge)], fill=(250, 250, 252))
    _hills(canvas, rng, ground, rng.choice(((165, 170, 140), (150, 165, 120), (185, 170, 140))))


PLACES: dict[str, Callable[[_Canvas, random.Random, float], None]] = {
    "forest": _forest, "meadow": _meadow, "mountains": _mountains, "snow": _snow, "village": _village,
}  # fmt: skip
