"""SmolVLM2: Idefics3's forward over transformers' modules of that name."""

from __future__ import annotations

from mlxtune.backends.torch.models.idefics3 import Idefics3


class SmolVLM(Idefics3):
    architecture = "SmolVLMForConditionalGeneration"
