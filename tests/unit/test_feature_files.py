"""The store on disk: what is kept is given back, what is changed is never read, what is old makes room."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxtune.families import load_processor
from mlxtune.feature_files import FeatureFiles
from mlxtune.vision_weights import features_name
from tests.helpers.families.base import TINY

GB = 2**30


def files(folder: Path, *, model: str = "a", precision: str = "float32", max_bytes: int = GB) -> FeatureFiles:
    return FeatureFiles(folder, model=model, precision=precision, max_bytes=max_bytes)


def features(seed: int, rows: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)


def as_stored(array: np.ndarray, precision: str) -> np.ndarray:
    """What a tower of that precision could have given."""
    if precision == "bfloat16":
        return (array.view(np.uint32) >> 16 << 16).view(np.float32)
    return array.astype(precision).astype(np.float32)


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_features_come_back_bit_for_bit_in_the_models_own_size(tmp_path: Path, precision: str, size: int) -> None:
    kept, array = files(tmp_path, precision=precision), as_stored(features(1, rows=500), precision)
    kept.put("key", array)
    for store in (kept, files(tmp_path, precision=precision)):
        found = store.get("key")
        assert found is not None and found.dtype == np.float32 and found.tobytes() == array.tobytes()
    (path,) = tmp_path.rglob("*.npy")
    assert abs(path.stat().st_size - array.size * size) < 200


def test_another_model_or_key_reads_nothing(tmp_path: Path) -> None:
    files(tmp_path).put("key", features(1))
    assert files(tmp_path, model="b").get("key") is None
    assert files(tmp_path).get("kex") is None


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None], ids=["empty", "header cut", "end cut"])
def test_a_broken_file_counts_as_missing_and_is_written_anew(tmp_path: Path, content: bytes | None) -> None:
    kept = files(tmp_path)
    kept.put("key", features(1))
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:-4] if content is None else content)
    assert kept.get("key") is None
    kept.put("key", features(1))
    assert (kept.get("key") == features(1)).all()


def age(folder: Path, key: str, hours: float) -> None:
    (path,) = folder.rglob(f"{key}.npy")
    os.utime(path, (then := time.time() - hours * 3600, then))


def test_the_least_recently_used_files_of_all_models_make_room(tmp_path: Path) -> None:
    one = features(0, rows=1000)
    room = 4 * (one.nbytes + 200)
    for number in range(4):
        files(tmp_path, model=f"m{number % 2}", max_bytes=room).put(f"k{number}", one)
        age(tmp_path, f"k{number}", hours=10 - number)
    assert files(tmp_path, model="m0").get("k0") is not None  # used now: the oldest is k1
    files(tmp_path, max_bytes=room).put("new", one)
    assert sorted(path.stem for path in tmp_path.rglob("*.npy")) == ["k0", "k2", "k3", "new"]


def test_a_run_that_outgrows_the_limit_keeps_what_it_has(tmp_path: Path) -> None:
    one = features(0, rows=1000)
    kept = files(tmp_path, max_bytes=2 * (one.nbytes + 200))
    for number in range(5):
        kept.put(f"k{number}", one)
    assert sorted(path.stem for path in tmp_path.rglob("*.npy")) == ["k0", "k1"]
    assert not list(tmp_path.rglob("*.part"))


# -- the name of a model's features ------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The bundled model's settings with three small weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in TINY.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    names = ("visual.merger.mlp.0.weight", "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight")
    save_file({name: features(number) for number, name in enumerate(names)}, folder / "model.safetensors")
    return folder


def named(folder: Path, *, backend: str = "torch", precision: str = "float32", max_pixels: int | None = None) -> str:
    return features_name(folder, load_processor(folder, max_pixels=max_pixels), backend=backend, precision=precision)


def change(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    array = weights[name].copy()
    array[-1, -1] += 1
    save_file({**weights, name: array}, folder / "model.safetensors")


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight"])
def test_text_weights_leave_the_name_alone(model: Path, name: str) -> None:
    before = named(model)
    change(model, name)
    assert named(model) == before


def test_everything_that_decides_features_is_in_the_name(model: Path) -> None:
    names = [
        named(model),
        named(model, backend="mlx"),
        named(model, precision="bfloat16"),
        named(model, max_pixels=28 * 28 * 9),
    ]
    change(model, "visual.merger.mlp.0.weight")
    names.append(named(model))
    settings = (model / "preprocessor_config.json").read_text()
    (model / "preprocessor_config.json").write_text(settings.replace("0.48145466", "0.5"))
    names.append(named(model))
    assert len(set(names)) == len(names) and all(one.startswith("qwen2_5_vl-") for one in names)


def test_what_is_held_is_told_without_reading_it(tmp_path: Path) -> None:
    store = files(tmp_path)
    assert not store.holds("0" * 40)
    store.put("0" * 40, features(0))
    path = next(tmp_path.rglob("*.npy"))
    os.utime(path, (0, 0))
    assert store.holds("0" * 40) and path.stat().st_mtime > 0, "a look is a use"
    path.write_bytes(path.read_bytes()[:-8])
    assert not store.holds("0" * 40), "cut short"
