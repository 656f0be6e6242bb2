"""A row as each library wants it."""

from __future__ import annotations

from typing import Any

Row = dict[str, str]


def question(row: Row) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]}]


def answer(row: Row) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]}]
