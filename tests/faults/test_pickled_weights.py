"""Weights that are published as a pickle: read once as plain tensors, kept as safetensors; what else one holds never runs."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune import hub
from mlxtune.backends import installed, load_backend, pickled
from mlxtune.backends.base import Loading
from mlxtune.backends.pickled import safe_weights
from mlxtune.engine import Engine, open_engine
from mlxtune.errors import ModelError
from mlxtune.recipe import ModelSpec
from tests.helpers import models
from tests.helpers.rows import examples
from tests.helpers.training import encode, mean_loss

torch = pytest.importorskip("torch", reason="pickles are made, and read, with torch")
from safetensors.torch import load_file  # noqa: E402


class Evil:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._proof),)


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pickled, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def safe(tmp_path: Path) -> Path:
    return models.build("donut", tmp_path / "safe", tied=True)


@pytest.fixture
def published(safe: Path, tmp_path: Path) -> Path:
    """As UniChart lies on the hub: one pickle, in which head and embedding share their memory."""
    folder = models.build("donut", tmp_path / "published", tied=True)
    weights = load_file(safe / "model.safetensors")
    weights["decoder.lm_head.weight"] = weights["decoder.model.decoder.embed_tokens.weight"]
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def opened(backend: str, folder: Path) -> Engine:
    return open_engine(folder, ModelSpec(path=str(folder), precision="float32"), backend=backend)


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ModelError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500 and "weights_only" not in message, message
    return message


def test_it_is_read_once_and_says_what_safetensors_say(
    backend: str, safe: Path, published: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(published.iterdir())
    expected = opened(backend, safe)
    rows = encode(expected, examples(4))
    assert mean_loss(opened(backend, published), rows) == mean_loss(expected, rows)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the pickle was opened again"))
    assert mean_loss(opened(backend, published), rows) == mean_loss(expected, rows)
    assert sorted(published.iterdir()) == before, "a snapshot of the hub is left alone"
    (kept,) = cache.iterdir()
    assert sorted(file.name for file in kept.iterdir()) == ["config.json", "model.safetensors"]


def test_pieces_are_put_together(backend: str, safe: Path, published: Path) -> None:
    weights = list(torch.load(published / "pytorch_model.bin", weights_only=True).items())
    (published / "pytorch_model.bin").unlink()
    for number, part in enumerate((weights[:50], weights[50:]), start=1):
        torch.save(dict(part), published / f"pytorch_model-0000{number}-of-00002.bin")
    rows = encode(opened(backend, safe), examples(2))
    assert mean_loss(opened(backend, published), rows) == mean_loss(opened(backend, safe), rows)


def test_other_weights_and_another_configuration_get_copies_of_their_own(published: Path, cache: Path) -> None:
    path, first = published / "pytorch_model.bin", safe_weights(published)
    weights = torch.load(path, weights_only=True)
    name = "enc_to_dec_proj.weight"
    torch.save({**weights, name: weights[name] + 1}, path)
    second = safe_weights(published)
    changed = load_file(second / "model.safetensors")[name]
    np.testing.assert_allclose(changed.numpy(), weights[name].numpy() + 1)
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps({**config, "note": "mine"}))
    third = safe_weights(published)
    assert json.loads((third / "config.json").read_text())["note"] == "mine"
    assert len({first, second, third}) == len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("inside", [False, True], ids=["all of it", "beside weights"])
def test_a_malicious_pickle_does_not_run(backend: str, published: Path, cache: Path, tmp_path: Path, inside: bool) -> None:
    path, proof = published / "pytorch_model.bin", tmp_path / "ran"
    weights = torch.load(path, weights_only=True)
    torch.save({**weights, "extra": Evil(proof)} if inside else Evil(proof), path)
    message = refusal(lambda: load_backend(backend, published, Loading("float32")))
    assert "pytorch_model.bin" in message and "run code" in message and "safetensors" in message
    assert not proof.exists() and not list(cache.iterdir())
    torch.load(path, weights_only=False)
    assert proof.exists(), "it must be able to run at all, or this test proves nothing"


def test_where_there_are_safetensors_no_pickle_is_opened(backend: str, safe: Path, cache: Path, tmp_path: Path) -> None:
    torch.save(Evil(tmp_path / "ran"), safe / "pytorch_model.bin")
    opened(backend, safe)
    assert not (tmp_path / "ran").exists() and not cache.exists()


def test_other_pickles_are_no_weights(backend: str, published: Path, tmp_path: Path) -> None:
    (published / "pytorch_model.bin").unlink()
    for name in ("training_args.bin", "optimizer.bin", "model.pt", "pytorch_model.bin.bak"):
        torch.save(Evil(tmp_path / "ran"), published / name)
    assert "safetensors" in refusal(lambda: load_backend(backend, published, Loading("float32")))
    assert not (tmp_path / "ran").exists()


CONTENTS: dict[str, Callable[[Path], None]] = {
    "a number among weights": lambda path: torch.save({"a": torch.zeros(2), "steps": 3}, path),
    "weights in a drawer": lambda path: torch.save({"state_dict": {"a": torch.zeros(2)}}, path),
    "numbers for names": lambda path: torch.save({0: torch.zeros(2)}, path),
    "a list": lambda path: torch.save([torch.zeros(2)], path),
    "a tensor": lambda path: torch.save(torch.zeros(2), path),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
    "no pickle": lambda path: path.write_bytes(b"<html>not found</html>"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("write", CONTENTS.values(), ids=CONTENTS)
def test_what_cannot_be_read_as_weights_is_refused(published: Path, cache: Path, write: Callable[[Path], Any]) -> None:
    path = published / "pytorch_model.bin"
    write(path)
    message = refusal(lambda: safe_weights(published))
    assert message.startswith(f"{path}: ") and "safetensors" in message
    assert not cache.exists() or not list(cache.iterdir()), "nothing half-made stays"


def test_weights_of_another_model_are_refused_as_safetensors_are(backend: str, published: Path) -> None:
    torch.save({"a.weight": torch.zeros(2)}, published / "pytorch_model.bin")
    assert "missing" in refusal(lambda: load_backend(backend, published, Loading("float32")))


def test_mlx_without_torch_says_what_to_do_until_the_copy_is_there(
    published: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed("mlx"):
        pytest.skip("backend 'mlx' is not installed")
    find = importlib.util.find_spec
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))
        message = refusal(lambda: load_backend("mlx", published, Loading("float32")))
        assert "pip install torch" in message and str(cache) in message
    safe_weights(published)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))
    opened("mlx", published)


def test_an_old_torch_is_not_trusted_with_it(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    assert "pip install -U torch" in refusal(lambda: safe_weights(published))


def test_a_conversion_that_breaks_off_leaves_nothing(published: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlxtune.backends.torch import pickled as reader

    def dies(weights: Any, to: Path, **_: Any) -> None:
        to.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(reader, "save_file", dies)
        with pytest.raises(KeyboardInterrupt):
            safe_weights(published)
    assert not list(cache.iterdir())
    assert load_file(safe_weights(published) / "model.safetensors")


def test_two_at_once_end_with_one_copy(published: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlxtune.backends.torch import pickled as reader

    own = reader.rewrite

    def overtaken(files: Any, to: Path) -> None:
        monkeypatch.setattr(reader, "rewrite", own)
        safe_weights(published)
        own(files, to)

    monkeypatch.setattr(reader, "rewrite", overtaken)
    kept = safe_weights(published)
    assert list(cache.iterdir()) == [kept] and load_file(kept / "model.safetensors")


@pytest.mark.parametrize("published_as", ["model.safetensors", "pytorch_model.bin"])
def test_the_hub_is_asked_for_a_pickle_only_where_there_is_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published_as: str
) -> None:
    import huggingface_hub

    files = ["config.json", "tokenizer.json", "modeling.py", "training_args.bin", "pytorch_model.bin", published_as]
    commit = tmp_path / "0123abcd"
    asked: list[tuple[str | None, bool]] = []

    def download(path: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        commit.mkdir(exist_ok=True)
        for name in huggingface_hub.utils.filter_repo_objects(files, allow_patterns=allow_patterns):
            (commit / name).touch()
        asked.append((revision, any(".bin" in pattern for pattern in allow_patterns)))
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.model_folder("someone/model", revision="main") == commit
    pickle = published_as.endswith(".bin")
    assert asked == [("main", False)] + [("0123abcd", True)] * pickle
    assert {file.name for file in commit.iterdir()} == {"config.json", "tokenizer.json", published_as}
