"""Choosing and loading a backend. The frameworks are imported here only when a model is loaded."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from pathlib import Path
from typing import NamedTuple

from mlxtune.backends.base import Backend, Loading
from mlxtune.backends.heap import keep_freed_memory
from mlxtune.errors import BackendError

_PACKAGES = {"mlx": "mlx", "torch": "torch"}


class Choice(NamedTuple):
    name: str
    reason: str


def installed(name: str) -> bool:
    return importlib.util.find_spec(_PACKAGES[name]) is not None


def choose_backend(wanted: str = "auto") -> Choice:
    """Apple silicon: MLX. CUDA: torch. Else torch on the CPU, or MLX on the CPU where only that is installed."""
    if wanted != "auto":
        if not installed(wanted):
            raise BackendError(
                f"backend '{wanted}' is not installed. Run `make finetune BACKEND={wanted}` or `pip install 'mlxtune[{wanted}]'`"
            )
        return Choice(wanted, "asked for")
    if platform.system() == "Darwin" and platform.machine() == "arm64" and installed("mlx"):
        return Choice("mlx", "Apple silicon")
    if installed("torch"):
        return Choice(
            "torch", "a CUDA device is there" if _cuda() else "no Apple silicon and no CUDA device, so torch on the CPU"
        )
    if installed("mlx"):
        return Choice("mlx", "torch is not installed, so MLX on the CPU")
    raise BackendError(
        "no backend is installed. Run `make finetune`, or `pip install 'mlxtune[mlx]'` (Apple silicon) or 'mlxtune[torch]'"
    )


def load_backend(name: str, folder: Path, loading: Loading) -> Backend:
    """Loads the weights of a model folder. Errors: ModelError, BackendError."""
    keep_freed_memory()
    return importlib.import_module(f"mlxtune.backends.{name}.backend").load(folder, loading)


def _cuda() -> bool:
    return importlib.import_module("mlxtune.backends.torch.device").has_cuda()
