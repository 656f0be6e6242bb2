"""Idefics3 (SmolVLM), small and random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlxtune.families import Processor
from mlxtune.images import ImageRef
from mlxtune.types import Pixels
from tests.helpers.families.base import SMALL_TEXT, Fixture, save, write_json
from tests.helpers.tokens import SPECIAL_IDS, write_tokenizer


class Kind(NamedTuple):
    """What is particular to Idefics3, and to SmolVLM, which is built like it."""

    model_type: str
    vision_type: str  # `model_type` of the published vision_config
    name: str  # what transformers' classes are called by


IDEFICS3 = Kind("idefics3", "idefics3", "Idefics3")


def build(folder: Path, *, seed: int, tied: bool, nested: bool, assets: Path | None, kind: Kind = IDEFICS3) -> None:
    import transformers

    if assets is None:
        write_files(folder, kind=kind)
        published = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    else:
        published = json.loads((assets / "config.json").read_text(encoding="utf-8"))
    vocabulary, factor, tiles = published["vocab_size"], published["scale_factor"], published["vision_config"]
    ids = {"image_token_id": published["image_token_id"], "pad_token_id": published["text_config"]["pad_token_id"]}
    text = {**SMALL_TEXT, "model_type": "llama", "num_hidden_layers": 3, "vocab_size": vocabulary, "head_dim": 16}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 20_000.0}, "tie_word_embeddings": tied}
    text |= {"pad_token_id": ids["pad_token_id"]}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision |= {"image_size": tiles["image_size"], "patch_size": tiles["patch_size"]}
    config_type, model_type = (getattr(transformers, kind.name + what) for what in ("Config", "ForConditionalGeneration"))
    config = config_type(text_config=text, vision_config=vision, scale_factor=factor, tie_word_embeddings=tied, **ids)
    save(model_type(config), folder, seed=seed)
    if not nested:
        text = {key: value for key, value in text.items() if key != "rope_parameters"} | {"rope_theta": 20_000.0}
        flat = {"architectures": [model_type.__name__], "model_type": kind.model_type, "scale_factor": factor}
        flat |= {"torch_dtype": "float32", "tie_word_embeddings": tied, "vocab_size": vocabulary, "use_cache": True, **ids}
        flat |= {"text_config": text, "vision_config": {"model_type": kind.vision_type, **vision}}
        write_json(folder / "config.json", flat)


def write_files(folder: Path, *, kind: Kind = IDEFICS3) -> None:
    """Tokenizer, template, picture settings and the configuration's outline; needs no framework."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder)
    tile, patch, factor = 56, 14, 2
    ids = {key: tokenizer.token_to_id(token) for key, token in SPECIAL_IDS.items()}
    write_json(folder / "generation_config.json", {key: ids[key] for key in ids if key != "image_token_id"})
    write_json(folder / "preprocessor_config.json", _tile_settings(tile, longest=2 * tile, kind=kind))
    write_json(folder / "processor_config.json", {"image_seq_len": (tile // patch // factor) ** 2})
    outline = {"model_type": kind.model_type, "scale_factor": factor, "vision_config": {"image_size": tile, "patch_size": patch}}
    outline |= {"text_config": {"pad_token_id": ids["pad_token_id"]}, "image_token_id": ids["image_token_id"]}
    write_json(folder / "config.json", {**outline, "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64})


def _tile_settings(tile: int, *, longest: int, kind: Kind) -> dict[str, Any]:
    flags = ("do_convert_rgb", "do_image_splitting", "do_normalize", "do_pad", "do_rescale", "do_resize")
    settings: dict[str, Any] = {flag: True for flag in flags}
    settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 1, "rescale_factor": 1 / 255}
    settings |= {"max_image_size": {"longest_edge": tile}, "size": {"longest_edge": longest}}
    return settings | {"image_processor_type": f"{kind.name}ImageProcessor", "processor_class": f"{kind.name}Processor"}


def image_processor(processor: Processor) -> Any:
    """transformers' PIL image processor of the folder's own family, with the folder's settings."""
    import transformers

    skipped = ("image_processor_type", "processor_class")
    theirs = getattr(transformers, f"{processor.settings['image_processor_type']}Pil")
    return theirs(**{key: value for key, value in processor.settings.items() if key not in skipped})


def reference_pixels(processor: Processor, image: ImageRef) -> tuple[np.ndarray, tuple[int, ...]]:
    theirs = image_processor(processor)(images=[[image.load()]], return_tensors="np", return_row_col_info=True)
    # Tiles that another picture of a batch has more of would be padding; a lone picture has none.
    assert theirs["pixel_attention_mask"].all()
    return theirs["pixel_values"][0], (theirs["rows"][0][0], theirs["cols"][0][0])


def forward_pictures(processor: Processor, ids: np.ndarray, pixels: list[list[Pixels]]) -> dict[str, Any]:
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


_ENDS = {f"SmolVLM-{name}Instruct": "<end_of_utterance>" for name in ("256M-", "500M-", "")}
_ENDS |= {"SmolVLM-Base": "<|endoftext|>", "granite-docling-258M": "<|end_of_text|>"}
FIXTURE = Fixture(
    build=build,
    write_files=write_files,
    assets=tuple(_ENDS),
    ends=_ENDS,
    reference_pixels=reference_pixels,
    forward_pictures=forward_pictures,
)
