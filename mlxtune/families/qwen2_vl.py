"""Qwen2-VL: pictures, prompts and positions are those of Qwen2.5-VL; in its vision tower a patch sees its whole picture."""

from __future__ import annotations

from dataclasses import replace

from mlxtune.families.base import KnownModel
from mlxtune.families.qwen2_5_vl import QWEN2_5_VL

QWEN2_VL = replace(
    QWEN2_5_VL,
    name="qwen2_vl",
    model_types=("qwen2_vl",),
    description="Qwen2-VL: any picture shape, 28 x 28 pixels a token",
    known_models=(
        KnownModel("Qwen/Qwen2-VL-2B-Instruct", 2.21, "Apache-2.0", 630),
        KnownModel("Qwen/Qwen2-VL-7B-Instruct", 8.29, "Apache-2.0", 630),
    ),
    sites={**QWEN2_5_VL.sites, "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"},
)
