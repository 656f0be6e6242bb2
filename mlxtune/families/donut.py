"""Donut and UniChart: a Swin encoder reads the picture, an mBART decoder looks at its features through cross-attention.

Pictures fill no rows of the decoder: a row is the task's prompt and its answer alone. Pictures keep their shape and are padded
to the one size that the encoder reads.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mlxtune.errors import DataError, ModelError
from mlxtune.families.base import Family, KnownModel, Processor
from mlxtune.families.config import ModelConfig
from mlxtune.families.qwen2_5_vl import normalise
from mlxtune.images import ImageRef
from mlxtune.types import Encoded, Example

_NARROWEST = 200  # longest side over shortest; resizing to the shorter side first makes more of them too large to hold

# Sizes that configurations may leave out because they are those of transformers' DonutSwinConfig and MBartConfig.
_ENCODER: Mapping[str, Any] = {
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
}
_DECODER: Mapping[str, Any] = {
    "vocab_size": 50_265,
    "d_model": 1024,
    "decoder_layers": 12,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "max_position_embeddings": 1024,
    "activation_function": "gelu",
    "scale_embedding": False,
    "tie_word_embeddings": True,
    "cross_attention_hidden_size": None,
}


# -- configuration ----------------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """`config.json`'s two parts with every size that the modules need."""

    encoder: Mapping[str, Any]
    decoder: Mapping[str, Any]

    @property
    def encoder_width(self) -> int:
        return int(self.encoder["embed_dim"] * 2 ** (len(self.encoder["depths"]) - 1))

    @property
    def projected(self) -> bool:
        """Whether a layer stands between the two (`enc_to_dec_proj`), as transformers decides it."""
        return self.encoder_width != self.decoder["d_model"] and self.decoder["cross_attention_hidden_size"] is None


def parts_of(config: ModelConfig) -> Parts:
    """Errors: ModelError where encoder or decoder are of another kind than Donut's."""
    found = []
    for name, kind, defaults in (("encoder", "donut-swin", _ENCODER), ("decoder", "mbart", _DECODER)):
        own = config.top.get(name)
        own = own if isinstance(own, dict) else {}
        if own.get("model_type") != kind:
            raise ModelError(
                f"{config.folder}/config.json: the {name} is '{own.get('model_type')}', but of vision-encoder-decoder models "
                f"mlxtune knows Donut's alone, whose {name} is '{kind}'. Choose another model (`mlxtune list models`)"
            )
        found.append({**defaults, **{key: value for key, value in own.items() if value is not None}})
    if found[0]["use_absolute_embeddings"]:
        raise ModelError(f"{config.folder}/config.json: encoder.use_absolute_embeddings is true, which no published Donut has")
    return Parts(*found)


# -- the Swin encoder's windows ---------------------------------------------------------------------------------------


def stage_sizes(encoder: Mapping[str, Any], size: tuple[int, int]) -> list[tuple[int, int]]:
    """(rows, columns) of tokens in each stage for pictures of (height, width) pixels; each stage halves, rounding up."""
    sizes = [(math.ceil(size[0] / encoder["patch_size"]), math.ceil(size[1] / encoder["patch_size"]))]
    for _ in encoder["depths"][1:]:
        sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
    return sizes


def window_shift(size: tuple[int, int], window: int, *, block: int) -> int:
    """How far the windows of a stage's block are moved: half their side in every second block, unless one covers the stage."""
    return window // 2 if block % 2 and min(size) > window else 0


@lru_cache(maxsize=64)
def relative_places(window: int) -> np.ndarray:
    """[window^2, window^2] int32: the row of the bias table for each pair of a window's tokens. Source: arXiv 2103.14030."""
    places = np.stack(np.divmod(np.arange(window * window, dtype=np.int32), window), axis=-1)
    offsets = places[:, None] - places[None] + window - 1
    return offsets[..., 0] * (2 * window - 1) + offsets[..., 1]


@lru_cache(maxsize=64)
def apart(rows: int, columns: int, window: int, shift: int) -> np.ndarray:
    """[windows, window^2, window^2] bool: pairs of tokens that share a moved window but not a part of the picture.

    rows, columns: of the stage, padded to whole windows. Source: DonutSwinLayer.get_attn_mask of transformers.
    """

    def regions(length: int) -> np.ndarray:
        places = np.arange(length)
        return (places >= length - window).astype(np.int32) + (places >= length - shift)

    parts = regions(rows)[:, None] * 3 + regions(columns)[None]
    parts = parts.reshape(rows // window, window, columns // window, window).transpose(0, 2, 1, 3).reshape(-1, window * window)
    return parts[:, :, None] != parts[:, None]


# -- prompts ----------------------------------------------------------------------------------------------------------


class Wording(NamedTuple):
    """What stands around a question and its answer."""

    before: str
    after: str
    lead: str  # between the prompt and the answer
    end: str  # behind the answer


def wording_of(vocabulary: Mapping[str, int], *, start: str, end: str) -> Wording:
    """A checkpoint's added tokens tell what it was trained to read.

    UniChart: `<chartqa> {question} <s_answer> {answer}</s>` (its `finetune_chartqa.py`). Donut for DocVQA: the question between
    tokens of its own. Any other Donut: the start token, then the text, which is often empty.
    """
    if {"<chartqa>", "<s_answer>"} <= vocabulary.keys():
        return Wording("<chartqa> ", " <s_answer>", " ", end)
    if {"<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", "</s_answer>"} <= vocabulary.keys():
        return Wording("<s_docvqa><s_question>", "</s_question><s_answer>", "", f"</s_answer>{end}")
    return Wording(start, "", "", end)


# A text that begins with one of the task tokens is the whole prompt: `data.prompt: <summarize_chart> <s_answer>`.
_TEMPLATE = """\
{%- for message in messages -%}
{%- set parts = [{'type': 'text', 'text': message.content}] if message.content is string else message.content -%}
{%- set text = parts | selectattr('type', 'equalto', 'text') | map(attribute='text') | join -%}
{%- if message.role == 'assistant' -%}
{{- LEAD + text + END -}}
{%- else -%}
{%- set found = namespace(whole=false) -%}
{%- for token in TASKS if text.startswith(token) -%}{%- set found.whole = true -%}{%- endfor -%}
{%- for part in parts if part.type == 'image' -%}{{- IMAGE -}}{%- endfor -%}
{{- text if found.whole else BEFORE + text + AFTER -}}
{%- endif -%}
{%- endfor -%}
"""


class DonutProcessor(Processor):
    image_token = "<image>"  # stands for nothing in the vocabulary, and for nothing in the prompt
    image_token_id = -1
    several_turns = False
    crossed = True

    def __init__(self, config: ModelConfig, family: Family, *, min_pixels: int | None, max_pixels: int | None) -> None:
        super().__init__(config, family, min_pixels=min_pixels, max_pixels=max_pixels)
        self.parts = parts_of(config)
        self.most_tokens: int = int(self.parts.decoder["max_position_embeddings"])
        for flag in ("do_resize", "do_thumbnail", "do_pad"):
            if not self.settings.get(flag, True):
                raise ModelError(
                    f"{self._settings_path}: {flag} is false, but pictures must be brought to one size. Set it to true"
                )

    # -- pictures -------------------------------------------------------------------------------------------------

    @cached_property
    def frame(self) -> tuple[int, int]:
        """(height, width) that every picture is padded to: the published one, or nearest to `min_pixels` and `max_pixels`.

        The encoder has no positions but those within a window, so that it reads other sizes too, down to one window.
        """
        height, width = self._published_frame()
        area = height * width
        wanted = min(max(area, self.min_pixels or area), self.max_pixels or max(area, self.min_pixels or area))
        if wanted == area:
            return height, width
        step = self.parts.encoder["patch_size"] * 2 ** (len(self.parts.encoder["depths"]) - 1)
        least, scale = self.parts.encoder["window_size"] * step, math.sqrt(wanted / area)
        whole = math.floor if wanted < area else math.ceil
        # Rounded first: a side that is a whole number of steps may come out a hair above or below it.
        sides = (whole(round(side * scale / step, 6)) * step for side in (height, width))
        height, width = (max(side, least) for side in sides)
        return height, width

    def _published_frame(self) -> tuple[int, int]:
        size = self.settings.get("size")
        if isinstance(size, list) and len(size) == 2:  # older files have (width, height)
            return int(size[1]), int(size[0])
        if isinstance(size, dict) and {"height", "width"} <= size.keys():
            return int(size["height"]), int(size["width"])
        raise ModelError(f"{self._settings_path}: size is {size}, but must be [width, height]. Download the model again")

    def grid(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(height, width) in pixels of the padded picture; the same for all. Errors: DataError for a sliver."""
        height, width = self.frame
        inside = _within(_with_short_side(size, min(height, width)), (width, height))
        if max(size) > _NARROWEST * min(size) or min(inside) < 1:
            raise DataError(f"a picture of {size[0]} x {size[1]} pixels is too narrow for {width} x {height}. Remove it")
        return height, width

    def image_tokens(self, grid: tuple[int, ...]) -> int:
        height, width = grid
        rows, columns = stage_sizes(self.parts.encoder, (height, width))[-1]
        return rows * columns

    def image_text(self, grid: tuple[int, ...]) -> str:
        return ""

    def pixel_values(self, image: ImageRef) -> np.ndarray:
        """[1, 3, height, width]. Source: DonutImageProcessorPil of transformers, bit for bit."""
        height, width = self.grid(image.size)
        resample = Image.Resampling(int(self.settings.get("resample", Image.Resampling.BILINEAR)))
        picture = image.load()
        if self.settings.get("do_align_long_axis", False) and (width - height) * (picture.width - picture.height) < 0:
            picture = picture.transpose(Image.Transpose.ROTATE_270)
        # Resampling twice is what the published processor does, so the pixels must go through both steps.
        picture = picture.resize(_with_short_side(picture.size, min(height, width)), resample)
        inside = _within(picture.size, (width, height))
        if inside != picture.size:
            # There a resample of 0 counts as none given.
            picture = picture.resize(inside, resample or Image.Resampling.BICUBIC)
        canvas = np.zeros((height, width, 3), np.uint8)
        top, left = (height - picture.height) // 2, (width - picture.width) // 2
        canvas[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
        mean, std = (self.settings.get(key, [0.5] * 3) for key in ("image_mean", "image_std"))
        return normalise(canvas, mean=mean, std=std)[None]

    @property
    def _settings_path(self) -> str:
        return f"{self.config.folder}/preprocessor_config.json"

    # -- text -----------------------------------------------------------------------------------------------------

    @cached_property
    def wording(self) -> Wording:
        start = self.config.top.get("decoder_start_token_id")
        known = isinstance(start, int) and start != self.tokenizer.eos_token_id
        token = str(self.tokenizer.convert_ids_to_tokens(start)) if known else ""
        return wording_of(self.tokenizer.get_added_vocab(), start=token, end=str(self.tokenizer.eos_token))

    def default_template(self) -> str:
        """Donut's publish none."""
        special = {self.tokenizer.pad_token, self.tokenizer.eos_token, self.tokenizer.unk_token, self.tokenizer.mask_token}
        tasks = sorted(self.tokenizer.get_added_vocab().keys() - special)
        names = {"TASKS": tasks, "IMAGE": self.image_token}
        names |= {name.upper(): text for name, text in self.wording._asdict().items()}
        lines = (f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} -%}}\n" for name, value in names.items())
        return "".join(lines) + _TEMPLATE

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens of an answer's form (`<s_total>`) are part of it; only what ends it and what pads it is left out.

        `<unk>` stays too: no published tokenizer of this family knows a 1 inside a word, nor most Cyrillic letters.
        """
        dropped = self.stop_ids | {self.tokenizer.bos_token_id, self.tokenizer.pad_token_id}
        text = self.tokenizer.decode([i for i in ids if i not in dropped], skip_special_tokens=False)
        return text.removesuffix(self.wording.end.removesuffix(str(self.tokenizer.eos_token))).strip()

    def encode(self, example: Example, *, max_tokens: int | None, answer: bool) -> Encoded:
        row = super().encode(example, max_tokens=max_tokens, answer=answer)
        if len(row.input_ids) > self.most_tokens:
            raise DataError(
                f"{example.id}: {len(row.input_ids)} tokens, but this model has positions for {self.most_tokens}. "
                "Shorten the question or the answer, or remove the row"
            )
        return row

    def surely_fits(self, example: Example, *, max_tokens: int) -> bool:
        """A letter that normalisation writes out may become more tokens than it has bytes."""
        texts = [example.target, *(part.get("text", "") for turn in example.messages for part in _content(turn))]
        if not all(unicodedata.is_normalized("NFKC", text) for text in texts):
            return False
        return super().surely_fits(example, max_tokens=min(max_tokens, self.most_tokens))


def _content(turn: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = turn["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _with_short_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) with the shorter side at `side`. Source: `get_resize_output_image_size` of transformers."""
    width, height = size
    long = int(side * max(size) / min(size))
    return (side, long) if width <= height else (long, side)


def _within(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of `size` made to fit into `frame`. Source: `thumbnail` of transformers' DonutImageProcessorPil."""
    (width, height), (widest, highest) = size, frame
    fitting = min(width, widest), min(height, highest)
    if fitting == size or width == height:
        return fitting
    if height > width:
        return int(width * fitting[1] / height), fitting[1]
    return fitting[0], int(height * fitting[0] / width)


_TEXT = r"decoder\.model\.decoder\.layers\.\d+\."
_BLOCK = r"encoder\.encoder\.layers\.\d+\.blocks\.\d+\."
DONUT = Family(
    name="donut",
    model_types=("vision-encoder-decoder",),
    description="UniChart and Donut: one picture of fixed size, read through cross-attention; one question, one answer",
    known_models=(
        KnownModel("ahmed-masry/unichart-base-960", 0.2, "MIT (code)", 900),
        KnownModel("ahmed-masry/unichart-chartqa-960", 0.2, "MIT (code)", 900),
        KnownModel("naver-clova-ix/donut-base", 0.2, "MIT", 4800),
        KnownModel("naver-clova-ix/donut-base-finetuned-docvqa", 0.2, "MIT", 4800),
        KnownModel("naver-clova-ix/donut-base-finetuned-cord-v2", 0.2, "MIT", 1200),
    ),
    processor=DonutProcessor,
    sites={
        "attention": _TEXT + r"(self|encoder)_attn\.(q|k|v|out)_proj",
        "mlp": _TEXT + r"fc[12]",
        "projector": r"enc_to_dec_proj",
        "vision": rf"{_BLOCK}(attention\.(self\.(query|key|value)|output\.dense)|(intermediate|output)\.dense)"
        r"|encoder\.encoder\.layers\.\d+\.downsample\.reduction",
    },
    layer=r"decoder\.model\.decoder\.layers\.(\d+)\..*",
    renames=(),
    pictures=(1, 1),
    left_out=r".*\.relative_position_index",  # computed: `relative_places`
)
