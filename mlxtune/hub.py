"""From `model.path` to a folder on disk: a local folder as it is, anything else is a hub id."""

from __future__ import annotations

import re
from pathlib import Path

from mlxtune.errors import ModelError

# Weights as safetensors, and no Python: other weight files and modelling code could run anything.
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
# What older models publish instead; read as plain tensors or not at all (backends/pickled.py).
_PICKLES = ["pytorch_model*.bin"]


def model_folder(path: str, *, revision: str | None = None) -> Path:
    """Errors: ModelError where there is no such folder, or the hub does not have or give the model."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if local.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise ModelError(f"model.path: '{path}' is neither a folder nor a hub id (owner/name). Check the path")
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return _downloaded(path, revision)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model.path: there is no folder '{path}', and the hub did not give a model of that name ({reason}). "
            "Check the name, the network, and for gated models `hf auth login`"
        ) from error


def _downloaded(path: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(path, revision=revision, allow_patterns=_FILES))
    if any(folder.glob("*.safetensors")):
        return folder
    # The folder is named after the commit: the weights must be those of the other files.
    return Path(snapshot_download(path, revision=folder.name, allow_patterns=_PICKLES))
