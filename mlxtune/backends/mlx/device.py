"""Which device MLX uses, and how much memory there is."""

from __future__ import annotations

import os
import platform

import mlx.core as mx

from mlxtune.types import Memory

_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


def pick_dtype(precision: str) -> mx.Dtype:
    if precision == "auto":
        return mx.bfloat16 if mx.default_device() == mx.Device(mx.gpu) else mx.float32
    return _DTYPES[precision]


def describe() -> str:
    if mx.default_device() == mx.Device(mx.gpu):
        return str(mx.device_info().get("device_name", "GPU"))
    return f"CPU ({platform.machine()}), {os.cpu_count()} cores"


def memory() -> Memory:
    return Memory(mx.get_peak_memory(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
