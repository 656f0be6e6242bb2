"""Features of pictures on disk: one memory-mapped file a picture, shared by questions, epochs, runs and evaluations.

Files lie below a folder that is named by all that decides their content (weights, settings, backend, precision), so a changed
model reads nothing old. The least recently used files go when the whole store outgrows its limit.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mlxtune.cache import cache_folder

_RECENT_S = 3600.0  # a file read again within this time is not marked anew: marking costs a system call


def default_folder() -> Path:
    """Of the store, in the cache folder."""
    return cache_folder() / "features"


class FeatureFiles:
    """folder: of the whole store. model: the name that all deciding settings give. precision: of the model; it is that of the
    files too, which loses nothing. max_bytes: of the whole store, other models' files included.
    """

    def __init__(self, folder: Path, *, model: str, precision: str, max_bytes: int) -> None:
        self._root, self._folder = folder, folder / model
        self._half = precision == "bfloat16"
        self._dtype = np.dtype(np.float16 if precision == "float16" else np.uint16 if self._half else np.float32)
        self._max_bytes = max_bytes
        self._folder.mkdir(parents=True, exist_ok=True)
        self._bytes = sum(size for _, size, _ in _files(folder))

    def get(self, key: str) -> np.ndarray | None:
        """[tokens, width] float32, or None where there is no (whole) file."""
        stored = self._stored(key)
        if stored is None:
            return None
        return (stored.astype(np.uint32) << 16).view(np.float32) if self._half else stored.astype(np.float32, copy=False)

    def holds(self, key: str) -> bool:
        return self._stored(key) is not None

    def _stored(self, key: str) -> np.ndarray | None:
        """The file, mapped and not read, and marked as used; None where there is none, or another's."""
        path = self._path(key)
        try:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # missing, or cut short by a full disk
            return None
        if stored.dtype != self._dtype or stored.ndim != 2:
            return None
        if time.time() - path.stat().st_mtime > _RECENT_S:
            os.utime(path)
        return stored

    def put(self, key: str, features: np.ndarray) -> None:
        """Keeps [tokens, width] float32; what does not fit even after eviction is not kept."""
        stored = (features.view(np.uint32) >> 16).astype(np.uint16) if self._half else features.astype(self._dtype)
        if self._bytes + stored.nbytes > self._max_bytes:
            self._evict(stored.nbytes)
        if self._bytes + stored.nbytes > self._max_bytes:
            return
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            np.save(file, stored, allow_pickle=False)
        os.replace(file.name, path)
        self._bytes += path.stat().st_size

    def _evict(self, wanted: int) -> None:
        """Removes the least recently used files until a tenth more than wanted is free; files of this hour stay."""
        goal, old = self._max_bytes - max(wanted, self._max_bytes // 10), time.time() - _RECENT_S
        found = sorted(_files(self._root))
        self._bytes = sum(size for _, size, _ in found)
        for used, size, path in found:
            if self._bytes <= goal or used > old:
                return
            path.unlink(missing_ok=True)
            self._bytes -= size

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.npy"


def _files(folder: Path) -> Iterable[tuple[float, int, Path]]:
    """(last use, bytes, path) of each file of the store."""
    for path in folder.rglob("*.npy"):
        try:
            status = path.stat()
        except FileNotFoundError:  # another process has just evicted it
            continue
        yield status.st_mtime, status.st_size, path
