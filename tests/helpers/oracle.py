"""What an independent implementation says about the same rows, through its own complete forward: transformers, unless the
family's fixture brings another one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.families import Processor, family_of, read_config
from mlxtune.types import Encoded
from tests.helpers.families import FIXTURES


def load(folder: Path) -> Any:
    """The model as transformers loads it: float32, its plainest attention."""
    fixture = FIXTURES[family_of(read_config(folder)).name]
    if fixture.load is not None:
        return fixture.load(folder)
    import torch
    import transformers

    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def inputs(processor: Processor, rows: Sequence[Encoded]) -> dict[str, Any]:
    """Arguments of the model's forward: rows padded on the right, with their pictures' pixels."""
    import torch

    width = max(len(row.input_ids) for row in rows)
    ids = np.full((len(rows), width), processor.pad_id, np.int64)
    seen = np.zeros((len(rows), width), np.int64)
    for b, row in enumerate(rows):
        ids[b, : len(row.input_ids)], seen[b, : len(row.input_ids)] = row.input_ids, 1
    pixels = [[processor.pixels(image) for image in row.images] for row in rows]
    tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(seen)}
    pictures = FIXTURES[processor.family.name].forward_pictures
    assert pictures is not None, "a fixture says how its pictures enter transformers' forward, or brings its own oracle"
    return tensors | (pictures(processor, ids, pixels) if any(pixels) else {})


def logits(model: Any, processor: Processor, rows: Sequence[Encoded]) -> np.ndarray:
    """[B, S, vocabulary]; what stands on padding means nothing."""
    own = FIXTURES[processor.family.name].logits
    if own is not None:
        return own(model, processor, rows)
    import torch

    with torch.no_grad():
        return model(**inputs(processor, rows)).logits.float().numpy()


def loss(model: Any, processor: Processor, rows: Sequence[Encoded]) -> float:
    """Mean nats per learned token, row by row and without padding."""
    import torch

    total = count = 0.0
    for row in rows:
        places = np.flatnonzero(row.weights)
        logs = torch.log_softmax(torch.from_numpy(logits(model, processor, [row])[0]).double(), dim=-1).numpy()
        total -= sum(logs[place - 1, row.input_ids[place]] for place in places)
        count += len(places)
    return total / count


def answer(model: Any, processor: Processor, prompt: Encoded, *, max_new_tokens: int) -> tuple[int, ...]:
    """Greedy ids by `generate`, with the token that stopped it."""
    own = FIXTURES[processor.family.name].answer
    if own is not None:
        return own(model, processor, prompt, max_new_tokens=max_new_tokens)
    stop = sorted(processor.stop_ids)
    settings = {"do_sample": False, "max_new_tokens": max_new_tokens, "eos_token_id": stop, "pad_token_id": processor.pad_id}
    out = model.generate(**inputs(processor, [prompt]), **settings, repetition_penalty=None)
    return tuple(out[0, len(prompt.input_ids) :].tolist())
