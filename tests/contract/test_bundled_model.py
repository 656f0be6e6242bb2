"""The bundled model is what its card says: the published layout, read alike by transformers, mlx-vlm and both of our backends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlxtune.backends import installed, load_backend
from mlxtune.backends.base import Loading
from mlxtune.batching import collate
from mlxtune.data import load_data
from mlxtune.families import load_processor
from mlxtune.features import FreshPixels
from mlxtune.recipe import load_recipe
from mlxtune.types import Batch, Encoded

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "tiny-charts"


def test_it_is_small_and_laid_out_as_published() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 12 * 2**20
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "qwen2_5_vl" and "text_config" not in config and config["torch_dtype"] == "bfloat16"


def prompt() -> tuple[Encoded, Batch]:
    examples = load_data(load_recipe(ROOT / "recipes" / "charts-tiny.yaml").data).splits
    processor = load_processor(MODEL)
    row = processor.encode(examples["test"][0], max_tokens=None, answer=True)
    return row, collate([row], pad_id=processor.pad_id, pictures=FreshPixels(processor))


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_mlx_vlm_gives_our_logits(backend: str) -> None:
    """mlx-vlm shares no code with either backend, and loads the folder unchanged."""
    if not installed(backend):
        pytest.skip(f"{backend} is not installed")
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_vlm.utils")
    row, batch = prompt()
    model = utils.load_model(MODEL)
    model.set_dtype(mx.float32)
    out = model(
        mx.array(row.input_ids[None]),
        mx.array(batch.pixels[0].values),
        mx.ones((1, len(row.input_ids)), dtype=mx.int32),
        image_grid_thw=mx.array([batch.pixels[0].grid]),
    )
    places = np.flatnonzero(row.weights) - 1
    theirs = np.array(out.logits.astype(mx.float32))[0, places]
    ours = load_backend(backend, MODEL, Loading("float32")).logits(batch)[: len(places)]
    assert np.abs(ours - theirs).max() <= 1e-4 * max(1.0, np.abs(theirs).max())
