"""What transformers and PEFT say about the same rows, through their own complete forward."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.families import Processor
from mlxtune.types import Encoded, Pixels


def load(folder: Path) -> Any:
    """The model as transformers loads it: float32, its plainest attention."""
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
    return tensors | (_PICTURES[processor.config.model_type](processor, ids, pixels) if any(pixels) else {})


def _patches(processor: Processor, ids: np.ndarray, pixels: list[list[Pixels]]) -> dict[str, Any]:
    import torch

    pictures = [p for row in pixels for p in row]
    return {
        "pixel_values": torch.from_numpy(np.concatenate([p.values for p in pictures])),
        "image_grid_thw": torch.tensor([p.grid for p in pictures]),
        "mm_token_type_ids": torch.from_numpy((ids == processor.image_token_id).astype(np.int64)),
    }


def _tiles(processor: Processor, ids: np.ndarray, pixels: list[list[Pixels]]) -> dict[str, Any]:
    import torch

    most = max(sum(len(p.values) for p in row) for row in pixels)
    shape = next(p.values.shape[1:] for row in pixels for p in row)
    values = np.zeros((len(pixels), most, *shape), np.float32)
    inside = np.zeros((len(pixels), most, *shape[1:]), bool)
    for b, row in enumerate(pixels):
        if row:
            tiles = np.concatenate([p.values for p in row])
            values[b, : len(tiles)], inside[b, : len(tiles)] = tiles, True
    return {"pixel_values": torch.from_numpy(values), "pixel_attention_mask": torch.from_numpy(inside)}


_PICTURES = {"qwen2_5_vl": _patches, "idefics3": _tiles}


def logits(model: Any, processor: Processor, rows: Sequence[Encoded]) -> np.ndarray:
    """[B, S, vocabulary]; what stands on padding means nothing."""
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
    stop = sorted(processor.stop_ids)
    settings = {"do_sample": False, "max_new_tokens": max_new_tokens, "eos_token_id": stop, "pad_token_id": processor.pad_id}
    out = model.generate(**inputs(processor, [prompt]), **settings, repetition_penalty=None)
    return tuple(out[0, len(prompt.input_ids) :].tolist())
