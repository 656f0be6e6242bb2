"""SmolVLM2, pictures only: Idefics3's tiles, prompt and layers under names of its own. Its videos are not taken."""

from __future__ import annotations

from dataclasses import replace

from mlxtune.families.base import KnownModel
from mlxtune.families.idefics3 import IDEFICS3

# transformers' image processors of the two families differ in their wording alone, and so do their modules' names.
SMOLVLM = replace(
    IDEFICS3,
    name="smolvlm",
    model_types=("smolvlm",),
    description="SmolVLM2: square tiles and a small copy of the whole, 64 or 81 tokens a tile; pictures, no video",
    known_models=(
        KnownModel("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", 0.26, "Apache-2.0", 832),
        KnownModel("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", 0.51, "Apache-2.0", 832),
        KnownModel("HuggingFaceTB/SmolVLM2-2.2B-Instruct", 2.25, "Apache-2.0", 1053),
    ),
)
