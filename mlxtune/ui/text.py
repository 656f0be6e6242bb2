"""Numbers and foreign text as both displays show them; pages use the same (`mlxtune.text`)."""

from __future__ import annotations

from mlxtune.text import NOTHING, change, clean, count, duration, memory, name, one_line, percent, place, rate, value

__all__ = ["NOTHING", "change", "clean", "count", "duration", "memory", "name", "one_line", "percent", "place", "rate", "value"]
