"""Qwen2-VL: transformers' modules; forwards are those of Qwen2.5-VL, whose modules have the same places."""

from __future__ import annotations

from mlxtune.backends.torch.models.qwen2_5_vl import Qwen2_5_VL


class Qwen2VL(Qwen2_5_VL):
    architecture = "Qwen2VLForConditionalGeneration"
