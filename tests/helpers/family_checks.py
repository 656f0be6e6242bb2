"""What tests of several families ask of a processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlxtune.families import Processor
from mlxtune.images import ImageRef
from mlxtune.types import Example
from tests.helpers.families import FIXTURES
from tests.helpers.families.base import ASSETS


def asset(name: str) -> Path:
    if not (ASSETS / name).is_dir():
        pytest.skip(f"the published files of {name} are not at {ASSETS}")
    return ASSETS / name


def assert_same_pixels(processor: Processor, image: ImageRef) -> None:
    """Bit for bit what the published image processor makes of the picture."""
    ours = processor.pixels(image)
    values, grid = FIXTURES[processor.family.name].reference_pixels(processor, image)
    assert ours.grid == grid
    assert ours.values.dtype == np.float32 and ours.values.shape == values.shape
    assert ours.values.tobytes() == np.ascontiguousarray(values).tobytes()


def rendered_by_transformers(processor: Processor, row: Example) -> str:
    return processor.tokenizer.apply_chat_template(
        list(row.messages), chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
