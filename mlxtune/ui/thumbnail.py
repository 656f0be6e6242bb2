"""Pictures in a terminal: each character cell is the upper half block, coloured above and below."""

from __future__ import annotations

from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style

from mlxtune.errors import DataError
from mlxtune.images import ImageRef
from mlxtune.ui.text import one_line

_HALF = "▀"


def shows_pictures(console: Console) -> bool:
    """Whether half blocks in colours come out: a terminal with 256 colours or more that writes Unicode."""
    return console.is_terminal and console.color_system in ("truecolor", "256") and console.encoding.startswith("utf")


class Thumbnail:
    """A picture of at most `columns` x `rows` character cells; its reason in words where it cannot be read.

    A cell is taken to be twice as high as wide, so that half of one is a square pixel.
    """

    def __init__(self, image: ImageRef, *, columns: int = 36, rows: int = 12) -> None:
        self._image = image
        self._columns, self._rows = max(columns, 1), max(rows, 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = min(self._columns, options.max_width)
        try:
            picture = self._image.load()
        except DataError as error:
            yield one_line(str(error), longest=4 * columns)
            return
        scale = min(columns / picture.width, 2 * self._rows / picture.height)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        pixels = picture.resize((min(width, columns), min(height, 2 * self._rows)), reducing_gap=2.0).load()
        for top in range(0, min(height, 2 * self._rows), 2):
            for column in range(min(width, columns)):
                below = Color.from_rgb(*pixels[column, top + 1]) if top + 1 < min(height, 2 * self._rows) else None
                yield Segment(_HALF, Style(color=Color.from_rgb(*pixels[column, top]), bgcolor=below))
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        columns = min(self._columns, options.max_width)
        return Measurement(columns, columns)
