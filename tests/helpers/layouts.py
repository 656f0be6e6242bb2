"""A full-size model's weights by name and shape, on both backends, without making any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxtune.families import family_of, read_config

Shapes = dict[str, tuple[int, ...]]


def of_transformers(folder: Path) -> Shapes:
    """Of transformers' model, under the canonical names, convolutions with their channels last as in MLX."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = read_config(folder)
    kind: Any = transformers.AutoConfig.for_model(config.model_type).from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(kind)
    family = family_of(config)
    found = {family.canonical(name): tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return {name: (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape for name, shape in found.items()}


def of_mlx(folder: Path) -> Shapes:
    """MLX makes arrays when they are used, so the largest model costs nothing here."""
    pytest.importorskip("mlx.core")
    from mlx.utils import tree_flatten

    from mlxtune.backends.mlx.models import MODELS

    config = read_config(folder)
    return {name: value.shape for name, value in tree_flatten(MODELS[family_of(config).name](config).parameters())}


def assert_same_layout(folder: Path) -> None:
    ours, theirs = of_mlx(folder), of_transformers(folder)
    assert ours.keys() == theirs.keys()
    assert {name: shape for name, shape in ours.items() if theirs[name] != shape} == {}
