"""Qwen2-VL, small and random; its tokenizer, pictures and prompts are those of Qwen2.5-VL."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.helpers.families import qwen2_5_vl as qwen2_5
from tests.helpers.families.base import TEXT_FILES, TINY, copy, patch, rename, save, write_json

_VISION = {"depth": 3, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 3, "hidden_size": 64}
_FIXED = {"in_chans": 3, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2}


def write_files(folder: Path) -> None:
    copy(TINY, folder, *TEXT_FILES)
    patch(folder / "preprocessor_config.json", processor_class="Qwen2VLProcessor")
    outline = _published(json.loads((TINY / "config.json").read_text(encoding="utf-8")))
    write_json(folder / "config.json", {**outline, "vision_config": {**_VISION, **_FIXED}})


def build(folder: Path, *, seed: int, tied: bool, nested: bool, assets: Path | None) -> None:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    published = _published(qwen2_5.copy_files(folder, assets))
    text = qwen2_5.small_text(published)
    config = Qwen2VLConfig(text_config=text, vision_config={**_VISION}, tie_word_embeddings=tied, **qwen2_5.token_ids(published))
    save(Qwen2VLForConditionalGeneration(config), folder, seed=seed)
    if nested:
        rename(folder, qwen2_5.BY_MODULE)
    else:
        write_json(folder / "config.json", qwen2_5.flat_config(published, text=text, vision=_VISION, tied=tied))


def _published(config: dict[str, Any]) -> dict[str, Any]:
    """The bundled model is a Qwen2.5-VL; Qwen2-VL's configuration has other names in its vision part alone."""
    names = {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}
    return config if config["model_type"] == "qwen2_vl" else {**config, **names, "vision_config": _FIXED}


FIXTURE = replace(
    qwen2_5.FIXTURE,
    build=build,
    write_files=write_files,
    assets=("Qwen2-VL-2B-Instruct",),
    ends={"Qwen2-VL-2B-Instruct": "<|im_end|>"},
)
