"""From a model folder to a frozen model on its device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mlxtune.backends.base import Loading
from mlxtune.backends.pickled import safe_weights
from mlxtune.backends.torch.device import pick_dtype
from mlxtune.backends.torch.models import MODELS, TorchModel
from mlxtune.backends.torch.products import multiply_well
from mlxtune.errors import BackendError
from mlxtune.families import family_of, read_config

# Quantised are the text model's layers alone: the others are small, and pictures suffer.
_KEPT = ["visual", "vision_model", "vision_tower", "connector", "multi_modal_projector", "encoder", "enc_to_dec_proj", "lm_head"]


def load_model(folder: Path, loading: Loading, device: torch.device) -> TorchModel:
    """Builds the family's model and fills every weight from safetensors; nothing is left at random. Errors: ModelError."""
    # Its copy of the configuration is what transformers reads beside the weights.
    config = read_config(safe_weights(folder))
    kind = MODELS[family_of(config).name]
    dtype = pick_dtype(loading.precision, device)
    model = kind.build(config, dtype=dtype, settings=_quantization(loading, dtype, device))
    model.requires_grad_(False)
    if not loading.quantize:
        model.to(device)
        multiply_well(model)
    return kind(model.eval(), device)


def _quantization(loading: Loading, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    if loading.quantize is None:
        return {}
    if device.type != "cuda":
        raise BackendError(
            f"model.quantize: {loading.quantize} needs a CUDA device with torch. Set it to null, or use backend: mlx"
        )
    from transformers import BitsAndBytesConfig

    bits = {"load_in_8bit": True}
    if loading.quantize == "4bit":
        bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return {"quantization_config": BitsAndBytesConfig(**bits, llm_int8_skip_modules=_KEPT), "device_map": {"": device}}
