"""Which device MLX uses, and how much memory there is."""

from __future__ import annotations

import os
import platform
from contextlib import suppress

import mlx.core as mx

from mlxtune.types import Memory

_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


def pick_dtype(precision: str) -> mx.Dtype:
    if precision == "auto":
        return mx.bfloat16 if mx.default_device() == mx.Device(mx.gpu) else mx.float32
    return _DTYPES[precision]


def give_way() -> None:
    """For the thread that hands operations to MLX's CPU. It is woken for each, and Linux would put it in the place of the thread
    that computes every time; so it is told that this one is in no hurry."""
    if mx.default_device().type == mx.DeviceType.cpu and hasattr(os, "SCHED_BATCH"):
        mx.eval(mx.zeros(1) + 1)  # the thread that computes is there from now on; made later, it would be in no hurry either
        with suppress(OSError):  # some containers allow nobody to change this
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def describe() -> str:
    if mx.default_device() == mx.Device(mx.gpu):
        return str(mx.device_info().get("device_name", "GPU"))
    return f"CPU ({platform.machine()}), {os.cpu_count()} cores"


def memory() -> Memory:
    return Memory(mx.get_peak_memory(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
