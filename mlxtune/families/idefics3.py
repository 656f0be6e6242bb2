"""Idefics3 as SmolVLM publishes it: a picture is cut into square tiles, and a small copy of the whole follows them."""

from __future__ import annotations

import json
import math

import numpy as np
from PIL import Image

from mlxtune.errors import RecipeError
from mlxtune.families.base import Family, KnownModel, Processor
from mlxtune.families.config import ModelConfig, check_swiglu, read_json
from mlxtune.families.qwen2_5_vl import normalise
from mlxtune.images import ImageRef

_LARGEST_SIDE = 4096  # pixels; MAX_IMAGE_SIZE of the published processor
# What SmolVLM's chat models were taught, for those that were taught none and may publish none (SmolVLM-Base).
_TEMPLATE = """\
<|im_start|>{% for message in messages -%}
{% set parts = [{'type': 'text', 'text': message.content}] if message.content is string else message.content -%}
{{ message.role | capitalize }}:{{ '' if parts[0].type == 'image' else ' ' }}
{%- for part in parts %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{{ END }}
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""


def patch_places(count: int, side: int) -> np.ndarray:
    """[count * count] int32: which of side x side learned positions each patch of a square tile takes.

    Source: Idefics3VisionEmbeddings of transformers, in its own single precision: fractions of the side are sorted into buckets.
    """
    fractions = np.minimum(np.arange(count, dtype=np.float32) * np.float32(1.0 / count), np.float32(1.0 - 1e-6))
    # Rounded last: numpy's float32 arange adds up a rounded step, and some of SmolVLM-Base's 27 places would be off by one.
    boundaries = np.arange(1 / side, 1.0, 1 / side).astype(np.float32)
    buckets = np.searchsorted(boundaries, fractions, side="right")
    return (buckets[:, None] * side + buckets[None, :]).reshape(-1).astype(np.int32)


class Idefics3Processor(Processor):
    image_token = "<image>"

    def __init__(self, config: ModelConfig, family: Family, *, min_pixels: int | None, max_pixels: int | None) -> None:
        check_swiglu(config)
        super().__init__(config, family, min_pixels=min_pixels, max_pixels=max_pixels)
        if min_pixels is not None:
            raise RecipeError(
                f"model.min_pixels: {min_pixels} has no meaning for {family.name}, which enlarges every picture to "
                f"{self._longest_edge()} pixels on its longer side anyway. Set it to null"
            )

    @property
    def _tile(self) -> int:
        return int(self.settings["max_image_size"]["longest_edge"])

    def _longest_edge(self) -> int:
        """Longest side after resizing; `max_pixels` lowers it to whole tiles, never below one."""
        published = int(self.settings["size"]["longest_edge"])
        if self.max_pixels is None:
            return published
        return min(published, max(1, math.isqrt(self.max_pixels) // self._tile) * self._tile)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) with the longest side at its limit, the other one even. Source: Idefics3ImageProcessor."""
        width, height = size
        longest = self._longest_edge()
        if width >= height:
            short = int(longest / (width / height))
            width, height = longest, max(short + short % 2, 1)
        else:
            short = int(longest * (width / height))
            width, height = max(short + short % 2, 1), longest
        shrink = max(width, height) / _LARGEST_SIDE
        return (width, height) if shrink <= 1 else (max(int(width / shrink), 1), max(int(height / shrink), 1))

    def grid(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(rows, columns) of tiles; (0, 0) where the whole picture is one tile."""
        width, height = self._resized(size)
        if not self.settings.get("do_image_splitting", True):
            return 0, 0
        tile, aspect = self._tile, width / height
        # The published code rounds the long side up to whole tiles first and derives the short side from it.
        if width >= height:
            columns = math.ceil(width / tile)
            rows = math.ceil(int(columns * tile / aspect) / tile)
        else:
            rows = math.ceil(height / tile)
            columns = math.ceil(int(rows * tile * aspect) / tile)
        return (rows, columns) if rows > 1 or columns > 1 else (0, 0)

    @property
    def _tokens_per_tile(self) -> int:
        declared = read_json(self.config.folder / "processor_config.json", optional=True).get("image_seq_len")
        side = self.config.vision["image_size"] // self.config.vision["patch_size"]
        return int(declared or side**2 // self.config.top["scale_factor"] ** 2)

    def image_tokens(self, grid: tuple[int, ...]) -> int:
        return (grid[0] * grid[1] + 1) * self._tokens_per_tile

    def image_text(self, grid: tuple[int, ...]) -> str:
        """Source: `_prompt_split_image` and `_prompt_single_image` of transformers' Idefics3Processor."""
        rows, columns = grid
        fake, tile = "<fake_token_around_image>", self.image_token * self._tokens_per_tile
        lines = ["".join(f"{fake}<row_{r + 1}_col_{c + 1}>{tile}" for c in range(columns)) + "\n" for r in range(rows)]
        return "".join(lines) + ("\n" if rows else "") + f"{fake}<global-img>{tile}{fake}"

    def default_template(self) -> str:
        """Answers end as the model's texts did: with what generation_config.json says, else with the tokenizer's end token."""
        published = read_json(self.config.folder / "generation_config.json", optional=True).get("eos_token_id")
        known = isinstance(published, int)
        end = self.tokenizer.convert_ids_to_tokens(published) if known else self.tokenizer.eos_token
        return f"{{%- set END = {json.dumps(end)} -%}}\n{_TEMPLATE}"

    def pixel_values(self, image: ImageRef) -> np.ndarray:
        """[tiles, 3, tile, tile]: row by row, the small copy of the whole last."""
        rows, columns = self.grid(image.size)
        tile, resample = self._tile, Image.Resampling(int(self.settings.get("resample", Image.Resampling.LANCZOS)))
        # Resampling twice is what the published processor does, so the pixels must go through both steps.
        picture = image.load().resize(self._resized(image.size), resample)
        picture = picture.resize((max(columns, 1) * tile, max(rows, 1) * tile), resample)
        boxes = [(c * tile, r * tile, (c + 1) * tile, (r + 1) * tile) for r in range(rows) for c in range(columns)]
        tiles = [picture.crop(box) for box in boxes] + [picture.resize((tile, tile), resample) if boxes else picture]
        mean, std = self.settings["image_mean"], self.settings["image_std"]
        return np.stack([normalise(np.asarray(t), mean=mean, std=std) for t in tiles])


_TEXT = r"model\.text_model\.layers\.\d+\."
IDEFICS3 = Family(
    name="idefics3",
    model_types=("idefics3",),
    description="SmolVLM and Idefics3: square tiles and a small copy of the whole, 64 or 81 tokens a tile",
    known_models=(
        KnownModel("HuggingFaceTB/SmolVLM-256M-Instruct", 0.26, "Apache-2.0", 832),
        KnownModel("HuggingFaceTB/SmolVLM-500M-Instruct", 0.51, "Apache-2.0", 832),
        KnownModel("HuggingFaceTB/SmolVLM-Base", 2.25, "Apache-2.0", 1053),
        KnownModel("HuggingFaceTB/SmolVLM-Instruct", 2.25, "Apache-2.0", 1053),
    ),
    processor=Idefics3Processor,
    sites={
        "attention": _TEXT + r"self_attn\.[qkvo]_proj",
        "mlp": _TEXT + r"mlp\.(gate|up|down)_proj",
        "projector": r"model\.connector\.modality_projection\.proj",
        "vision": r"model\.vision_model\.encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.fc[12])",
    },
    layer=r"model\.text_model\.layers\.(\d+)\..*",
    renames=(),
)
