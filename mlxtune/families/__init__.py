"""What is particular to a model family, without any framework: chat template, placeholders, pixels, positions, adapter sites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlxtune.errors import ModelError
from mlxtune.families.base import Family, KnownModel, Processor
from mlxtune.families.config import ModelConfig, read_config
from mlxtune.families.donut import DONUT
from mlxtune.families.idefics3 import IDEFICS3
from mlxtune.families.llava import LLAVA
from mlxtune.families.moondream2 import MOONDREAM2, MOONDREAM2_PHI
from mlxtune.families.qwen2_5_vl import QWEN2_5_VL
from mlxtune.families.qwen2_vl import QWEN2_VL
from mlxtune.families.qwen3_vl import QWEN3_VL
from mlxtune.families.smolvlm import SMOLVLM

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (QWEN2_5_VL, QWEN2_VL, QWEN3_VL, IDEFICS3, SMOLVLM, LLAVA, MOONDREAM2, MOONDREAM2_PHI, DONUT)
}

__all__ = ["FAMILIES", "Family", "KnownModel", "ModelConfig", "Processor", "family_of", "load_processor", "read_config"]


def family_of(config: ModelConfig) -> Family:
    """The family that a folder's `model_type` belongs to; ModelError if none does."""
    family = next((family for family in FAMILIES.values() if _takes(family, config)), None)
    if family is None:
        known = ", ".join(FAMILIES)
        raise ModelError(
            f"{config.folder}/config.json: model type '{config.model_type}' is no family that mlxtune knows. Use one of: {known}"
        )
    return family if family.sites_of is None else replace(family, sites=family.sites_of(config))


def _takes(family: Family, config: ModelConfig) -> bool:
    return config.model_type in family.model_types and (family.accepts is None or family.accepts(config))


def load_processor(folder: Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Processor:
    """Tokenizer, chat template and picture settings of a model folder. Reads no weights."""
    config = read_config(folder)
    family = family_of(config)
    return family.processor(config, family, min_pixels=min_pixels, max_pixels=max_pixels)
