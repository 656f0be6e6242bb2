"""Examples as bytes. Open handles stay in memory, once each; what is written refers to them by number."""

from __future__ import annotations

import io
import pickle
from operator import attrgetter
from pathlib import Path
from typing import Any

from mlxtune.data.held import Held
from mlxtune.images import ImageRef
from mlxtune.types import Example

_FIELDS = tuple(name for name in Example.__dataclass_fields__ if name != "images")
_fields = attrgetter(*_FIELDS)


class Handles:
    """Open handles by number."""

    def __init__(self) -> None:
        self._held: list[Held] = []
        self._numbers: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, number: int) -> Held:
        return self._held[number]

    def number(self, handle: Held) -> int:
        found = self._numbers.setdefault(id(handle), len(self._held))
        if found == len(self._held):
            self._held.append(handle)
        return found


def pack(example: Example, handles: Handles) -> bytes:
    """Four times as fast as a pickle that asks for a handle at every word: only what reads pictures may hold one."""
    states = [{name: value for name, value in image.__dict__.items() if name != "source"} for image in example.images]
    paths = [str(image.source) if isinstance(image.source, Path) else None for image in example.images]
    others = [image.source for image in example.images if not isinstance(image.source, Path)]
    packed = _pack_with_handles(others, handles) if others else b""
    return pickle.dumps((_fields(example), states, paths, packed), protocol=pickle.HIGHEST_PROTOCOL)


def unpack(content: bytes, handles: Handles) -> Example:
    fields, states, paths, packed = pickle.loads(content)
    others = iter(_Reader(io.BytesIO(packed), handles).load() if packed else ())
    sources = [next(others) if path is None else Path(path) for path in paths]
    images = tuple(map(_image, states, sources))
    return Example(**dict(zip(_FIELDS, fields, strict=True)), images=images)


def _image(state: dict[str, Any], source: Any) -> ImageRef:
    image = ImageRef(source, key=state["key"])
    image.__dict__.update(state)  # with what it has already seen of its picture
    return image


def _pack_with_handles(values: list[Any], handles: Handles) -> bytes:
    stream = io.BytesIO()
    _Writer(stream, handles).dump(values)
    return stream.getvalue()


class _Writer(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, handles: Handles) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._handles = handles

    def persistent_id(self, value: Any) -> int | None:
        return self._handles.number(value) if isinstance(value, Held) else None


class _Reader(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, handles: Handles) -> None:
        super().__init__(stream)
        self._handles = handles

    def persistent_load(self, number: int) -> Held:
        return self._handles[number]
