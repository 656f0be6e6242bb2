"""A fast matrix product for MLX on Linux.

MLX's Linux wheel brings the reference BLAS, which multiplies float32 matrices some thirty times slower than OpenBLAS
does. A library whose symbols are global before libmlx.so is loaded takes its place.
"""

from __future__ import annotations

import ctypes
import sys

_LIBRARY = "libopenblas.so.0"  # Debian and Ubuntu: libopenblas0-pthread


def prefer_openblas() -> None:
    """Loads OpenBLAS where it is installed; elsewhere than on Linux there is no need."""
    if sys.platform.startswith("linux") and _installed():
        ctypes.CDLL(_LIBRARY, mode=ctypes.RTLD_GLOBAL)


def notes() -> tuple[str, ...]:
    """What a user should know about the speed of MLX on this machine."""
    if not sys.platform.startswith("linux") or _installed():
        return ()
    return ("MLX multiplies with its slow built-in BLAS here; `apt-get install libopenblas0-pthread` makes it many times faster",)


def _installed() -> bool:
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True
