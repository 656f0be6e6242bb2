"""Small data sets on disk, and what loading them gives."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from mlxtune.data import Data, load_data
from mlxtune.errors import DataError
from mlxtune.recipe.spec import DataSpec

NAMES = {"train": "train", "validation": None, "test": None}


def spec(path, **given) -> DataSpec:
    """Only the training split by its name, unless told otherwise."""
    return DataSpec.model_validate({"task": "qa", "path": str(path), "splits": NAMES} | given)


def png(shade: int = 0, size: tuple[int, int] = (6, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, shade).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int, *, start: int = 0, **more) -> list[dict]:
    return [{"question": f"q{n}", "answer": f"a{n}", **more} for n in range(start, start + count)]


def write(folder: Path, items: list[dict], name: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def pictured(folder: Path, *, pictures: int = 20, each: int = 3) -> list[dict]:
    """Rows of which each picture has several, far apart."""
    folder.mkdir(exist_ok=True)
    for number in range(pictures):
        (folder / f"{number}.png").write_bytes(png(number))
    return [{"question": f"q{n}", "answer": "a", "image": f"{n % pictures}.png"} for n in range(pictures * each)]


def questions(data: Data) -> dict[str, list[str]]:
    return {name: [example.question for example in examples] for name, examples in data.splits.items()}


def refusal(recipe, **given) -> str:
    with pytest.raises(DataError) as error:
        load_data(recipe, **given)
    assert "\n" not in str(error.value)
    return str(error.value)
