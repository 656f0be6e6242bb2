"""Keys and values of the tokens read so far, in one array that is made once."""

from __future__ import annotations

import mlx.core as mx


class KVCache:
    """For one layer. room: tokens it can hold in all."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._length = 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """keys, values: [B, heads, new, dim]. Gives those of all tokens so far, [B, heads, length, dim]."""
        if self._keys is None or self._values is None:
            shape = (*keys.shape[:2], self._room, keys.shape[3])
            self._keys, self._values = mx.zeros(shape, keys.dtype), mx.zeros(shape, values.dtype)
        end = self._length + keys.shape[2]
        assert end <= self._room, "the cache was made for fewer tokens"
        self._keys[:, :, self._length : end] = keys
        self._values[:, :, self._length : end] = values
        self._length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def select(self, rows: mx.array) -> None:
        """Keeps these rows of the batch, in this order; a row may be repeated."""
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[rows], self._values[rows]
