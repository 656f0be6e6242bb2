"""How likely each option of a multiple-choice question is: an answer that cannot have a wrong form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mlxtune.batching import collate
from mlxtune.engine import Engine
from mlxtune.errors import DataError
from mlxtune.types import Encoded, Example


def option_likelihoods(engine: Engine, examples: Sequence[Example], *, batch_size: int) -> list[Mapping[str, float] | None]:
    """For each example the log-probability (nats) of every option's letter where the answer begins.

    None for an example without choices. The letters are compared at one place of one forward pass, as lm-evaluation-harness
    and MMLU do it. Errors: DataError where two letters begin with the same token.
    """
    found: list[Mapping[str, float] | None] = [None] * len(examples)
    asked = {number: _question(engine, example) for number, example in enumerate(examples) if example.choices}
    ordered = sorted(asked, key=lambda number: len(asked[number].row.input_ids))
    for start in range(0, len(ordered), batch_size):
        chosen = ordered[start : start + batch_size]
        batch = collate([asked[n].row for n in chosen], pad_id=engine.processor.pad_id, pictures=engine.pictures)
        logits = engine.backend.logits(batch)[: len(chosen)].astype(np.float64)  # [B, vocabulary]
        log_probabilities = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        for number, row in zip(chosen, log_probabilities, strict=True):
            found[number] = {letter: float(row[token]) for letter, token in asked[number].tokens.items()}
    return found


class _Question(NamedTuple):
    row: Encoded  # scored at one place: where the options' answers part
    tokens: Mapping[str, int]  # letter -> its token there


def _question(engine: Engine, example: Example) -> _Question:
    rows = {
        letter: engine.processor.encode(replace(example, target=letter), max_tokens=None, answer=True)
        for letter in example.choices
    }
    columns = zip(*(row.input_ids.tolist() for row in rows.values()), strict=False)
    # Some templates put a space before the answer, which may be a token that all options share.
    place = next((place for place, tokens in enumerate(columns) if len(set(tokens)) > 1), 0)
    tokens = {letter: int(row.input_ids[place]) for letter, row in rows.items()}
    if len(set(tokens.values())) < len(tokens):
        raise DataError(
            f"{example.id}: of the options {', '.join(tokens)} some begin alike, so their likelihoods cannot be told apart. "
            "Give them letters"
        )
    row = next(iter(rows.values()))
    return _Question(replace(row, weights=np.eye(1, len(row.weights), place, dtype=np.float32)[0]), tokens)
