"""A fast matrix product for MLX on Linux.

MLX's Linux wheel brings the reference BLAS, which multiplies float32 matrices some thirty times slower than OpenBLAS
does. A library whose symbols are global before libmlx.so is loaded takes its place: the system's, or else numpy's.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from mlxtune.cpu import CPUINFO, INTEL, processor
from mlxtune.numpy_blas import Library, numpys_openblas

_LIBRARY = "libopenblas.so.0"  # Debian and Ubuntu: libopenblas0-pthread


def prefer_openblas() -> bool:
    """Loads OpenBLAS where there is one, and says whether there is; elsewhere than on Linux there is no need."""
    return _openblas() is not None


@cache
def _openblas() -> Library | None:
    if not sys.platform.startswith("linux"):
        return None
    # A processor that is newer than the library gets the code of 2004 from it: 13 GFLOP/s a core instead of 90.
    if (core := _core_type()) is not None:
        os.environ.setdefault("OPENBLAS_CORETYPE", core)
    # Between two products its threads wait awake, 2 ** 26 cycles where nobody says otherwise: they would never leave the cores
    # that Python needs to hand on the next operations.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "18")
    try:
        library = ctypes.CDLL(_LIBRARY, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return numpys_openblas()
    return Library(library.openblas_get_num_threads, library.openblas_set_num_threads)


def threads() -> int:
    """How many compute a product together; 1 where OpenBLAS does not."""
    library = _openblas()
    return library.threads() if library else 1


@contextmanager
def single_threaded() -> Iterator[None]:
    """Inside, one thread computes a product. Holds for the whole process; nothing may be computing at its beginning or end."""
    library, before = _openblas(), threads()
    if library is None:
        yield
        return
    library.set_threads(1)
    try:
        yield
    finally:
        library.set_threads(before)


def _core_type(cpuinfo: Path = CPUINFO) -> str | None:
    """OpenBLAS's name for the instructions of an Intel processor; None where its own guess is the better one."""
    told = processor(cpuinfo)
    flags = set(told.get("flags", "").split())
    if told.get("vendor_id") != INTEL:
        return None
    if {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= flags else None


def notes() -> tuple[str, ...]:
    """What a user should know about the speed of MLX on this machine."""
    if not sys.platform.startswith("linux") or prefer_openblas():
        return ()
    return ("MLX multiplies with its slow built-in BLAS here; `apt-get install libopenblas0-pthread`, or g++, makes it faster",)
