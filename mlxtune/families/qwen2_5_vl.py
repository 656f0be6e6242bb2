"""Qwen2.5-VL: pictures of any shape in patches of 14 pixels, merged 2 x 2, with three-axis rotary positions (M-RoPE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from mlxtune.errors import DataError, ModelError
from mlxtune.families.base import Family, KnownModel, Processor
from mlxtune.families.config import ModelConfig, check_swiglu
from mlxtune.images import ImageRef

_MAX_ASPECT = 200


def smart_resize(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width), both multiples of `factor`, with the area inside [min_pixels, max_pixels] and the shape kept.

    Source: `smart_resize` of transformers' Qwen2-VL image processor.
    """
    if max(height, width) / min(height, width) > _MAX_ASPECT:
        raise DataError(
            f"a picture of {width} x {height} pixels is too narrow: the sides may differ {_MAX_ASPECT}-fold at most. Crop it"
        )
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return (
            max(factor, math.floor(height / shrink / factor) * factor),
            max(factor, math.floor(width / shrink / factor) * factor),
        )
    if new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return new_height, new_width


def mrope_positions(input_ids: np.ndarray, grids: Sequence[tuple[int, ...]], *, image_token_id: int, merge: int) -> np.ndarray:
    """[3, S] int32 time, height and width positions; text counts on all three axes from the largest one before it.

    input_ids: [S]. grids: (t, h, w) in patches, in picture order. Source: `get_rope_index` of transformers' Qwen2.5-VL.
    """
    pieces: list[np.ndarray] = []
    start = place = 0
    pending = iter(grids)
    while place < len(input_ids):
        if input_ids[place] == image_token_id:
            t, h, w = next(pending)
            block = np.indices((t, h // merge, w // merge)).reshape(3, -1)
        else:
            rest = input_ids[place:] == image_token_id
            block = np.tile(np.arange(rest.argmax() if rest.any() else len(rest)), (3, 1))
        pieces.append(block + start)
        start = int(pieces[-1].max()) + 1
        place += block.shape[1]
    return np.concatenate(pieces, axis=1).astype(np.int32)


class Segments(NamedTuple):
    """Groups of patches that see each other, as one padded batch."""

    places: np.ndarray  # [G, M] int32; which patch stands there, any patch on padding
    valid: np.ndarray  # [G, M] bool
    back: np.ndarray  # [P] int32; where each patch stands in the flattened [G * M]


class VisionLayout(NamedTuple):
    """How the vision tower goes through all patches of a batch of pictures.

    order: [P / 4] int64; the merged tokens in window order. places_2d: [P, 2] float32; row and column of each patch, in the
    pictures' own order. windows, pictures: who sees whom in window blocks and in full blocks, for patches in window order.
    """

    order: np.ndarray
    places_2d: np.ndarray
    windows: Segments
    pictures: Segments


def vision_layout(grids: Sequence[tuple[int, ...]], *, merge: int, window: int) -> VisionLayout:
    """window: side of an attention window in merged tokens. Source: `get_window_index` of transformers' Qwen2.5-VL."""
    order, lengths, start = [], [], 0
    for _, height, width in grids:
        rows, columns = np.indices((height // merge, width // merge)).reshape(2, -1)
        number = (rows // window) * -(-(width // merge) // window) + columns // window
        order.append(np.argsort(number, kind="stable") + start)
        lengths.extend(np.unique(number, return_counts=True)[1] * merge**2)
        start += len(rows)
    return VisionLayout(np.concatenate(order), patch_places(grids, merge=merge), _segments(lengths), picture_segments(grids))


def patch_places(grids: Sequence[tuple[int, ...]], *, merge: int) -> np.ndarray:
    """[P, 2] float32: row and column of each patch in its picture, the patches of a merged token side by side."""
    places = [np.stack(_merge_order(np.indices((height, width)), merge), axis=-1) for _, height, width in grids]
    return np.concatenate(places).astype(np.float32)


def picture_segments(grids: Sequence[tuple[int, ...]]) -> Segments:
    """A patch sees all patches of its own picture."""
    return _segments([height * width for _, height, width in grids])


def _merge_order(grid: np.ndarray, merge: int) -> np.ndarray:
    """[2, H, W] -> [2, H * W] with the patches of a merged token side by side."""
    axes, height, width = grid.shape
    blocks = grid.reshape(axes, height // merge, merge, width // merge, merge)
    return blocks.transpose(0, 1, 3, 2, 4).reshape(axes, -1)


def _segments(lengths: Sequence[int]) -> Segments:
    lengths = np.asarray(lengths)
    ends = np.cumsum(lengths)
    column = np.arange(lengths.max())
    valid = column < lengths[:, None]
    places = np.where(valid, (ends - lengths)[:, None] + column, 0)
    return Segments(places.astype(np.int32), valid, np.flatnonzero(valid).astype(np.int32))


class Qwen2_5_VLProcessor(Processor):
    """Qwen2-VL's as well: the two differ in their vision towers alone."""

    image_token = "<|image_pad|>"

    def __init__(self, config: ModelConfig, family: Family, *, min_pixels: int | None, max_pixels: int | None) -> None:
        check_swiglu(config)
        check_text(config)
        super().__init__(config, family, min_pixels=min_pixels, max_pixels=max_pixels)

    @property
    def _patch(self) -> int:
        return int(self.settings.get("patch_size", 14))

    @property
    def _merge(self) -> int:
        return int(self.settings.get("merge_size", 2))

    def _limits(self) -> tuple[int, int]:
        size = self.settings.get("size") or {}
        smallest = self.min_pixels or self.settings.get("min_pixels") or size.get("shortest_edge") or 56 * 56
        largest = self.max_pixels or self.settings.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280
        return min(smallest, largest), largest

    def grid(self, size: tuple[int, int]) -> tuple[int, ...]:
        smallest, largest = self._limits()
        height, width = smart_resize(size[1], size[0], factor=self._patch * self._merge, min_pixels=smallest, max_pixels=largest)
        return 1, height // self._patch, width // self._patch

    def image_tokens(self, grid: tuple[int, ...]) -> int:
        return math.prod(grid) // self._merge**2

    def image_text(self, grid: tuple[int, ...]) -> str:
        return self.image_token * self.image_tokens(grid)

    def positions(self, input_ids: np.ndarray, grids: Sequence[tuple[int, ...]]) -> np.ndarray:
        return mrope_positions(input_ids, grids, image_token_id=self.image_token_id, merge=self._merge)

    def pixel_values(self, image: ImageRef) -> np.ndarray:
        """[patches, 3 * 2 * 14 * 14], ordered so that the four patches of one merged token are neighbours."""
        _, rows, columns = self.grid(image.size)
        patch, merge, frames = self._patch, self._merge, int(self.settings.get("temporal_patch_size", 2))
        picture = image.load().resize((columns * patch, rows * patch), Image.Resampling.BICUBIC)
        values = normalise(np.asarray(picture), mean=self.settings["image_mean"], std=self.settings["image_std"])
        values = values.reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
        values = values.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]  # [R, C, merge, merge, 3, 1, patch, patch]
        values = np.broadcast_to(values, (*values.shape[:5], frames, patch, patch))
        return values.reshape(rows * columns, -1)


def check_text(config: ModelConfig) -> None:
    """ModelError for rotary positions and attention windows that forwards would leave out; no published model has them."""
    text = config.text
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind, file = rope.get("rope_type") or rope.get("type") or "default", f"{config.folder}/config.json"
    if kind not in ("default", "mrope"):  # such as yarn, which some add for long texts
        raise ModelError(
            f"{file}: rotary positions of type '{kind}' are not supported. Restore the published rope_scaling (mrope)"
        )
    if not text["mrope_section"]:
        raise ModelError(f"{file}: rope_scaling names no 'mrope_section'. Restore the published rope_scaling")
    windows = text.get("layer_types") or []
    windowed = text.get("use_sliding_window") and text.get("max_window_layers", 0) < text.get("num_hidden_layers", 0)
    if windowed or "sliding_attention" in windows:
        raise ModelError(f"{file}: sliding-window attention is not supported. Set use_sliding_window to false, as published")


def normalise(picture: np.ndarray, *, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """[H, W, 3] uint8 -> [3, H, W] float32, scaled to 0..1 and then to the model's mean and deviation."""
    # The published processors scale in double precision; single differs in the last bit.
    values = (picture.transpose(2, 0, 1).astype(np.float64) * (1 / 255)).astype(np.float32)
    return (values - np.array(mean, np.float32)[:, None, None]) / np.array(std, np.float32)[:, None, None]


_TEXT = r"model\.language_model\.layers\.\d+\."
# What Qwen2-VL and Qwen2.5-VL name alike: their text models, and how the hub's names differ from canonical ones.
TEXT_SITES = {"attention": _TEXT + r"self_attn\.[qkvo]_proj", "mlp": _TEXT + r"mlp\.(gate|up|down)_proj"}
LAYER = r"model\.language_model\.layers\.(\d+)\..*"
RENAMES = ((r"^visual\.", "model.visual."), (r"^model\.(?=(layers|embed_tokens|norm)\.)", "model.language_model."))

QWEN2_5_VL = Family(
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    description="Qwen2.5-VL: any picture shape, 28 x 28 pixels a token",
    known_models=(
        KnownModel("Qwen/Qwen2.5-VL-3B-Instruct", 3.75, "Qwen Research", 630),
        KnownModel("Qwen/Qwen2.5-VL-7B-Instruct", 8.29, "Apache-2.0", 630),
    ),
    processor=Qwen2_5_VLProcessor,
    sites={
        **TEXT_SITES,
        "projector": r"model\.visual\.merger\.mlp\.[02]",
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)",
    },
    layer=LAYER,
    renames=RENAMES,
)
