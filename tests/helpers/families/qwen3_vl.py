"""Qwen3-VL, small and random.

No published files are at hand: tokenizer and vocabulary are the bundled model's, whose special tokens have Qwen's names; the
chat template, the picture settings and the configuration's layout are written down here after the published ones.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.helpers.families import qwen2_5_vl as qwen2_5
from tests.helpers.families.base import SMALL_TEXT, TEXT_FILES, TINY, copy, save, write_json

LEVELS = (0, 2, 3)  # of the tower's five blocks; the text model has a layer more than levels
# Qwen2's template without the default system prompt, and without the parts on tools and films.
TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for content in message.content %}
            {%- if content.type == 'image' or 'image' in content or 'image_url' in content %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif 'text' in content %}
                {{- content.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# The published limits; tests on whole models have smaller ones.
SETTINGS: dict[str, Any] = {
    "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
VISION: dict[str, Any] = {
    "deepstack_visual_indexes": list(LEVELS),
    "depth": 5,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "in_channels": 3,
    "intermediate_size": 48,
    "num_heads": 2,
    "num_position_embeddings": 36,
    "out_hidden_size": 64,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_SECTION = {"mrope_interleaved": True, "mrope_section": [6, 3, 3], "rope_type": "default"}


def write_files(folder: Path) -> None:
    copy(TINY, folder, *TEXT_FILES)
    _write_own(folder, published(TINY, tied=True))


def _write_own(folder: Path, config: dict[str, Any], *, size: dict[str, int] | None = None) -> None:
    """What differs from the folder whose tokenizer was taken."""
    write_json(folder / "chat_template.json", {"chat_template": TEMPLATE})
    write_json(folder / "preprocessor_config.json", {**SETTINGS, "size": size or SETTINGS["size"]})
    write_json(folder / "config.json", config)


def published(tokenizer: Path, *, tied: bool) -> dict[str, Any]:
    """config.json as the hub has it: nested already, the rotary settings under their old names."""
    older = json.loads((tokenizer / "config.json").read_text(encoding="utf-8"))
    text = {**SMALL_TEXT, "model_type": "qwen3_vl_text", "num_hidden_layers": 4, "vocab_size": older["vocab_size"]}
    text |= {"head_dim": 24, "attention_bias": False, "rope_theta": 20_000.0, "rope_scaling": _SECTION}
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        **{key: older[key] for key in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")},
        "text_config": {**text, "tie_word_embeddings": tied},
        "tie_word_embeddings": tied,
        "vision_config": {"model_type": "qwen3_vl", **VISION},
    }


# What the three published models have in common, and their two towers.
_TRUE_TEXT = {"head_dim": 128, "vocab_size": 151_936, "num_key_value_heads": 8}
_TRUE_VISION = {"num_position_embeddings": 2304, "num_heads": 16}
_SMALL_TOWER = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
_LARGE_TOWER = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}


def _true(hidden: int, inner: int, *, layers: int, heads: int, tower: dict[str, Any], tied: bool) -> dict[str, Any]:
    config = published(TINY, tied=tied)
    text = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads}
    config["text_config"] |= {**_TRUE_TEXT, **text, "rope_theta": 5_000_000}
    config["text_config"]["rope_scaling"] = {**_SECTION, "mrope_section": [24, 20, 20]}
    config["vision_config"] |= {**_TRUE_VISION, **tower, "out_hidden_size": hidden}
    return config


def true_configs() -> dict[str, dict[str, Any]]:
    """config.json of the published models, by id, as far as it decides the weights' shapes."""
    return {
        "Qwen/Qwen3-VL-2B-Instruct": _true(2048, 6144, layers=28, heads=16, tower=_SMALL_TOWER, tied=True),
        "Qwen/Qwen3-VL-4B-Instruct": _true(2560, 9728, layers=36, heads=32, tower=_SMALL_TOWER, tied=True),
        "Qwen/Qwen3-VL-8B-Instruct": _true(4096, 12_288, layers=36, heads=32, tower=_LARGE_TOWER, tied=False),
    }


def build(folder: Path, *, seed: int, tied: bool, nested: bool, assets: Path | None) -> None:
    """assets: an older Qwen's folder, for the tokenizer and the whole vocabulary."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = published(assets or TINY, tied=tied)
    if assets is None:
        copy(TINY, folder, *TEXT_FILES)
    # The smallest pictures are of two tokens, the largest of six by six.
    _write_own(folder, config, size=None if assets else {"shortest_edge": 32 * 64, "longest_edge": 192 * 192})
    # The weights of seed 0 say nothing to most questions once they are trained a little; tests want answers that differ.
    save(Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config)), folder, seed=seed + 1)
    if not nested:
        write_json(folder / "config.json", config)


FIXTURE = replace(
    qwen2_5.FIXTURE,
    build=build,
    write_files=write_files,
    assets=(),
    ends={},
    width=SMALL_TEXT["hidden_size"] * (1 + len(LEVELS)),
)
