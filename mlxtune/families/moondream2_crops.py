"""Moondream 2's sizes in both published layouts, how a picture is cut into crops, and how their features become one grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlxtune.errors import ModelError
from mlxtune.families.config import ModelConfig


@dataclass(frozen=True)
class Sizes:
    """views: what the projector takes of a picture; 2: the small copy and the crops, 1: the small copy alone."""

    hidden: int = 2048
    inner: int = 8192
    layers: int = 24
    vocabulary: int = 51200
    heads: int = 32
    kv_heads: int = 32
    vision_hidden: int = 1152
    vision_inner: int = 4304
    vision_layers: int = 27
    vision_heads: int = 16
    projector_inner: int = 8192
    patch: int = 14
    crop: int = 378  # pixels
    max_crops: int = 12
    margin: int = 4  # patches by which neighbouring crops overlap, on each side
    views: int = 2

    @property
    def side(self) -> int:
        """Patches along a crop's edge."""
        return self.crop // self.patch

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def rotary_dim(self) -> int:
        """How many of a head's dimensions are turned; phi's partial_rotary_factor is 0.5."""
        return self.head_dim // 2


# Keys of config.json and what they are called here.
_TEXT_2025 = {"dim": "hidden", "ff_dim": "inner", "n_layers": "layers", "vocab_size": "vocabulary", "n_heads": "heads"}
_VISION_2025 = {"enc_dim": "vision_hidden", "enc_ff_dim": "vision_inner", "enc_n_layers": "vision_layers", "crop_size": "crop"}
_VISION_2025 |= {"enc_n_heads": "vision_heads", "enc_patch_size": "patch", "proj_inner_dim": "projector_inner"}
_VISION_2025 |= {"max_crops": "max_crops", "overlap_margin": "margin"}
_TEXT_2024 = {"hidden_size": "hidden", "intermediate_size": "inner", "num_hidden_layers": "layers"}
_TEXT_2024 |= {"vocab_size": "vocabulary", "num_attention_heads": "heads"}
# The code of 2024 has these written out; a `vision_config` may say others.
_VISION_2024 = {"hidden_size": "vision_hidden", "intermediate_size": "vision_inner", "num_hidden_layers": "vision_layers"}
_VISION_2024 |= {"num_attention_heads": "vision_heads", "patch_size": "patch", "image_size": "crop"}


def is_phi_layout(config: ModelConfig) -> bool:
    """Whether it is the layout of 2024, whose files hold phi's settings; those of 2025 hold a `config`, often an empty one."""
    return "config" not in config.top and (config.text.get("model_type") == "phi" or "phi_config" in config.top)


def sizes(config: ModelConfig) -> Sizes:
    """What the folder says, the published sizes where it says nothing. Errors: ModelError for weights in int4."""
    if is_phi_layout(config):
        text = config.top.get("phi_config") or config.text
        made = Sizes(margin=0, **_renamed(text, _TEXT_2024), **_renamed(config.vision, _VISION_2024))
        inputs = _projector_inputs(config.folder) or 2 * made.vision_hidden
        return replace(made, kv_heads=made.heads, projector_inner=4 * made.hidden, views=inputs // made.vision_hidden)
    parts: Mapping[str, Any] = config.top["config"]
    text, vision = parts.get("text") or {}, parts.get("vision") or {}
    if text.get("group_size") is not None:
        raise ModelError(f"{config.folder}: its weights are quantised by torchao (text.group_size). Use the unquantised model")
    made = Sizes(**_renamed(text, _TEXT_2025), **_renamed(vision, _VISION_2025))
    return replace(made, kv_heads=int(text.get("n_kv_heads") or made.heads))


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, int]:
    return {name: int(values[key]) for key, name in names.items() if key in values}


def _projector_inputs(folder: Path) -> int | None:
    """Width of what the projector of 2024 takes: revisions differ here and nowhere in config.json. None without weights."""
    from safetensors import SafetensorError, safe_open

    name = "vision_encoder.projection.mlp.fc1.weight"
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np") as file:
                if name in file.keys():
                    return int(file.get_slice(name).get_shape()[1])
        except (SafetensorError, OSError):
            continue  # the backend reads all of it, and says what is wrong with it
    return None


# -- crops ------------------------------------------------------------------------------------------------------------


def select_tiling(size: tuple[int, int], *, window: int, max_crops: int) -> tuple[int, int]:
    """(rows, columns) of crops for a picture of (width, height) pixels, margins taken off. window: a crop without margins.

    Source: `select_tiling` of moondream/torch/image_crops.py.
    """
    width, height = size
    if height <= window or width <= window:
        return 1, 1
    fewest_rows, fewest_columns = math.ceil(height / window), math.ceil(width / window)
    if fewest_rows * fewest_columns > max_crops:
        ratio = math.sqrt(max_crops / (fewest_rows * fewest_columns))
        return max(1, math.floor(fewest_rows * ratio)), max(1, math.floor(fewest_columns * ratio))
    rows = max(math.floor(math.sqrt(max_crops * height / width)), fewest_rows)
    columns = max(math.floor(math.sqrt(max_crops * width / height)), fewest_columns)
    if rows * columns > max_crops:
        rows, columns = (rows, max_crops // rows) if columns > rows else (max_crops // columns, columns)
    return max(1, rows), max(1, columns)


class Assembly(NamedTuple):
    """How the features of a picture's crops become one grid, and that grid as many tokens as one crop has.

    The grid is pooled as torch's adaptive_avg_pool2d does; its windows are rectangles, so rows and columns go one by one.
    """

    places: np.ndarray  # [height * width] int32; which of the crops' tokens stands there, crop after crop
    down: np.ndarray  # [side, height] float32; rows sum to 1
    across: np.ndarray  # [side, width] float32


@lru_cache(maxsize=256)
def assembly(tiling: tuple[int, ...], *, side: int, margin: int) -> Assembly:
    """tiling: (rows, columns) of crops. side: patches along a crop's edge. Source: `reconstruct_from_crops`, as above."""
    window = side - 2 * margin
    crops, places = [], []
    for count in tiling:
        place = np.arange(count * window + 2 * margin)
        # A crop keeps its margins only where no neighbour shows the same.
        crop = np.clip((place - margin) // window, 0, count - 1)
        crops.append(crop)
        places.append(place - crop * window)
    (row, column), (y, x) = crops, places
    found = (row[:, None] * tiling[1] + column) * side**2 + y[:, None] * side + x
    return Assembly(found.reshape(-1).astype(np.int32), _pooling(side, len(y)), _pooling(side, len(x)))


def _pooling(side: int, length: int) -> np.ndarray:
    cell, place = np.arange(side)[:, None], np.arange(length)
    inside = (place >= cell * length // side) & (place < -(-(cell + 1) * length // side))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)
