"""LLaVA: one square of fixed size per picture through CLIP, a two-layer projector, and a Llama text model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mlxtune.errors import DataError, ModelError, RecipeError
from mlxtune.families.base import Family, KnownModel, Processor
from mlxtune.families.config import ModelConfig, check_swiglu, read_json
from mlxtune.families.defaults import CLIP_VISION, LLAMA, with_defaults
from mlxtune.families.qwen2_5_vl import normalise
from mlxtune.images import ImageRef

_MAX_ASPECT = 200
_END = "\ue000end of answer\ue000"  # where the end token goes; nobody's text holds private-use characters like these
_PROBE = "probe"


def filled(config: ModelConfig) -> ModelConfig:
    """The configuration with the sizes that published files leave out. Source: LlavaConfig of transformers."""
    return with_defaults(config, text=LLAMA, vision=CLIP_VISION)


def feature_levels(said: int | Sequence[int], *, layers: int) -> tuple[int, ...]:
    """How many of the tower's `layers` the features have gone through, for each level that is taken.

    said: `vision_feature_layer`; it counts hidden states, and the first of those stands before the first layer.
    """
    return tuple(level + layers + 1 if level < 0 else level for level in ([said] if isinstance(said, int) else said))


def taken(config: ModelConfig) -> tuple[tuple[int, ...], bool]:
    """The `feature_levels` of a folder's model; whether its features keep the tower's first token, the whole picture's.

    Errors: ModelError where config.json names what no tower has.
    """
    said, strategy = config.top.get("vision_feature_layer", -2), config.top.get("vision_feature_select_strategy", "default")
    layers = int(filled(config).vision["num_hidden_layers"])
    levels = feature_levels(said, layers=layers)
    if not levels or not all(0 <= level <= layers for level in levels):
        raise ModelError(
            f"{config.folder}/config.json: vision_feature_layer {said} is no layer of a tower of {layers}. Download it again"
        )
    if strategy not in ("default", "full"):
        raise ModelError(
            f"{config.folder}/config.json: vision_feature_select_strategy '{strategy}' is neither default nor full. "
            "Download it again"
        )
    return levels, strategy == "full"


class _Form(NamedTuple):
    """strings: the template takes the content of a turn as one text. ends: it puts something behind an answer."""

    strings: bool
    ends: bool


class LlavaProcessor(Processor):
    image_token = "<image>"

    def __init__(self, config: ModelConfig, family: Family, *, min_pixels: int | None, max_pixels: int | None) -> None:
        check_swiglu(config)
        super().__init__(config, family, min_pixels=min_pixels, max_pixels=max_pixels)
        self._check_parts()
        self._check_settings()
        self._check_limits()

    # -- pictures -------------------------------------------------------------------------------------------------

    @cached_property
    def _side(self) -> int:
        """Pixels; the tower takes squares of this side alone."""
        return int(filled(self.config).vision["image_size"])

    def grid(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(rows, columns) of patches, the same for every picture."""
        width, height = size
        if max(width, height) / min(width, height) > _MAX_ASPECT:
            raise DataError(
                f"a picture of {width} x {height} pixels is too narrow: the sides may differ {_MAX_ASPECT}-fold at most. Crop it"
            )
        count = self._side // int(filled(self.config).vision["patch_size"])
        return count, count

    def image_tokens(self, grid: tuple[int, ...]) -> int:
        # Told from the model's own configuration: LLaVA-Saiga's processor names no patch size.
        return grid[0] * grid[1] + taken(self.config)[1]

    def image_text(self, grid: tuple[int, ...]) -> str:
        return self.image_token * self.image_tokens(grid)

    def pixel_values(self, image: ImageRef) -> np.ndarray:
        """[1, 3, side, side]: the shorter side resized to it, the middle of the longer one kept. Source: CLIPImageProcessor."""
        self.grid(image.size)
        resample = Image.Resampling(int(self.settings.get("resample", Image.Resampling.BICUBIC)))
        picture = self._padded(image.load())
        picture = picture.resize(self._resized(picture.size), resample)
        left, top = (picture.width - self._side) // 2, (picture.height - self._side) // 2
        picture = picture.crop((left, top, left + self._side, top + self._side))
        return normalise(np.asarray(picture), mean=self.settings["image_mean"], std=self.settings["image_std"])[None]

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        wanted = self.settings["size"]
        if isinstance(wanted, Mapping) and "shortest_edge" not in wanted:
            return int(wanted["width"]), int(wanted["height"])
        short = int(wanted["shortest_edge"] if isinstance(wanted, Mapping) else wanted)
        width, height = size
        return (short, int(short * height / width)) if width <= height else (int(short * width / height), short)

    def _padded(self, picture: Image.Image) -> Image.Image:
        """A square around the picture in the mean color, where the settings say so. Source: LlavaImageProcessor."""
        kind = str(self.settings.get("image_processor_type"))
        if not (kind.startswith("LlavaImageProcessor") and self.settings.get("do_pad")) or picture.width == picture.height:
            return picture
        side = max(picture.size)
        square = Image.new("RGB", (side, side), tuple(int(mean * 255) for mean in self.settings["image_mean"]))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square

    # -- text -----------------------------------------------------------------------------------------------------

    @cached_property
    def chat_template(self) -> str:
        folder = self.config.folder
        # transformers 4.42 kept it there; LLaVA-Saiga's file has the key with null.
        kept = read_json(folder / "processor_config.json", optional=True).get("chat_template")
        own = any((folder / f"chat_template.{kind}").exists() for kind in ("jinja", "json"))
        return kept if kept and not own else super().chat_template

    @cached_property
    def image_token_id(self) -> int:
        found = self.tokenizer.convert_tokens_to_ids(self.image_token)
        if found is None or self.tokenizer.convert_ids_to_tokens(found) != self.image_token:
            raise ModelError(
                f"{self.config.folder}: the tokenizer has no token '{self.image_token}', so pictures have no place in a prompt. "
                "Download the model again"
            )
        return int(found)

    @cached_property
    def _form(self) -> _Form:
        asked = {"role": "user", "content": [{"type": "text", "text": _PROBE}]}
        try:
            # A template for strings shows the list as Python writes it, or cannot add it to a text.
            strings = "'text'" in super()._render([asked], prompt=True)
        except TypeError:
            strings = True
        turns = [{"role": role, "content": _PROBE if strings else asked["content"]} for role in ("user", "assistant")]
        _, found, rest = super()._render(turns, prompt=False).rpartition(_PROBE)
        return _Form(strings=strings, ends=bool(rest.strip()) or not found)

    def _render(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
        """LLaVA-1.5's template ends no answer, though the model was trained with its end token there: it is put in."""
        strings, ends = self._form
        turns = []
        for turn in messages:
            parts = _parts(turn["content"], end=_END if turn["role"] == "assistant" and not ends else "")
            turns.append({**turn, "content": _as_text(parts, image=self.image_token) if strings else parts})
        text = super()._render(turns, prompt=prompt)
        # As trained, nothing stands between the end token and the next turn; the template writes a space.
        return text.replace(f"{_END} ", _END).replace(_END, self.tokenizer.eos_token)

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """With the token that begins a row, once: from the template (Llama 3) or else from us (LLaVA-1.5)."""
        pieces = self._continued(texts) if self._spaced else super()._pieces(texts)
        bos = self.tokenizer.bos_token_id
        adds = self.tokenizer("a")["input_ids"][:1] == [bos]
        return [[bos, *pieces[0]], *pieces[1:]] if adds and pieces[0][:1] != [bos] else pieces

    @cached_property
    def _spaced(self) -> bool:
        """Whether the tokenizer puts a space before whatever it is given, as SentencePiece does."""
        return self.tokenizer.convert_ids_to_tokens(self._tokenize("a"))[0].startswith("▁")

    def _continued(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text as it is tokenized behind those before it: alone, it would begin with a space too many."""
        pieces: list[list[int]] = []
        said, known = "", []
        for text in texts:
            said += text
            whole = self._tokenize(said)
            # What was read before stays as it is, so that training sees the ids that generation starts from.
            piece = whole[len(known) :] if whole[: len(known)] == known else self._tokenize(text)
            pieces.append(piece)
            known = known + piece
        return pieces

    # -- refusals -------------------------------------------------------------------------------------------------

    def _check_parts(self) -> None:
        parts = {"text_config": (self.config.text, "llama"), "vision_config": (self.config.vision, "clip_vision_model")}
        for name, (part, known) in parts.items():
            kind = part.get("model_type", known)
            # A configuration without text_config has LLaVA's own model type there.
            if kind not in (known, "llava"):
                raise ModelError(
                    f"{self.config.folder}/config.json: {name} is a '{kind}', but llava models are read with a '{known}' there. "
                    "Choose another model (`mlxtune list models`)"
                )
        taken(self.config)

    def _check_settings(self) -> None:
        path, settings, side = self.config.folder / "preprocessor_config.json", self.settings, self._side
        off = [key for key in ("do_resize", "do_rescale", "do_normalize") if settings.get(key, True) is False]
        lacking = [key for key in ("size", "image_mean", "image_std") if not settings.get(key)]
        if off or lacking:
            what = f"{off[0]} is off" if off else f"no '{lacking[0]}'"
            raise ModelError(f"{path}: {what}, so pictures cannot be made as the model expects them. Download the file again")
        given = settings.get("crop_size") if settings.get("do_center_crop", True) and settings.get("crop_size") else None
        crop = _sides(given) if given else self._resized((side, side))
        if crop != (side, side) or min(self._resized((side, side))) < side:
            raise ModelError(
                f"{path}: gives pictures of {crop[0]} x {crop[1]} pixels, but the vision tower in config.json takes "
                f"{side} x {side}. Download both files again"
            )

    def _check_limits(self) -> None:
        area = self._side**2
        for key, value, kept in (("min", self.min_pixels, min), ("max", self.max_pixels, max)):
            if value is not None and kept(value, area) != value:
                raise RecipeError(
                    f"model.{key}_pixels: {value} cannot be kept, since every picture of a llava model becomes "
                    f"{self._side} x {self._side} = {area} pixels. Set it to null"
                )


def _sides(size: Any) -> tuple[int, int]:
    return (int(size["width"]), int(size["height"])) if isinstance(size, Mapping) else (int(size), int(size))


def _parts(content: Any, *, end: str) -> list[Mapping[str, Any]]:
    """A turn's content as parts, `end` behind the last text."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    last = max((place for place, part in enumerate(parts) if part["type"] == "text"), default=None)
    if last is not None and end:
        parts[last] = {**parts[last], "text": parts[last]["text"] + end}
    return parts


def _as_text(parts: Sequence[Mapping[str, Any]], *, image: str) -> str:
    """The parts in their order, pictures on lines of their own, as LLaVA was trained ("<image>\\nWhat is it?")."""
    texts = [part["text"] if part["type"] == "text" else image for part in parts]
    gaps = ["\n" if "image" in (one["type"], other["type"]) else "" for one, other in pairwise(parts)]
    return "".join(text + gap for text, gap in zip(texts, [*gaps, ""], strict=True))


def _sites(config: ModelConfig | None) -> dict[str, str]:
    """Layers behind the one that features are taken from never run, so an adapter there could not learn."""
    text = r"model\.language_model\.layers\.\d+\."
    used = r"\d+" if config is None else "|".join(map(str, range(max(taken(config)[0]))))
    tower = rf"model\.vision_tower\.encoder\.layers\.({used})\."
    return {
        "attention": text + r"self_attn\.[qkvo]_proj",
        "mlp": text + r"mlp\.(gate|up|down)_proj",
        "projector": r"model\.multi_modal_projector\.linear_[12]",
        "vision": tower + r"(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.fc[12])",
    }


LLAVA = Family(
    name="llava",
    model_types=("llava",),
    description="LLaVA-1.5 and LLaVA-Saiga: the middle square of a picture at 336 x 336 pixels, always 576 tokens",
    known_models=(
        KnownModel("deepvk/llava-saiga-8b", 8.36, "Apache-2.0", 576),
        KnownModel("llava-hf/llava-1.5-7b-hf", 7.06, "Llama 2", 576),
        KnownModel("llava-hf/llava-1.5-13b-hf", 13.35, "Llama 2", 576),
    ),
    processor=LlavaProcessor,
    sites=_sites(None),
    sites_of=_sites,
    layer=r"model\.language_model\.layers\.(\d+)\..*",
    renames=(
        (r"^language_model\.lm_head(?=\.|$)", "lm_head"),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^(model\.)?vision_tower\.(vision_model\.)?", "model.vision_tower."),
        (r"^multi_modal_projector\.", "model.multi_modal_projector."),
    ),
)
