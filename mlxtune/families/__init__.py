"""What is particular to a model family, without any framework: chat template, placeholders, pixels, positions, adapter sites."""

from __future__ import annotations

from pathlib import Path

from mlxtune.errors import ModelError
from mlxtune.families.base import Family, Processor
from mlxtune.families.config import ModelConfig, read_config
from mlxtune.families.idefics3 import IDEFICS3
from mlxtune.families.qwen2_5_vl import QWEN2_5_VL

FAMILIES: dict[str, Family] = {family.name: family for family in (QWEN2_5_VL, IDEFICS3)}

__all__ = ["FAMILIES", "Family", "ModelConfig", "Processor", "family_of", "load_processor", "read_config"]


def family_of(config: ModelConfig) -> Family:
    """The family that a folder's `model_type` belongs to; ModelError if none does."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        known = ", ".join(FAMILIES)
        raise ModelError(
            f"{config.folder}/config.json: model type '{config.model_type}' is no family that mlxtune knows. Use one of: {known}"
        )
    return family


def load_processor(folder: Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Processor:
    """Tokenizer, chat template and picture settings of a model folder. Reads no weights."""
    config = read_config(folder)
    return family_of(config).processor(config, min_pixels=min_pixels, max_pixels=max_pixels)
