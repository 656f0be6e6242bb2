"""Reading a pickle of weights with torch's unpickler for tensors, and writing them as safetensors."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from mlxtune.errors import ModelError

# Older ones could be made to run code with weights_only too (CVE-2025-32434).
_SAFE = (2, 6)


def rewrite(pickles: Sequence[Path], to: Path) -> None:
    """Writes the tensors of all files into one safetensors file. Errors: ModelError; no code of the files runs in any case."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _SAFE:
        raise ModelError(f"{pickles[0]}: torch {torch.__version__} cannot read pickles safely. Run `pip install -U torch`")
    weights: dict[str, torch.Tensor] = {}
    for file in pickles:
        found = _read(file)
        strange = next((name for name, value in found.items() if not (isinstance(name, str) and torch.is_tensor(value))), None)
        if strange is not None or weights.keys() & found.keys():
            what = f"'{strange}' in it is no tensor" if strange is not None else "another file holds the same weights"
            raise ModelError(f"{file}: no plain list of weights: {what}. Use a copy of the model in safetensors")
        # safetensors refuses tensors that share memory, as an output head and its embedding do.
        weights |= {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in found.items()}
    save_file(weights, to, metadata={"format": "pt"})


def _read(file: Path) -> dict[str, torch.Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to read the file with code and all.
        raise ModelError(
            f"{file}: holds something other than weights, which might run code, or is no file of weights at all. It was not "
            "loaded; use a copy of the model in safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{file}: cannot be read ({type(error).__name__}). Download it again, or use a copy of the model in safetensors"
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"{file}: holds a {type(found).__name__} and no weights by name. Use a copy of the model in safetensors")
    return found
