"""Random models in the published layout: about 50 million parameters for the CPU, the true sizes for a graphics card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.texts import VOCABULARY, write_json, write_tokenizer

FAMILIES = ("qwen2_5_vl", "smolvlm")
SIZES = ("50m", "tiny", "true")
PICTURE = {"qwen2_5_vl": 448, "smolvlm": 512}  # side in pixels, of which no side's processor changes anything

_TEXT: dict[str, dict[str, Any]] = {
    "50m": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
    "tiny": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
}
_MORE_TEXT = {"num_key_value_heads": 2, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6}
_MORE_TEXT |= {"vocab_size": VOCABULARY, "tie_word_embeddings": True}
# SmolVLM's output head is its own, so that as many parameters make a narrower model.
_SMOLVLM_TEXT: dict[str, dict[str, Any]] = {
    "50m": _TEXT["50m"] | {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 6},
    "tiny": _TEXT["tiny"],
}
_TRUE_TEXT: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
    | {"num_key_value_heads": 2, "vocab_size": 151_936, "max_position_embeddings": 128_000, "tie_word_embeddings": True},
    "smolvlm": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32}
    | {"num_key_value_heads": 32, "vocab_size": 49_280, "max_position_embeddings": 16_384},
}
_QWEN_VISION: dict[str, dict[str, Any]] = {
    "50m": {"depth": 8, "hidden_size": 320, "intermediate_size": 864, "num_heads": 8, "fullatt_block_indexes": [3, 7]},
    "tiny": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "fullatt_block_indexes": [1]},
    "true": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    | {"fullatt_block_indexes": [7, 15, 23, 31]},
}
_SIGLIP: dict[str, dict[str, Any]] = {
    "50m": {"hidden_size": 320, "intermediate_size": 1280, "num_hidden_layers": 8, "num_attention_heads": 8},
    "tiny": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
    "true": {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16},
}
# Tile side, patch side, side of the merged squares, longest side after resizing: 5 tiles of 64 tokens; of 81 for the true size.
_TILES = {"50m": (256, 16, 2, 512), "tiny": (256, 16, 2, 512), "true": (384, 14, 3, 1152)}


def build(folder: Path, *, family: str, size: str, dtype: str = "float32") -> Path:
    """The model's folder; made where it is not there yet, from one seed."""
    import torch

    if (folder / "made").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ids = write_tokenizer(folder, family)
    torch.manual_seed(0)
    # Made in its own type: a true size would not fit twice.
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        config, model = (_qwen if family == "qwen2_5_vl" else _smolvlm)(folder, ids, size)
        _draw(model)
    finally:
        torch.set_default_dtype(torch.float32)
    kept = (folder / "generation_config.json").read_text(encoding="utf-8")
    model.save_pretrained(folder)  # under the hub's names
    (folder / "generation_config.json").write_text(kept, encoding="utf-8")
    write_json(folder / "config.json", config | {"torch_dtype": dtype})
    write_json(folder / "made", {"parameters": sum(p.numel() for p in model.parameters())})
    return folder


def parameters(folder: Path) -> int:
    return json.loads((folder / "made").read_text(encoding="utf-8"))["parameters"]


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _draw(model: Any) -> None:
    """Large enough for logits that differ: with the published spread every loss is ln(vocabulary), whatever the masks."""
    for name, parameter in model.named_parameters():
        if "norm" in name or "ln_q" in name:
            parameter.data.uniform_(0.7, 1.3)
        elif parameter.ndim > 1 and "embed_tokens" not in name and "position_embedding" not in name:
            parameter.data.normal_(0.0, (1.2 / parameter[0].numel()) ** 0.5)
        else:
            parameter.data.normal_(0.0, 0.1)


def _qwen(folder: Path, ids: Mapping[str, int], size: str) -> tuple[dict[str, Any], Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = _TRUE_TEXT["qwen2_5_vl"] | {"rms_norm_eps": 1e-6} if size == "true" else _TEXT[size] | _MORE_TEXT
    text = {**text, "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    sections = [half // 4, half * 3 // 8, half * 3 // 8]
    vision = {**_QWEN_VISION[size], "out_hidden_size": text["hidden_size"], "patch_size": 14, "spatial_merge_size": 2}
    vision |= {"temporal_patch_size": 2, "window_size": 112, "in_chans": 3, "tokens_per_second": 2}
    tokens = {"image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"]}
    tokens |= {"vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"]}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    theirs = Qwen2_5_VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **tokens, **_tied(text))
    flat = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "hidden_act": "silu"}
    flat |= {**text, **tokens, "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": sections}}
    flat |= {"use_sliding_window": False, "max_window_layers": text["num_hidden_layers"], "sliding_window": 8192}
    flat |= {
        "use_cache": True,
        "vision_config": {"model_type": "qwen2_5_vl", "hidden_act": "silu", "spatial_patch_size": 14, **vision},
    }
    pixels = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor", "patch_size": 14}
    pixels |= {"min_pixels": 56 * 56, "max_pixels": 1024 * 28 * 28, "temporal_patch_size": 2, "merge_size": 2}
    pixels |= {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    write_json(folder / "preprocessor_config.json", pixels)
    return flat, Qwen2_5_VLForConditionalGeneration(theirs)


def _smolvlm(folder: Path, ids: Mapping[str, int], size: str) -> tuple[dict[str, Any], Any]:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    tile, patch, factor, longest = _TILES[size]
    text = _TRUE_TEXT["smolvlm"] | {"rms_norm_eps": 1e-5} if size == "true" else _SMOLVLM_TEXT[size] | _MORE_TEXT
    text = {**text, "tie_word_embeddings": False}
    tokens = {"pad_token_id": ids["<|endoftext|>"], "bos_token_id": ids["<|im_start|>"]}
    tokens |= {"eos_token_id": ids["<end_of_utterance>"]}
    text = {**text, **tokens, "model_type": "llama", "head_dim": text["hidden_size"] // text["num_attention_heads"]}
    vision = {**_SIGLIP[size], "image_size": tile, "patch_size": patch}
    top = {"image_token_id": ids["<image>"], "pad_token_id": ids["<|endoftext|>"], "scale_factor": factor, **_tied(text)}
    rope = {"rope_type": "default", "rope_theta": 130_000.0}
    theirs = Idefics3Config(text_config=text | {"rope_parameters": rope}, vision_config=vision, **top)
    flat = {"architectures": ["Idefics3ForConditionalGeneration"], "model_type": "idefics3", "use_cache": True, **top}
    flat |= {"text_config": text | {"rope_theta": 130_000.0}, "vocab_size": text["vocab_size"]}
    flat |= {"vision_config": {"model_type": "idefics3", **vision}}
    pixels: dict[str, Any] = {f"do_{what}": True for what in ("convert_rgb", "image_splitting", "normalize", "pad", "rescale")}
    pixels |= {"do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 1, "rescale_factor": 1 / 255}
    pixels |= {"max_image_size": {"longest_edge": tile}, "size": {"longest_edge": longest}}
    pixels |= {"image_processor_type": "Idefics3ImageProcessor", "processor_class": "Idefics3Processor"}
    write_json(folder / "preprocessor_config.json", pixels)
    write_json(folder / "processor_config.json", {"image_seq_len": (tile // patch // factor) ** 2})
    return flat, Idefics3ForConditionalGeneration(theirs)


def _tied(text: Mapping[str, Any]) -> dict[str, Any]:
    return {"tie_word_embeddings": text["tie_word_embeddings"]}
