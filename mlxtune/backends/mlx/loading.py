"""Building a family's modules and filling them from safetensors; nothing is left at random, no code of the folder runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlxtune.backends.base import Loading
from mlxtune.backends.mlx.device import pick_dtype
from mlxtune.backends.mlx.models import MODELS, Model
from mlxtune.backends.pickled import safe_weights
from mlxtune.errors import ModelError
from mlxtune.families import Family, family_of, read_config

_GROUP = 64  # weights that share a scale when quantised; MLX's default


def load_model(folder: Path, loading: Loading) -> Model:
    config = read_config(folder)
    model = MODELS[family_of(config).name](config)
    expected = {name: value.shape for name, value in tree_flatten(model.parameters())}
    weights = _unread(folder, model, expected, pick_dtype(loading.precision))
    _check(folder, expected, weights)
    model.load_weights(list(weights.items()))
    model.freeze()
    if loading.quantize:
        bits = {"4bit": 4, "8bit": 8}[loading.quantize]
        nn.quantize(model.text, group_size=_GROUP, bits=bits, class_predicate=_quantizable)
    mx.eval(model.parameters())
    return model


def forget_vision(model: Model, folder: Path, dtype: mx.Dtype) -> None:
    """Puts unread weights in the place of those before the text model; MLX reads them from the file when they are used."""
    own = {name: value.shape for name, value in tree_flatten(model.parameters()) if model.is_vision(name)}
    fresh = {name: value for name, value in _unread(folder, model, own, dtype).items() if name in own}
    model.load_weights(list(fresh.items()), strict=False)
    mx.clear_cache()


def _unread(folder: Path, model: Model, shapes: Mapping[str, tuple[int, ...]], dtype: mx.Dtype) -> dict[str, mx.array]:
    """The folder's weights that the model takes, in its names, layout and precision; nothing is read from the files yet."""
    found = _read(safe_weights(folder), family_of(read_config(folder)))
    return {name: _as_mlx(value, shapes.get(name)).astype(dtype) for name, value in found.items() if model.takes(name)}


def _read(folder: Path, family: Family) -> dict[str, mx.array]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no .safetensors files. Download the model again")
    weights: dict[str, mx.array] = {}
    for file in files:
        try:
            weights |= {family.canonical(name): value for name, value in mx.load(str(file)).items()}
        except RuntimeError as error:
            raise ModelError(f"{file}: cannot be read ({error}). Download the file again") from error
    return {name: value for name, value in weights.items() if not family.leaves_out(name)}


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
    # Some text models hold the output head, which stays as it is in every family.
    return isinstance(module, nn.Linear) and module.weight.shape[-1] % _GROUP == 0 and path != "lm_head"
