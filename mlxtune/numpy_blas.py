"""numpy's matrix product for MLX. numpy's Linux wheel brings OpenBLAS under names of its own and with sizes of 64 bits, so that
nobody else calls it by mistake; a few lines of C, compiled once, hand the calls of others on to it."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from mlxtune.cache import cache_folder

_BRIDGE = """
#include <cstdint>

using Product = void (*)(int, int, int, int64_t, int64_t, int64_t, float, const float*, int64_t, const float*, int64_t,
                         float, float*, int64_t);
static Product product;

extern "C" void mlxtune_product(Product other) { product = other; }

extern "C" void cblas_sgemm(int order, int transposed_a, int transposed_b, int m, int n, int k, float alpha, const float* a,
                            int lda, const float* b, int ldb, float beta, float* c, int ldc) {
  product(order, transposed_a, transposed_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
"""


class Library(NamedTuple):
    """A BLAS that computes a product with several threads."""

    threads: Callable[[], int]
    set_threads: Callable[[int], Any]


def numpys_openblas() -> Library | None:
    """Puts it behind `cblas_sgemm` of whatever is loaded from now on; None where numpy has no such library, or g++ is missing."""
    import numpy

    compiler = shutil.which("g++")  # which MLX calls too, for what it fuses
    files = sorted((Path(numpy.__file__).parent.parent / "numpy.libs").glob("libscipy_openblas64_*.so"))
    if compiler is None or not files:
        return None
    try:
        theirs = ctypes.CDLL(str(files[0]))
        product = theirs.scipy_cblas_sgemm64_
        library = Library(theirs.scipy_openblas_get_num_threads64_, theirs.scipy_openblas_set_num_threads64_)
        bridge = ctypes.CDLL(str(_bridge(compiler)), mode=ctypes.RTLD_GLOBAL)
    except (AttributeError, OSError, subprocess.CalledProcessError):
        return None
    bridge.mlxtune_product(product)
    return library


def _bridge(compiler: str) -> Path:
    key = hashlib.sha256(f"{platform.machine()}\n{_BRIDGE}".encode()).hexdigest()[:16]
    path = cache_folder() / "blas" / f"{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as folder:
            source, made = Path(folder) / "bridge.cpp", Path(folder) / "bridge.so"
            source.write_text(_BRIDGE, encoding="utf-8")
            subprocess.run([compiler, "-O2", "-fPIC", "-shared", str(source), "-o", str(made)], check=True, capture_output=True)
            made.replace(path)  # two processes may be at it at once
    return path
