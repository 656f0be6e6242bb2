"""Which device and number format PyTorch uses, and how much memory there is."""

from __future__ import annotations

import os
import resource
import sys

import torch

from mlxtune.errors import BackendError
from mlxtune.types import Memory


def has_cuda() -> bool:
    return torch.cuda.is_available()


def pick_device() -> torch.device:
    return torch.device("cuda" if has_cuda() else "cpu")


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    # torch.cuda.is_bf16_supported() is true on a T4, where bfloat16 is emulated and very slow.
    emulated = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8
    if precision == "auto":
        precision = "float32" if device.type == "cpu" else "float16" if emulated else "bfloat16"
    if precision == "bfloat16" and emulated:
        raise BackendError(f"{torch.cuda.get_device_name(device)} has no bfloat16. Set model.precision: float16")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def memory(device: torch.device) -> Memory:
    if device.type == "cuda":
        return Memory(torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory)
    # ru_maxrss counts bytes on macOS and kilobytes elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return Memory(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )
