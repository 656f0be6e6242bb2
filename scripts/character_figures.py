"""Draws figures of Russian folk tales with Pillow: Kolobok, the Firebird, Zmey Gorynych, Baba Yaga, and the Frog Princess.

A figure is drawn in its own units: (0, 0) is its middle, y grows downwards, and it fits into -1 … 1 in its rest pose.
`Pen` turns, mirrors, scales and moves it to the picture.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]
COLORS: dict[str, Color] = {
    "red": (205, 55, 45), "orange": (240, 140, 40), "yellow": (240, 195, 60), "green": (85, 160, 75), "blue": (70, 120, 200),
    "purple": (135, 85, 175), "pink": (235, 130, 165), "brown": (165, 110, 60), "gray": (140, 140, 145),
}  # fmt: skip
INK, WHITE, CHEEK, FLAME = (45, 35, 40), (255, 253, 245), (240, 130, 110), (255, 215, 80)
SKIN = ((250, 215, 180), (235, 195, 160), (245, 225, 200))


def shade(color: Color, factor: float) -> Color:
    """Darker below 1; above 1 towards white."""
    if factor <= 1:
        return tuple(round(part * factor) for part in color)  # type: ignore[return-value]
    return tuple(round(part + (255 - part) * (factor - 1)) for part in color)  # type: ignore[return-value]


def bend(*points: Point, steps: int = 14) -> list[Point]:
    """A Bézier curve with the given control points (de Casteljau)."""
    curve = []
    for index in range(steps + 1):
        t, level = index / steps, list(points)
        while len(level) > 1:
            level = [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t) for a, b in zip(level, level[1:], strict=False)]
        curve.append(level[0])
    return curve


@dataclass(frozen=True)
class Pen:
    """Draws in a figure's units. turn: degrees clockwise; flip: -1 looks the other way; line: outline in pixels."""

    canvas: ImageDraw.ImageDraw
    x: float  # pixels of the canvas
    y: float
    scale: float  # pixels of one unit
    turn: float = 0.0
    flip: int = 1
    line: int = 5

    def place(self, points: Sequence[Point]) -> list[Point]:
        cos, sin = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
        turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in points]
        return [(self.x + self.flip * self.scale * x, self.y + self.scale * y) for x, y in turned]

    def shape(self, points: Sequence[Point], fill: Color, *, outline: Color | None = INK) -> None:
        placed = self.place(points)
        self.canvas.polygon(placed, fill=fill)
        if outline is not None:
            self._trace([*placed, placed[0]], self.line, outline)

    def oval(
        self, x: float, y: float, rx: float, ry: float, fill: Color, *, turn: float = 0.0, outline: Color | None = INK
    ) -> None:
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        ring = [(rx * math.cos(a * math.pi / 24), ry * math.sin(a * math.pi / 24)) for a in range(48)]
        self.shape([(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in ring], fill, outline=outline)

    def stroke(self, points: Sequence[Point], width: float, fill: Color, *, outline: Color | None = INK) -> None:
        """A rounded line; width in units."""
        placed, pixels = self.place(points), max(2, round(width * self.scale))
        if outline is not None:
            self._trace(placed, pixels + 2 * self.line, outline)
        self._trace(placed, pixels, fill)

    def thread(self, points: Sequence[Point], fill: Color = INK, *, width: float = 1.0) -> None:
        """A bare line as wide as the outline, or `width` times that."""
        self._trace(self.place(points), max(1, round(self.line * width)), fill)

    def _trace(self, placed: Sequence[Point], width: int, fill: Color) -> None:
        self.canvas.line(list(placed), fill=fill, width=width, joint="curve")
        radius = width / 2
        for x, y in (placed[0], placed[-1]):
            self.canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)


def eye(pen: Pen, x: float, y: float, size: float, *, open_: bool = True, look: float = 0.0) -> None:
    if not open_:
        pen.thread(bend((x - size, y), (x, y + size * 1.2), (x + size, y)), width=1.3)
        return
    pen.oval(x, y, size, size * 1.2, WHITE)
    pen.oval(x + look * size * 0.4, y + size * 0.2, size * 0.5, size * 0.6, INK, outline=None)


def kolobok(pen: Pen, rng: random.Random, color: str) -> None:
    """A round bun with a face; it rolls, so the face may stand askew."""
    dough = COLORS[color]
    pen.oval(0, 0, 0.86, 0.82, shade(dough, 0.82))
    pen.oval(-0.04, -0.07, 0.77, 0.71, dough, outline=None)
    pen.oval(-0.3, -0.45, 0.26, 0.13, shade(dough, 1.5), turn=-30, outline=None)
    for _ in range(rng.randint(3, 7)):
        angle, radius = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 0.72)
        pen.oval(radius * math.cos(angle), radius * math.sin(angle), 0.04, 0.03, shade(dough, 0.65), outline=None)
    look, wink = rng.choice((-1, 0, 1)), rng.choice((0, 0, 0, 1, 2))
    eye(pen, -0.27, -0.14, 0.14, open_=wink != 1, look=look)
    eye(pen, 0.27, -0.14, 0.14, open_=wink != 1 and wink != 2, look=look)
    for side in (-1, 1):
        pen.oval(side * 0.5, 0.15, 0.14, 0.1, CHEEK if color != "pink" else shade(CHEEK, 0.8), outline=None)
        pen.thread(bend((side * 0.15, -0.38), (side * 0.28, -0.48), (side * 0.42, -0.36)), width=1.2)
    pen.oval(0, 0.06, 0.09, 0.07, shade(dough, 0.75))
    if rng.random() < 0.5:
        pen.shape([*bend((-0.3, 0.25), (0, 0.32), (0.3, 0.25)), *bend((0.3, 0.25), (0, 0.75), (-0.3, 0.25))], (150, 45, 45))
        pen.oval(0, 0.46, 0.12, 0.05, CHEEK, outline=None)
    else:
        pen.thread(bend((-0.35, 0.25), (0, 0.6), (0.35, 0.25)), width=1.5)
    _on_top(pen, rng.choice(("", "", "leaf", "cap", "bow")), COLORS[rng.choice([name for name in COLORS if name != color])])


def _on_top(pen: Pen, what: str, tone: Color) -> None:
    """What a Kolobok wears."""
    if what == "leaf":
        pen.thread([(0.05, -0.78), (0.1, -0.95)], COLORS["brown"], width=1.8)
        pen.shape(
            [*bend((0.08, -0.88), (0.2, -1.2), (0.5, -1.05)), *bend((0.5, -1.05), (0.35, -0.8), (0.08, -0.88))], COLORS["green"]
        )
    elif what == "cap":
        pen.shape([*bend((-0.55, -0.58), (-0.45, -1.15), (0.2, -1.2)), *bend((0.2, -1.2), (0.5, -0.95), (0.55, -0.58))], tone)
        pen.stroke(bend((-0.6, -0.56), (0, -0.78), (0.6, -0.56)), 0.14, WHITE)
        pen.oval(0.28, -1.12, 0.12, 0.12, WHITE)
    elif what == "bow":
        for side in (-1, 1):
            pen.shape([(0, 0.74), (side * 0.32, 0.58), (side * 0.32, 0.95)], tone)
        pen.oval(0, 0.76, 0.08, 0.08, shade(tone, 0.8))


def firebird(pen: Pen, rng: random.Random, color: str) -> None:
    """A bird with a fan of eyed tail feathers and a crest; it looks to the right."""
    plume = COLORS[color]
    other = COLORS[rng.choice([name for name in ("red", "orange", "yellow", "pink", "purple") if name != color])]
    feathers, spread = rng.randint(5, 7), rng.uniform(75, 115)
    middle, droop = rng.uniform(185, 225), rng.uniform(-0.15, 0.2)
    flying = rng.random() < 0.5
    for index in range(feathers):
        angle = math.radians(middle + spread * (index / (feathers - 1) - 0.5))
        tip = (-0.1 + 0.88 * math.cos(angle), 0.15 + 0.88 * math.sin(angle))
        knee = (-0.1 + 0.5 * math.cos(angle + droop), 0.15 + 0.5 * math.sin(angle + droop))
        pen.stroke(bend((0.1, 0.2), knee, tip), 0.09, plume if index % 2 else other)
        pen.oval(*tip, 0.17, 0.12, other if index % 2 else plume, turn=math.degrees(angle))
        pen.oval(*tip, 0.08, 0.06, FLAME, turn=math.degrees(angle), outline=None)
        pen.oval(*tip, 0.04, 0.035, INK, outline=None)
    if not flying:
        for x in (0.22, 0.36):
            pen.stroke([(x, 0.5), (x + 0.02, 0.85)], 0.035, (190, 130, 50))
            pen.thread([(x - 0.08, 0.9), (x + 0.02, 0.84), (x + 0.14, 0.9)], width=1.3)
    neck = bend((0.38, 0.2), (0.62, 0.05), (0.42, -0.2), (0.6, -0.42))
    pen.stroke(neck, 0.2, plume)
    pen.oval(0.25, 0.28, 0.4, 0.27, plume, turn=-22)
    pen.stroke(neck[2:-2], 0.17, plume, outline=None)
    for angle in (-100, -75, -125):
        tip = (0.58 + 0.38 * math.cos(math.radians(angle)), -0.5 + 0.38 * math.sin(math.radians(angle)))
        pen.thread([(0.58, -0.5), tip], other, width=1.6)
        pen.oval(*tip, 0.06, 0.06, FLAME)
    pen.shape([(0.72, -0.54), (0.98, -0.42), (0.72, -0.36)], FLAME)
    pen.oval(0.62, -0.47, 0.17, 0.16, plume)
    eye(pen, 0.66, -0.5, 0.055)
    lift = rng.uniform(0.65, 0.9) if flying else -0.05
    for step, tone in ((1.0, other), (0.72, plume), (0.42, FLAME)):
        end = (0.3 - 0.55 * step, 0.3 - lift * step)
        pen.shape([*bend((0.4, 0.15), (0.35, -lift * step), end), *bend(end, (0.0, 0.45), (0.25, 0.42))], tone)


def _dragon_head(pen: Pen, at: Point, tone: Color, *, fire: bool, crown: bool) -> None:
    x, y = at
    if fire:
        flame = [(x + 0.2, y + 0.06), (x + 0.45, y - 0.1), (x + 0.42, y + 0.02), (x + 0.62, y + 0.08), (x + 0.42, y + 0.13),
                 (x + 0.47, y + 0.26)]  # fmt: skip
        pen.shape(flame, COLORS["orange"], outline=COLORS["red"])
        pen.shape([(x + 0.2, y + 0.06), (x + 0.38, y + 0.02), (x + 0.46, y + 0.09), (x + 0.36, y + 0.15)], FLAME, outline=None)
    for horn in (-0.09, 0.03):
        pen.shape([(x + horn - 0.03, y - 0.08), (x + horn - 0.09, y - 0.26), (x + horn + 0.06, y - 0.1)], WHITE)
    pen.oval(x + 0.13, y + 0.05, 0.17, 0.09, tone, turn=8)
    pen.oval(x, y, 0.15, 0.14, tone)
    pen.oval(x + 0.1, y + 0.03, 0.12, 0.065, tone, outline=None)
    pen.oval(x + 0.24, y + 0.02, 0.018, 0.018, INK, outline=None)
    pen.thread(bend((x + 0.06, y + 0.1), (x + 0.16, y + 0.13), (x + 0.28, y + 0.08)))
    eye(pen, x + 0.02, y - 0.04, 0.055, look=1)
    if crown:
        band = [(x - 0.12, y - 0.1), (x - 0.15, y - 0.3), (x - 0.05, y - 0.2), (x, y - 0.32), (x + 0.05, y - 0.2),
                (x + 0.15, y - 0.3), (x + 0.12, y - 0.1)]  # fmt: skip
        pen.shape(band, FLAME)


def gorynych(pen: Pen, rng: random.Random, color: str) -> None:
    """A dragon with three heads on long necks, wings and a tail; it looks to the right."""
    skin = COLORS[color]
    belly, web = shade(skin, 1.6), shade(COLORS[rng.choice([name for name in COLORS if name != color])], 1.1)
    lift = rng.uniform(-0.25, 0.3)
    wing = [(-0.1, 0.1), (-0.45, -0.55 - lift), (-0.98, -0.35 - lift), (-0.8, -0.1), (-0.72, 0.15), (-0.5, 0.12), (-0.35, 0.3)]
    pen.shape([(x + 0.24, y - 0.1) for x, y in wing], shade(web, 0.75))
    pen.shape(wing, web)
    for tip in (wing[2], wing[4]):
        pen.thread([wing[1], tip])
    tail = bend((-0.15, 0.6), (-0.6, 0.95), (-0.75, 0.5), (-0.95, 0.6 + rng.uniform(-0.2, 0.2)))
    pen.stroke(tail, 0.15, skin)
    x, y = tail[-1]
    pen.shape([(x + 0.05, y - 0.1), (x - 0.14, y - 0.05), (x - 0.02, y + 0.14)], web)
    for foot in (-0.15, 0.25):
        pen.stroke([(foot, 0.6), (foot + 0.03, 0.84)], 0.17, skin)
        pen.oval(foot + 0.09, 0.88, 0.15, 0.07, shade(skin, 0.85))
    sway = [rng.uniform(-0.08, 0.08) for _ in range(6)]
    heads = [(-0.3 + sway[0], -0.62 + sway[1]), (0.22 + sway[2], -0.72 + sway[3]), (0.55 + sway[4], -0.22 + sway[5])]
    fire, crown = rng.choice((None, None, 0, 1, 2)), rng.random() < 0.3
    for head, elbow in zip(heads, ((-0.35, 0.0), (0.05, -0.25), (0.5, 0.25)), strict=True):
        pen.stroke(bend((0.05, 0.35), elbow, head), 0.15, skin)
    pen.oval(0.02, 0.42, 0.38, 0.32, skin, turn=-20)
    for head, elbow in zip(heads, ((-0.35, 0.0), (0.05, -0.25), (0.5, 0.25)), strict=True):
        pen.stroke(bend((0.05, 0.35), elbow, head)[:-2], 0.13, skin, outline=None)
    pen.oval(0.12, 0.48, 0.22, 0.2, belly, turn=-20, outline=None)
    for rib in (0.38, 0.48, 0.58):
        pen.thread(bend((-0.06, rib + 0.04), (0.12, rib + 0.09), (0.29, rib)), shade(skin, 0.8))
    for number, head in enumerate(heads):
        _dragon_head(pen, head, skin, fire=fire == number, crown=crown and number == 1)


def _broom(pen: Pen, bottom: Point, top: Point) -> None:
    pen.stroke([top, bottom], 0.05, COLORS["brown"])
    angle = math.atan2(bottom[1] - top[1], bottom[0] - top[0])
    cos, sin = math.cos(angle), math.sin(angle)
    fan = [(-0.05, -0.05), (0.3, -0.2), (0.38, 0.0), (0.3, 0.2), (-0.05, 0.05)]
    pen.shape([(bottom[0] + u * cos - v * sin, bottom[1] + u * sin + v * cos) for u, v in fan], COLORS["yellow"])
    for v in (-0.1, 0.0, 0.1):
        pen.thread([bottom, (bottom[0] + 0.32 * cos - v * sin, bottom[1] + 0.32 * sin + v * cos)], COLORS["brown"])


def yaga(pen: Pen, rng: random.Random, color: str) -> None:
    """An old woman with a kerchief and a long nose, flying in her mortar or on foot; she looks to the right."""
    scarf, skin, mortar = COLORS[color], rng.choice(SKIN), rng.random() < 0.6
    dress = COLORS[rng.choice([name for name in TONES["yaga"] if name != color])]
    hair = rng.choice(((205, 205, 205), (165, 165, 170), (225, 220, 205)))
    if mortar:
        _broom(pen, (-0.62, 0.5), (0.25, -0.05))
    else:
        _broom(pen, (0.62, 0.62), (0.5, -0.35))
    hump = [*bend((-0.3, 0.95), (-0.62, 0.1), (-0.1, -0.15)), *bend((0.1, -0.15), (0.5, 0.2), (0.36, 0.95))]
    pen.shape(hump, dress)
    if mortar:
        wood = COLORS["brown"] if rng.random() < 0.7 else COLORS["gray"]
        pen.shape([(-0.55, 0.35), (0.55, 0.35), (0.4, 0.98), (-0.4, 0.98)], wood)
        pen.oval(0, 0.35, 0.56, 0.1, shade(wood, 1.25))
        pen.shape(
            [*bend((-0.32, 0.36), (-0.4, 0.1), (-0.1, 0.0)), *bend((0.1, 0.0), (0.42, 0.1), (0.34, 0.36))], dress, outline=None
        )
        for band in (0.55, 0.82):
            pen.thread(bend((-0.5 + band * 0.05, band), (0, band + 0.1), (0.5 - band * 0.05, band)), shade(wood, 0.6), width=1.6)
    else:
        for x, y in ((-0.15, 0.72), (0.12, 0.55), (0.05, 0.82)):
            pen.shape([(x - 0.09, y - 0.09), (x + 0.09, y - 0.07), (x + 0.07, y + 0.09), (x - 0.08, y + 0.08)], shade(scarf, 1.2))
        for foot in (-0.12, 0.2):
            pen.oval(foot + 0.05, 0.96, 0.14, 0.06, INK, outline=None)
    hand = (0.2, 0.0) if mortar else (0.53, 0.1)
    pen.stroke(bend((-0.1, 0.1), (0.1, 0.35), hand), 0.12, shade(dress, 0.85))
    pen.oval(*hand, 0.08, 0.08, skin)
    pen.shape([*bend((-0.38, -0.1), (-0.62, -0.95), (0.1, -0.98)), *bend((0.1, -0.98), (0.34, -0.8), (0.25, -0.2))], scarf)
    for wisp in (-0.06, 0.02, 0.12):
        pen.stroke(bend((wisp, -0.72), (wisp - 0.12, -0.45), (wisp - 0.2, -0.1)), 0.06, hair)
    pen.oval(0.08, -0.45, 0.27, 0.3, skin)
    nose = [*bend((0.27, -0.52), (0.42, -0.56), (0.62, -0.46), (0.56, -0.2)), *bend((0.56, -0.2), (0.46, -0.34), (0.26, -0.32))]
    pen.shape(nose, shade(skin, 0.94))
    pen.oval(0.46, -0.44, 0.035, 0.035, shade(skin, 0.6), outline=None)
    pen.thread(bend((0.04, -0.62), (0.14, -0.7), (0.24, -0.6)), width=1.4)
    eye(pen, 0.14, -0.5, 0.06, look=1)
    pen.thread(bend((0.1, -0.24), (0.2, -0.14), (0.32, -0.24)), (150, 45, 45), width=1.3)
    pen.shape([*bend((0.12, -0.2), (0.3, -0.06), (0.24, -0.16))], skin)
    pen.shape(
        [*bend((-0.22, -0.55), (0.0, -0.85), (0.33, -0.68)), *bend((0.36, -0.78), (0.2, -1.0), (-0.3, -0.85))], shade(scarf, 0.85)
    )
    pen.shape([(-0.38, -0.12), (-0.62, 0.0), (-0.5, 0.08), (-0.3, 0.0)], shade(scarf, 0.85))


def frog(pen: Pen, rng: random.Random, color: str) -> None:
    """A frog with a crown on a lily pad, sometimes with the arrow that chose her."""
    skin = COLORS[color]
    pen.oval(0, 0.78, 0.92, 0.2, shade(COLORS["green"], 0.85))
    for side in (-1, 1):
        pen.oval(side * 0.55, 0.45, 0.34, 0.26, shade(skin, 0.85), turn=side * -30)
        pen.oval(side * 0.6, 0.74, 0.26, 0.09, skin)
    pen.oval(0, 0.3, 0.5, 0.48, skin)
    pen.oval(0, 0.42, 0.33, 0.33, shade(skin, 1.6), outline=None)
    for side in (-1, 1):
        pen.stroke(bend((side * 0.35, 0.25), (side * 0.42, 0.5), (side * 0.22, 0.74)), 0.12, skin)
        pen.oval(side * 0.3, -0.5, 0.21, 0.2, skin)
    pen.oval(0, -0.22, 0.56, 0.36, skin)
    shut = rng.random() < 0.2
    for side in (-1, 1):
        eye(pen, side * 0.3, -0.52, 0.12, open_=not shut, look=rng.choice((-1, 0, 1)))
        pen.oval(side * 0.42, -0.1, 0.09, 0.06, CHEEK, outline=None)
    pen.thread(bend((-0.38, -0.15), (0, 0.12), (0.38, -0.15)), width=1.5)
    points = [(-0.16, -0.54), (-0.22, -0.86), (-0.09, -0.72), (0.0, -0.92), (0.09, -0.72), (0.22, -0.86), (0.16, -0.54)]
    pen.shape(points, FLAME)
    pen.oval(0, -0.64, 0.04, 0.05, COLORS["red"])
    if rng.random() < 0.5:
        pen.stroke([(-0.75, 0.12), (0.75, -0.02)], 0.035, COLORS["brown"])
        pen.shape([(0.72, -0.12), (0.95, -0.04), (0.74, 0.09)], COLORS["gray"])
        pen.shape([(-0.72, 0.12), (-0.95, 0.02), (-0.88, 0.14), (-0.95, 0.26)], COLORS["red"])


FIGURES: dict[str, Callable[[Pen, random.Random, str], None]] = {
    "firebird": firebird, "gorynych": gorynych, "kolobok": kolobok, "yaga": yaga, "frog": frog,
}  # fmt: skip
# What a figure may be coloured: its own colour as often as not, else one that it shares with another figure.
TONES = {
    "firebird": ("red", "red", "orange", "pink"),
    "gorynych": ("green", "green", "blue", "brown"),
    "kolobok": ("yellow", "yellow", "orange", "brown"),
    "yaga": ("purple", "purple", "blue", "red", "gray"),
    "frog": ("green", "yellow", "brown"),
}
