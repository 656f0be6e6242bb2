"""The models that can be tuned, family by family, with what their weights take; one line a model, for an eye and for grep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlxtune.families import Family, KnownModel
from mlxtune.ui.text import clean

BITS = {"16 bit": 16.0, "4 bit": 4.5}  # groups of 64 weights of 4 bits share a scale and an offset of 16 bits each
_HEADINGS = ("model", "B", "16 bit", "4 bit", "tokens", "licence")
_NOTES = (
    "Every family runs and trains on both backends, mlx and torch. An id can stand in a recipe as model.path; so can a folder of "
    "any model of the family.",
    "B: parameters in billions. tokens: of a chart of 850 x 600 pixels with the published settings; model.max_pixels lowers it "
    "where the family allows.",
    "16 bit, 4 bit: GB of the weights alone (1 GB = 10^9 bytes), computed from the parameters, not measured: 2 bytes each, or "
    "4.5 bits with the scales (model.quantize: 4bit). Left out: what stays at 16 bits when the rest is packed (picture encoder, "
    "embeddings, output head), the adapter and its optimizer, activations, pictures and generated text. Training takes more. "
    "4 bits with torch need a CUDA device; Moondream has them with mlx alone.",
)


def show_models(families: Iterable[Family]) -> None:
    families = list(families)
    widths = _widths([row for family in families for row in map(_row, family.known_models)])
    out = Console(highlight=False)
    if out.width < _least(widths):  # the terminal breaks such lines by itself; cut off, the numbers would be gone
        out = Console(highlight=False, width=_least(widths))
    for family in families:
        out.print(Text.assemble((family.name, "bold"), "  ", clean(family.description)))
        out.print(_table(map(_row, family.known_models), widths=widths))
        out.print()
    for note in _NOTES:
        out.print(Text(note))


def gigabytes(model: KnownModel, *, bits: float) -> float:
    """Of the weights alone, in 10^9 bytes."""
    return model.parameters * bits / 8


def _row(model: KnownModel) -> tuple[str, ...]:
    memory = (f"{gigabytes(model, bits=bits):.1f}" for bits in BITS.values())
    return (model.id, f"{model.parameters:.2f}", *memory, str(model.image_tokens), model.licence)


def _widths(rows: Iterable[tuple[str, ...]]) -> Mapping[str, int]:
    """Of the columns, the same in all families' tables."""
    columns = zip(_HEADINGS, zip(_HEADINGS, *rows, strict=True), strict=True)
    return {heading: max(map(len, cells)) for heading, cells in columns}


def _least(widths: Mapping[str, int]) -> int:
    """Columns of a line that holds every id and number whole, and a licence's longest word."""
    return sum(widths.values()) - widths[_HEADINGS[-1]] + len("Apache-2.0") + len(_HEADINGS) - 1


def _table(rows: Iterable[tuple[str, ...]], *, widths: Mapping[str, int]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for heading in _HEADINGS:
        last, first = heading == _HEADINGS[-1], heading == _HEADINGS[0]
        # An id is meant to be copied, a number to be read: where the room is short, the licence goes on in the next line.
        width = {} if last else {"min_width": widths[heading], "no_wrap": True}
        table.add_column(heading, justify="left" if first or last else "right", overflow="fold", **width)
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    return table
