"""Weights that are published as a pickle alone (`pytorch_model.bin`): read once as plain tensors, and kept as safetensors.

A pickle can run any code. torch reads it with an unpickler that knows tensors and nothing else; the copy lies in the user's
cache under a name made from the content of the files, and is what both backends read from then on.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlxtune.errors import ModelError

_PICKLES = "pytorch_model*.bin"  # the name of published weights, whole or in pieces; no other .bin file is touched


def safe_weights(folder: Path) -> Path:
    """The folder to read weights and `config.json` from: `folder` itself wherever it has safetensors.

    Errors: ModelError where it has weights of neither kind, where a pickle holds more than tensors or cannot be read, or where
    one must be read for the first time and torch is not installed.
    """
    pickles = [] if any(folder.glob("*.safetensors")) else sorted(folder.glob(_PICKLES))
    if not pickles or not (folder / "config.json").exists():
        return folder
    kept = cache_folder() / _name([*pickles, folder / "config.json"])
    if not kept.exists():
        _convert(pickles, folder / "config.json", kept)
    return kept


def cache_folder() -> Path:
    """Where the copies lie."""
    from platformdirs import user_cache_path

    return user_cache_path("mlxtune") / "weights"


def _name(files: Sequence[Path]) -> str:
    """From the files' contents: a file that changes, or another one of the same name, gets a copy of its own."""
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise ModelError(
                f"{file}: cannot be read ({error.strerror}). Check its permissions, or use a copy of the model in safetensors"
            ) from error
    return digest.hexdigest()


def _convert(pickles: Sequence[Path], config: Path, kept: Path) -> None:
    if importlib.util.find_spec("torch") is None:
        raise ModelError(
            f"{pickles[0]}: these weights are published as a pickle alone, which only torch can read. Run `pip install torch` "
            f"and start again: it is needed this once, the copy in safetensors is kept in {kept.parent}"
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    reader = importlib.import_module("mlxtune.backends.torch.pickled")
    # Written beside its place and moved there: what is broken off leaves nothing that looks whole.
    with tempfile.TemporaryDirectory(dir=kept.parent) as made:
        whole = Path(made) / "whole"
        whole.mkdir()
        reader.rewrite(pickles, whole / "model.safetensors")
        shutil.copyfile(config, whole / "config.json")
        try:
            whole.rename(kept)
        except OSError:
            if not kept.exists():  # else another process was first, and its copy is the same
                raise
