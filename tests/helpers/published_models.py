"""What a recipe names on the hub or in the user's own folders, made small: the overrides that let it run here.

A model id stands for a random model of its family in the published layout (`tests.helpers.models`), a data set's id or folder for
a few made-up rows in the published layout (`tests.helpers.published`). What the repository bundles is used as it is. Names that
stand for nothing here are a LookupError: a new recipe needs a new line, or its run is never tried.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune.families import FAMILIES
from mlxtune.recipe import ModelSpec, Recipe
from mlxtune.recipe.spec import RowsSpec
from tests.helpers import models, published
from tests.helpers.families import FIXTURES

ROOT = models.ROOT
BUNDLED = tuple(str(ROOT / name) for name in ("models/tiny-charts", "data/charts", "data/characters"))
_COPIED = ("path", "image_folder", "names")  # the keys of a data set that hold local paths


class Place(NamedTuple):
    """make(folder): writes a data set. parts: the recipe's key to where it lies in that folder ("": the folder itself)."""

    make: Callable[[Path], Any]
    parts: Mapping[str, str] = {"path": ""}


DATA: dict[str, Place] = {
    "HuggingFaceM4/ChartQA": Place(published.chartqa_hub),
    "krowiemlekommm/PJN_CHARTS": Place(published.pjn_charts),
    "deepvk/LLaVA-Instruct-ru": Place(published.llava_instruct_ru, {"path": "hub", "image_folder": "coco"}),
    "deepvk/GQA-ru": Place(published.gqa_ru),
    "deepvk/MMBench-ru": Place(published.mmbench_ru),
    str(ROOT / "data/ChartLlama-Dataset"): Place(published.chartllama, {"path": "", "image_folder": "ours.zip"}),
    str(ROOT / "data/annotations.jsonl"): Place(
        published.characters, {"path": "annotations.jsonl", "names": "character_names.json"}
    ),
}


class Published:
    """Models and data sets below `folder`, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}

    def overrides(self, recipe: Recipe) -> list[str]:
        """`--set` values that put local folders in the place of everything that `recipe` would fetch or expects from its user."""
        found = [] if _bundled(recipe.model.path) else [f"model.path={self.model(recipe.model)}"]
        for key, spec in row_specs(recipe):
            found += [f"{key}.{name}={value}" for name, value in self.rows(spec).items()]
        if recipe.data.mix:  # a list is replaced as a whole
            mixed = [spec.model_dump(exclude_defaults=True) | self.rows(spec) for spec in recipe.data.mix]
            found.append(f"data.mix={json.dumps(mixed)}")
        return found

    def model(self, spec: ModelSpec) -> Path:
        family = family_of_id(spec.path, revision=spec.revision)
        return self._once(f"model-{family}", lambda folder: build_published(family, folder))

    def rows(self, spec: RowsSpec) -> dict[str, str]:
        """The keys of `spec` that hold places, with local ones."""
        if _bundled(spec.path):
            return {}
        if spec.path not in DATA:
            raise LookupError(f"tests/helpers/published_models.py: no rows for '{spec.path}'; add a line to DATA")
        place = DATA[spec.path]
        unmapped = {key for key in _COPIED if getattr(spec, key) is not None} - set(place.parts)
        if unmapped:
            raise LookupError(f"tests/helpers/published_models.py: no {sorted(unmapped)} for '{spec.path}'; add it to DATA")
        folder = self._once(f"data-{Path(spec.path).name}", place.make)
        # Only what the recipe names: one that forgets its pictures must fail here as it would for its user.
        return {key: str(folder / part) for key, part in place.parts.items() if getattr(spec, key) is not None}

    def _once(self, name: str, make: Callable[[Path], Any]) -> Path:
        if name not in self._made:
            self._made[name] = self._folder / name
            make(self._made[name])
        return self._made[name]


def build_published(family: str, folder: Path, *, assets: Path | None = None) -> Path:
    """`models.build` in the layout of the hub, for families too that never tie their output head to the embedding."""
    layouts = FIXTURES[family].layouts
    tied, nested = next((layout for layout in layouts if not layout[1]), layouts[0])
    return models.build(family, folder, tied=tied, nested=nested, assets=assets)


def row_specs(recipe: Recipe) -> Iterator[tuple[str, RowsSpec]]:
    """(key, section) of all data sets that stand under a key of their own; those of `data.mix` do not."""
    yield "data", recipe.data
    yield from ((f"evaluate.sets.{name}", spec) for name, spec in recipe.evaluate.sets.items())


def family_of_id(path: str, *, revision: str | None) -> str:
    """The family of a published model, from the registry. Of two that share an id, the older (`_phi`) for revisions of 2024."""
    families = [name for name, family in FAMILIES.items() if path in {model.id for model in family.known_models}]
    if not families:
        raise LookupError(f"no family of mlxtune.families knows the model '{path}'; add it to its known_models")
    older = (revision or "").startswith("2024-")
    return next((name for name in families if name.endswith("_phi") == older), families[0])


def _bundled(path: str) -> bool:
    return path.startswith(BUNDLED)
