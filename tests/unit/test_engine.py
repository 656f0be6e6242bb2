"""Rows that a run trains on: encoded when they are asked for, and not all of them kept."""

import gc
import weakref
from types import SimpleNamespace

import pytest

from mlxtune import engine


class Row:
    """What a processor gives for an example, as far as `EncodedRows` looks at it."""


class Processor:
    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.alive: weakref.WeakSet[Row] = weakref.WeakSet()

    def surely_fits(self, example: SimpleNamespace, *, max_tokens: int) -> bool:
        return True

    def encode(self, example: SimpleNamespace, *, max_tokens: int, answer: bool) -> Row:
        assert answer
        self.encoded.append(example.id)
        row = Row()
        self.alive.add(row)
        return row


def test_a_bounded_number_of_encoded_rows_stays_for_the_next_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_KEPT", 5)
    processor = Processor()
    rows = engine.EncodedRows(processor, [SimpleNamespace(id=str(n), images=()) for n in range(40)], max_tokens=9)
    for index in range(40):
        rows[index]
    gc.collect()
    assert len(processor.alive) == 5
    before = len(processor.encoded)
    assert rows[39] is rows[39] and len(processor.encoded) == before  # kept
    rows[0]
    assert processor.encoded[before:] == ["0"]  # encoded again
