"""SmolVLM2 in MLX: the layers of Idefics3, name by name."""

from __future__ import annotations

from mlxtune.backends.mlx.models.idefics3 import Idefics3

SmolVLM = Idefics3
