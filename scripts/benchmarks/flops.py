"""The least arithmetic that a piece of work needs: matrix products alone, every distinct token once, every picture once.

A training step costs a frozen matrix two products (forward, and the gradient of its input), an adapter's three, attention two
forward and four backward. A vision tower that is not trained costs its forward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.jobs import RANK
from benchmarks.models import PICTURE


class Tokens(NamedTuple):
    """Of one picture's questions: what they have in common, and each one's own; learned: tokens with a label."""

    prefix: int
    tails: tuple[int, ...]
    learned: int


def tokens_of(model: Path, rows: Sequence[dict[str, str]]) -> list[Tokens]:
    """For each picture of `rows`, as mlxtune encodes them."""
    from mlxtune.families import load_processor
    from mlxtune.images import image_ref

    processor = load_processor(model, min_pixels=None, max_pixels=None)
    found = []
    for path in dict.fromkeys(row["image"] for row in rows):
        encoded = [processor.encode(_example(r, image_ref), max_tokens=None, answer=True) for r in rows if r["image"] == path]
        ids = [row.input_ids.tolist() for row in encoded]
        prefix = _common(ids) if len(ids) > 1 else 0
        found.append(Tokens(prefix, tuple(len(row) - prefix for row in ids), int(sum(row.weights.sum() for row in encoded))))
    return found


def training_flops(config: dict[str, Any], tokens: Tokens) -> float:
    """Of the language model, for the gradients of the adapter."""
    text = {**config, **config.get("text_config", {})}
    width, inner, layers = text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"]
    heads, shared = text["num_attention_heads"], text["num_key_value_heads"]
    side = text.get("head_dim") or width // heads
    shapes = [(width, heads * side), (width, shared * side), (width, shared * side), (heads * side, width)]
    shapes += [(width, inner), (width, inner), (inner, width)]
    frozen, adapters = sum(a * b for a, b in shapes), sum(RANK * (a + b) for a, b in shapes)
    count = tokens.prefix + sum(tokens.tails)
    pairs = tokens.prefix**2 / 2 + sum(tokens.prefix * tail + tail**2 / 2 for tail in tokens.tails)
    each_layer = count * (4 * frozen + 6 * adapters) + 12 * heads * side * pairs
    return layers * each_layer + 4 * tokens.learned * width * text["vocab_size"]


def vision_flops(config: dict[str, Any], family: str) -> float:
    """Forward of the vision tower and the projector, for one picture of the benchmark."""
    vision = config["vision_config"]
    return _qwen_vision(config, vision) if family == "qwen2_5_vl" else _siglip(config, vision)


def _qwen_vision(config: dict[str, Any], vision: dict[str, Any]) -> float:
    width, patch, merge = vision["hidden_size"], vision["patch_size"], vision["spatial_merge_size"]
    patches = (PICTURE["qwen2_5_vl"] // patch) ** 2
    window = min(patches, (vision["window_size"] // patch) ** 2)
    full = len(vision["fullatt_block_indexes"])
    blocks = vision["depth"] * 2 * patches * (4 * width**2 + 3 * width * vision["intermediate_size"])
    attention = 4 * width * patches * (full * patches + (vision["depth"] - full) * window)
    merged = width * merge**2
    merger = 2 * patches // merge**2 * (merged**2 + merged * config["hidden_size"])
    # The frames of a picture are alike, but the published patch embedding multiplies both.
    embedding = 2 * patches * 3 * vision["temporal_patch_size"] * patch**2 * width
    return float(blocks + attention + merger + embedding)


def _siglip(config: dict[str, Any], vision: dict[str, Any]) -> float:
    width, inner, patches = (
        vision["hidden_size"],
        vision["intermediate_size"],
        (vision["image_size"] // vision["patch_size"]) ** 2,
    )
    tiles = math.ceil(max(PICTURE["smolvlm"], vision["image_size"]) / vision["image_size"]) ** 2 + 1
    block = 2 * patches * (4 * width**2 + 2 * width * inner) + 4 * width * patches**2
    merged = width * config["scale_factor"] ** 2
    projector = 2 * patches // config["scale_factor"] ** 2 * merged * config["text_config"]["hidden_size"]
    return float(tiles * (vision["num_hidden_layers"] * block + 2 * patches * 3 * vision["patch_size"] ** 2 * width + projector))


def _common(ids: Sequence[Sequence[int]]) -> int:
    """How many first tokens are the same in all."""
    return next((n for n, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1), min(map(len, ids)))


def _example(row: dict[str, str], image_ref: Any) -> Any:
    from benchmarks.sides.conversations import question
    from mlxtune.types import Example

    answer = row["answer"]
    return Example(
        id=row["id"],
        messages=question(row),
        question=row["question"],
        target=answer,
        references=(answer,),
        images=(image_ref(row["image"]),),
    )
