"""Numbers and foreign text in a form that is safe and short enough to show."""

from __future__ import annotations

import math
import re
from pathlib import Path

NOTHING = "—"
# Whole escape sequences first, so that "\x1b[31m" leaves no "[31m" behind: CSI, OSC (ended by BEL or ST), other ESC pairs.
_ESCAPES = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|\x1b[ -/]*[0-~]")
# What is left of C0, DEL and C1, less tab and line feed; and marks that reverse the direction of the text after them.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """`text` without escape sequences and control characters (tabs and line feeds stay), printable in any encoding of Unicode."""
    text = _CONTROLS.sub("", _ESCAPES.sub("", text))
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be printed


def one_line(text: str | None, *, longest: int = 160) -> str:
    """`clean` text on one line, cut with "…"; "—" for None."""
    if text is None:
        return NOTHING
    line = " ".join(clean(text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def place(path: str | Path) -> str:
    """A path as short as it can be written from here; a hub id or a path elsewhere stays."""
    here = Path.cwd()
    full = Path(path)
    return clean(str(full.relative_to(here) if full.is_absolute() and full.is_relative_to(here) else path))


def name(metric: str) -> str:
    return one_line(metric.replace("_", " "))


def count(number: int) -> str:
    """1234 -> "1,234"; 2541234 -> "2.5 M"."""
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"


def memory(peak_bytes: int) -> str:
    return f"{peak_bytes / 1e9:.1f} GB" if peak_bytes >= 1e9 else f"{peak_bytes / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """62.4 -> "1:02"; 3725 -> "1:02:05"."""
    if not math.isfinite(seconds):
        return NOTHING
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate(amount: float, seconds: float) -> str:
    if seconds <= 0:
        return NOTHING
    value = amount / seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def value(number: float | None, *, scale: float = 1.0) -> str:
    """A score: 0.763 of 1.0 -> "76.3 %"; 34.12 of 100.0 -> "34.1"; None -> "—"."""
    if number is None:
        return NOTHING
    return f"{number * 100:.1f} %" if scale == 1.0 else f"{number:.1f}"


def percent(share: float | None, *, digits: int = 1) -> str:
    """0.4215 -> "42.1 %"; what is more than nothing is never shown as "0.0 %"; None -> "—"."""
    if share is None:
        return NOTHING
    least = 10.0**-digits
    return f"< {least:g} %" if 0 < share * 100 < least / 2 else f"{share * 100:.{digits}f} %"


def change(before: float | None, after: float | None, *, scale: float = 1.0) -> str:
    """The difference in points of a hundred, with its sign; "—" where either side is missing."""
    if before is None or after is None:
        return NOTHING
    points = (after - before) * 100.0 / scale
    return f"{0.0 if abs(points) < 0.05 else points:+.1f}"  # no "-0.0"
