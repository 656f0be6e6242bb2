"""Memory that arrays leave behind is used again, instead of being given back to Linux and asked for anew at every operation."""

from __future__ import annotations

import ctypes
import sys

# Numbers of mallopt(3); 32 MiB is the largest threshold that glibc takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST, _KEPT = 32 << 20, 1 << 30


def keep_freed_memory() -> None:
    """On a CPU the pages of a fresh array cost about as much as filling it. Does nothing where malloc is not glibc's."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _KEPT)
