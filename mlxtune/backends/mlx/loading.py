"""Building a family's modules and filling them from safetensors; nothing is left at random, no code of the folder runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlxtune.backends.base import Loading
from mlxtune.backends.mlx import idefics3, qwen2_5_vl
from mlxtune.backends.mlx.device import pick_dtype
from mlxtune.errors import ModelError
from mlxtune.families import Family, family_of, read_config

MODELS: dict[str, Any] = {"qwen2_5_vl": qwen2_5_vl.Model, "idefics3": idefics3.Model}
_GROUP = 64  # weights that share a scale when quantised; MLX's default


def load_model(folder: Path, loading: Loading) -> nn.Module:
    config = read_config(folder)
    model = MODELS[config.model_type](config)
    weights = _read(folder, family_of(config))
    if config.tied:
        weights.pop("lm_head.weight", None)
    expected = {name: value.shape for name, value in tree_flatten(model.parameters())}
    weights = {name: _as_mlx(value, expected.get(name)) for name, value in weights.items()}
    _check(folder, expected, weights)
    dtype = pick_dtype(loading.precision)
    model.load_weights([(name, value.astype(dtype)) for name, value in weights.items()])
    model.freeze()
    if loading.quantize:
        bits = {"4bit": 4, "8bit": 8}[loading.quantize]
        nn.quantize(model.text, group_size=_GROUP, bits=bits, class_predicate=_quantizable)
    mx.eval(model.parameters())
    return model


def _read(folder: Path, family: Family) -> dict[str, mx.array]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no .safetensors files. Only safetensors are read, since other weight files can run code")
    weights: dict[str, mx.array] = {}
    for file in files:
        try:
            weights |= {family.canonical(name): value for name, value in mx.load(str(file)).items()}
        except RuntimeError as error:
            raise ModelError(f"{file}: cannot be read ({error}). Download the file again") from error
    return weights


def _as_mlx(value: mx.array, shape: tuple[int, ...] | None) -> mx.array:
    """Convolution weights are published with channels second; MLX keeps them last."""
    if shape is not None and value.ndim in (4, 5) and value.shape != shape:
        return value.moveaxis(1, -1)
    return value


def _check(folder: Path, expected: dict[str, tuple[int, ...]], weights: dict[str, mx.array]) -> None:
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    wrong = sorted(name for name in expected.keys() & weights.keys() if tuple(weights[name].shape) != tuple(expected[name]))
    for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", wrong)):
        if names:
            raise ModelError(f"{folder}: {len(names)} weights are {what}: {', '.join(names[:3])}. Download the model again")


def _quantizable(path: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.weight.shape[-1] % _GROUP == 0
