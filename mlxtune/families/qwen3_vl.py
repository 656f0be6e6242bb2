"""Qwen3-VL: patches of 16 pixels merged 2 x 2, learned positions stretched to the picture, and features of several depths.

The vision tower gives more than its last features: those of some earlier blocks ("deepstack") are added to the hidden states
behind the first layers of the text model. All of them travel as one array, [tokens, hidden * (1 + levels)].

Proven against transformers' own classes with random weights. Published files were not at hand: chat template (`<|vision_start|>
<|image_pad|><|vision_end|>` for a picture, no system prompt of its own), picture settings (16 pixels, 65,536 to 16,777,216 pixels
a picture) and sizes are as transformers and other public code give them. The published settings name the torchvision image
processor; like all Qwen families here, pictures are resized by Pillow, as transformers' own Pillow processor does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlxtune.errors import ModelError
from mlxtune.families.base import Family, KnownModel
from mlxtune.families.config import ModelConfig
from mlxtune.families.qwen2_5_vl import LAYER, RENAMES, TEXT_SITES, Qwen2_5_VLProcessor, patch_places

# preprocessor_config.json's name of a size -> config.json's, in vision_config
_SIZES = {"patch_size": "patch_size", "merge_size": "spatial_merge_size", "temporal_patch_size": "temporal_patch_size"}


class Stretched(NamedTuple):
    """Which of the learned positions each patch takes, and how much of each."""

    rows: np.ndarray  # [P, 4] int32; of the table of side * side positions
    weights: np.ndarray  # [P, 4] float32; they sum to 1


def stretched_positions(grids: Sequence[tuple[int, ...]], *, merge: int, side: int) -> Stretched:
    """The square of learned positions, stretched over each picture: bilinear, corner on corner.

    grids: (1, h, w) in patches; patches in the order of `patch_places`. side: of the square.
    Source: `get_vision_interpolation_indices_and_weights` of transformers, in its own single precision.
    """
    places = patch_places(grids, merge=merge)  # [P, 2]
    sizes = np.repeat(np.array([grid[1:] for grid in grids], np.float32), [h * w for _, h, w in grids], axis=0)
    source = places * np.float32(side - 1) / np.maximum(sizes - 1, np.float32(1))
    low, step = np.floor(source)[..., None], np.arange(2, dtype=np.float32)
    taps = np.minimum(low + step, side - 1).astype(np.int32)  # [P, 2 axes, 2 taps]
    share = 1 - np.abs(source[..., None] - low - step)
    rows, weights = taps[:, 0, :, None] * side + taps[:, 1, None], share[:, 0, :, None] * share[:, 1, None]
    return Stretched(rows.reshape(-1, 4), weights.reshape(-1, 4))


class Qwen3VLProcessor(Qwen2_5_VLProcessor):
    """Pictures and positions as Qwen2.5-VL's, with patches of the size that the vision tower takes."""

    def __init__(self, config: ModelConfig, family: Family, *, min_pixels: int | None, max_pixels: int | None) -> None:
        super().__init__(config, family, min_pixels=min_pixels, max_pixels=max_pixels)
        _check_levels(config)
        sizes = {key: config.vision[name] for key, name in _SIZES.items() if name in config.vision}
        for key, size in sizes.items():
            if self.settings.get(key, size) != size:
                raise ModelError(
                    f"{config.folder}/preprocessor_config.json: {key} is {self.settings[key]}, but the vision tower of "
                    f"config.json takes {size}. Download the model again"
                )
        # The published image processor would fall back to Qwen2-VL's 14 pixels.
        self.settings = {**sizes, **self.settings}


def _check_levels(config: ModelConfig) -> None:
    """transformers leaves out a level that has no place, and says nothing: such a model is refused."""
    levels, blocks = list(config.vision.get("deepstack_visual_indexes") or ()), config.vision.get("depth")
    layers = config.text.get("num_hidden_layers")
    where = f"{config.folder}/config.json: deepstack_visual_indexes"
    if layers is not None and len(levels) > layers:
        raise ModelError(
            f"{where} names {len(levels)} levels, the text model has {layers} layers to add them to. Download the model again"
        )
    if len(set(levels)) < len(levels) or (blocks is not None and any(not 0 <= level < blocks for level in levels)):
        raise ModelError(
            f"{where} is {levels}, but must name distinct ones of the vision tower's {blocks} blocks, counted from 0. "
            "Download the model again"
        )


QWEN3_VL = Family(
    name="qwen3_vl",
    model_types=("qwen3_vl",),
    description="Qwen3-VL (dense): any picture shape, 32 x 32 pixels a token, features of several depths",
    known_models=(
        KnownModel("Qwen/Qwen3-VL-2B-Instruct", 2.13, "Apache-2.0", 513),
        KnownModel("Qwen/Qwen3-VL-4B-Instruct", 4.44, "Apache-2.0", 513),
        KnownModel("Qwen/Qwen3-VL-8B-Instruct", 8.77, "Apache-2.0", 513),
    ),
    processor=Qwen3VLProcessor,
    sites={
        **TEXT_SITES,
        "projector": r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]",
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])",
    },
    layer=LAYER,
    renames=RENAMES,  # published under canonical names; those of the older Qwens are read too
)
