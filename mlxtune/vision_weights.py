"""What decides the features of pictures besides the picture: the vision tower's weights and the settings around it."""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

from mlxtune.errors import ModelError
from mlxtune.families import Family, Processor

_FORM = 1  # goes up when the code that computes features changes what they are


def features_name(folder: Path, processor: Processor, *, backend: str, precision: str) -> str:
    """A short name for everything that decides features: no two models, settings or backends share one.

    Hashes the bytes of every weight outside the text model's layers, about a second a gigabyte. Errors: ModelError.
    """
    settings = [
        _FORM,
        backend,
        precision,
        processor.settings,
        processor.min_pixels,
        processor.max_pixels,
        processor.config.vision,
    ]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for file in sorted(folder.glob("*.safetensors")):
        for name, content in _vision_tensors(file, processor.family):
            digest.update(name.encode())
            digest.update(content)
    return f"{processor.family.name}-{digest.hexdigest()[:24]}"


def _vision_tensors(file: Path, family: Family) -> Iterator[tuple[str, memoryview]]:
    """Source of the layout: the safetensors format, an 8-byte length, a JSON header, then the tensors' bytes."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        length = int.from_bytes(content[:8], "little")
        try:
            header = json.loads(content[8 : 8 + length])
        except ValueError as error:
            raise ModelError(f"{file}: cannot be read ({error}). Download the file again") from error
        with memoryview(content) as whole:
            for name in sorted(header.keys() - {"__metadata__"}):
                canonical = family.canonical(name)
                if re.fullmatch(family.layer, canonical) or "lm_head" in canonical or "embed_tokens" in canonical:
                    continue
                start, end = header[name]["data_offsets"]
                with whole[8 + length + start : 8 + length + end] as part:
                    yield f"{name} {header[name]['dtype']} {header[name]['shape']}", part
