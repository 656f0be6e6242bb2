"""The machine: what it is, how busy, and how fast it multiplies matrices."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

_PACKAGES = ("mlx", "mlx-vlm", "unsloth_zoo", "torch", "transformers", "peft", "trl", "accelerate", "numpy")


def prefer_openblas() -> bool:
    """MLX's Linux wheel has the slow reference BLAS; every MLX side gets OpenBLAS as ours does, where there is one."""
    from mlxtune import blas

    return blas.prefer_openblas()


def describe() -> dict[str, Any]:
    # Here, since the process of every side imports this module: what ours imports must cost the others nothing.
    from mlxtune.prepare import versions_of

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
        "mlx_blas": ("OpenBLAS" if prefer_openblas() else "the wheel's own")
        if sys.platform.startswith("linux")
        else "Accelerate",
        "versions": versions_of(_PACKAGES),
        "load": load(),
    }


def load() -> float:
    """Processes that want a core, mean of the last minute."""
    return round(os.getloadavg()[0], 2)


def _cpu() -> str:
    if sys.platform == "darwin":
        return subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True).stdout.strip()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def gemm_rate(framework: str, *, seconds: float = 2.0, precision: str = "float32", device: str = "cpu") -> float:
    """FLOP/s of the matrix product, the best of the shapes that a 50-million-parameter model (on CUDA: a true one) has, by its
    fastest call: the machine's limit is asked for, not what it does while it is busy with something else."""
    size = (8192, 4096, 4096) if device == "cuda" else (1024, 512, 1408)
    shapes, best = [size, (size[0], size[2], size[1]), (2048, 2048, 2048)], 0.0
    for shape in shapes:
        ways = products(framework, shape, precision=precision, device=device)
        for product in ways:
            end = time.perf_counter() + seconds / len(shapes) / len(ways)
            while time.perf_counter() < end:
                best = max(best, product())
    return best


def products(
    framework: str, shape: tuple[int, int, int], *, precision: str = "float32", device: str = "cpu"
) -> list[Callable[[], float]]:
    """The framework's ways to multiply [shape[0], shape[1]] with [shape[1], shape[2]]; each multiplies once and gives FLOP/s."""
    ways = {"mlx": _mlx_products, "torch": _torch_products}[framework](shape, precision, device)

    def rate(multiply: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        multiply()
        return 2.0 * math.prod(shape) / (time.perf_counter() - begin)

    for multiply in ways:
        multiply()
    return [partial(rate, multiply) for multiply in ways]


def _mlx_products(shape: tuple[int, int, int], precision: str, device: str) -> list[Callable[[], Any]]:
    import mlx.core as mx

    rows, inner, columns = shape
    left, right = (mx.random.normal(size).astype(getattr(mx, precision)) for size in ((rows, inner), (inner, columns)))
    mx.eval(left, right)
    return [lambda: mx.eval(left @ right)]


def _torch_products(shape: tuple[int, int, int], precision: str, device: str) -> list[Callable[[], Any]]:
    import torch

    rows, inner, columns = shape
    kind = getattr(torch, precision)
    left, right = (torch.randn(size, dtype=kind, device=device) for size in ((rows, inner), (inner, columns)))

    def product() -> None:
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()

    def by_onednn() -> None:
        torch.ops.mkldnn._linear_pointwise(left, right.T, None, "none", [], "")

    # torch's own is MKL's, which is not the processor's limit where another than Intel made it.
    return [product, by_onednn] if device == "cpu" and torch.backends.mkldnn.is_available() else [product]
