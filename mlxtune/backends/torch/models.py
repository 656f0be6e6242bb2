"""One small adapter per family over transformers' modules: loading, vision forward, and where the text model's parts are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from mlxtune.backends.base import Loading
from mlxtune.backends.torch.device import pick_dtype
from mlxtune.errors import BackendError, ModelError
from mlxtune.families import read_config
from mlxtune.types import Pixels


class TorchModel(ABC):
    """model: transformers' …ForConditionalGeneration. text: its decoder, with `embed_tokens`, `layers`, `norm`, `rotary_emb`."""

    architecture: str

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.device = device

    @property
    @abstractmethod
    def text(self) -> Any: ...

    @abstractmethod
    def vision(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        """[sum of tokens, hidden]: features of the pictures in order, projected to the text model's width."""

    @property
    def head(self) -> nn.Module:
        return self.model.lm_head

    def rotary_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """What the family's `rotary_emb` takes, from [A, B, S]."""
        return positions[0]

    def _values(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([p.values for p in pixels])).to(self.device, self.model.dtype)


class Qwen2_5_VL(TorchModel):
    architecture = "Qwen2_5_VLForConditionalGeneration"

    @property
    def text(self) -> Any:
        return self.model.model.language_model

    def vision(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        grids = torch.tensor([p.grid for p in pixels], device=self.device)
        return self.model.model.visual(self._values(pixels), grid_thw=grids).pooler_output

    def rotary_positions(self, positions: torch.Tensor) -> torch.Tensor:
        return positions


class Idefics3(TorchModel):
    architecture = "Idefics3ForConditionalGeneration"

    @property
    def text(self) -> Any:
        return self.model.model.text_model

    def vision(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        tiles = self._values(pixels)
        side = tiles.shape[-1] // self.model.config.vision_config.patch_size
        # Called below `get_image_features`, which drops tiles whose values are all zero and so shifts the others.
        whole = torch.ones((len(tiles), side, side), dtype=torch.bool, device=self.device)
        hidden = self.model.model.vision_model(pixel_values=tiles, patch_attention_mask=whole).last_hidden_state
        return self.model.model.connector(hidden).flatten(0, 1)


MODELS: dict[str, type[TorchModel]] = {"qwen2_5_vl": Qwen2_5_VL, "idefics3": Idefics3}


def load_model(folder: Path, loading: Loading, device: torch.device) -> TorchModel:
    """Builds the family's model and fills every weight from safetensors; nothing is left at random."""
    import transformers

    config = read_config(folder)
    kind = MODELS[config.model_type]
    dtype = pick_dtype(loading.precision, device)
    try:
        model, report = getattr(transformers, kind.architecture).from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below
            **_quantization(loading, dtype, device),
        )
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}: {str(error).splitlines()[0]}. The folder must hold the model's safetensors files") from error
    _check(folder, report)
    model.requires_grad_(False)
    return kind(model.eval() if loading.quantize else model.to(device).eval(), device)


def _check(folder: Path, report: dict[str, Any]) -> None:
    wrong = {name for name, *_ in report["mismatched_keys"]}
    found = {"missing": report["missing_keys"] - wrong, "unknown": report["unexpected_keys"], "of another shape": wrong}
    for what, names in found.items():
        if names:
            raise ModelError(
                f"{folder}: {len(names)} weights are {what}: {', '.join(sorted(names)[:3])}. Download the model again"
            )


def _quantization(loading: Loading, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    if loading.quantize is None:
        return {}
    if device.type != "cuda":
        raise BackendError(
            f"model.quantize: {loading.quantize} needs a CUDA device with torch. Set it to null, or use backend: mlx"
        )
    from transformers import BitsAndBytesConfig

    if loading.quantize == "8bit":
        settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["visual", "vision_model", "connector", "lm_head"])
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=["visual", "vision_model", "connector", "lm_head"],
        )
    return {"quantization_config": settings, "device_map": {"": device}}
