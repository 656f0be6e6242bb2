"""Small models with random weights, in the layout in which the hub publishes their family."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.families import FIXTURES
from tests.helpers.families.base import ASSETS, ROOT, TEXT_FILES, copy

__all__ = ["ASSETS", "ROOT", "build"]


def build(
    family: str, folder: Path, *, seed: int = 0, tied: bool = True, nested: bool = False, assets: Path | None = None
) -> Path:
    """Writes a random float32 model of `family` to `folder` and gives `folder`.

    nested: the config as transformers 5 saves it, and tensors named by module path. assets: a folder whose tokenizer, template
    and processor files are taken over; the sizes of the layers stay small, those of the pictures are as published.
    """
    assert family in FIXTURES, f"tests/helpers/families has no fixture for the family '{family}': add one"
    folder.mkdir(parents=True, exist_ok=True)
    if assets is not None:
        copy(assets, folder, *TEXT_FILES)
    FIXTURES[family].build(folder, seed=seed, tied=tied, nested=nested, assets=assets)
    return folder
