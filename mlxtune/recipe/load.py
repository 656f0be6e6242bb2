"""Reads recipes: `extends`, `--set`, relative paths, and every problem at once, each with the place where its key stands."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mlxtune.errors import RecipeError
from mlxtune.recipe.core_yaml import parse_yaml, write_yaml
from mlxtune.recipe.problems import KeyPath, show_path, unknown_keys, wrong_values
from mlxtune.recipe.spec import Recipe, inside, is_path, is_section

_SET = "--set"
_SUFFIXES = {".yaml", ".yml"}


@dataclass(frozen=True)
class _Layer:
    """source: the file, as the user would write it, or ``--set``. values: what it sets."""

    source: str
    values: dict[str, Any]


def load_recipe(path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Reads the YAML file at `path`, the files it extends, and `overrides` of the form ``train.steps=100`` (values are YAML).

    Later entries win: the list of `extends` in its order, then the file itself, then the overrides. Mappings are merged,
    lists replaced. Paths (`model.path`, `data.path`, `data.image_folder`, `out`, …) become absolute where they begin with
    ``./``, ``../`` (seen from the file they stand in, from the current folder in an override) or ``~/``; others stay.
    Raises RecipeError with one line per problem.
    """
    source = str(path)
    problems: list[str] = []
    layers = _read_layers(source, chain=(), problems=problems)
    if problems:
        # Without all files, keys would be called missing that are not.
        problems += [problem for _, problem in map(_read_override, overrides) if problem]
        raise RecipeError("\n".join(problems))
    for override in overrides:
        values, problem = _read_override(override)
        problems += [problem] if problem else []
        layers.append(_Layer(_SET, values))
    return _build(layers, top=source, problems=problems)


def dump_recipe(recipe: Recipe) -> str:
    """`recipe` as YAML with every default written out; load_recipe reads an equal recipe from it, in whatever folder it lies."""
    return write_yaml(recipe.model_dump())


def recipe_name(path: str | Path) -> str:
    """``recipes/qwen2.5-vl-3b-chartqa.yaml`` -> ``qwen2.5-vl-3b-chartqa``; dots of the name stay."""
    path = Path(path)
    return path.stem if path.suffix in _SUFFIXES else path.name


def _read_layers(source: str, *, chain: tuple[str, ...], problems: list[str]) -> list[_Layer]:
    """The layers of a file and of all that it extends, the strongest last. `chain`: the files that led here."""
    try:
        values = _read_file(source)
    except RecipeError as error:
        problems.append(str(error))
        return []
    bases = values.pop("extends", None)
    bases = [] if bases is None else [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) and base for base in bases):
        problems.append(f"{source}: extends: must be one path or a list of paths, seen from this file")
        return []
    chain = (*chain, source)
    layers: list[_Layer] = []
    for base in bases:
        target = os.path.normpath(os.path.join(os.path.dirname(source), os.path.expanduser(base)))
        if any(os.path.realpath(target) == os.path.realpath(seen) for seen in chain):
            problems.append(f"{source}: extends: a circle: {' -> '.join((*chain, target))}. Remove one of the links")
        elif not os.path.isfile(target):
            problems.append(f"{source}: extends: '{base}' {_absence(target)}")
        else:
            layers += _read_layers(target, chain=chain, problems=problems)
    return [*layers, _Layer(source, _with_paths(values, folder=os.path.dirname(source)))]


def _read_file(source: str) -> dict[str, Any]:
    if not os.path.isfile(source):
        raise RecipeError(f"{source} {_absence(source)}")
    try:
        text = Path(source).read_bytes()
    except OSError as error:
        raise RecipeError(f"{source}: cannot be read ({error.strerror}). Mend the file's rights") from error
    values = parse_yaml(text, where=source)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{source}: not a mapping of keys. Begin with 'model:' and 'data:', see recipes/")
    return values


def _absence(source: str) -> str:
    """Why `source` is no file, with near names from its own folder and from recipes/."""
    if os.path.isdir(source):
        return "is a folder, not a recipe. Name a .yaml file in it"
    beside = sorted(Path(os.path.dirname(source)).glob("*.y*ml"))
    files = dict.fromkeys(str(path) for path in (*beside, *sorted(Path("recipes").rglob("*.y*ml"))))
    near = difflib.get_close_matches(recipe_name(source), {recipe_name(path) for path in files}, n=3, cutoff=0.5)
    names = [path for name in near for path in files if recipe_name(path) == name]
    return (
        f"does not exist. Did you mean {' or '.join(names)}?" if names else "does not exist. Look at the path, or into recipes/"
    )


def _read_override(override: str) -> tuple[dict[str, Any], str | None]:
    """(values, problem) of ``a.b=value``."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        return {}, f"{_SET}: '{override}' is not of the form key.key=value, for example train.steps=100"
    if parts == ["extends"]:
        return {}, f"{_SET}: extends: stands only in files. Name another recipe, or set its keys one by one"
    if not text.strip():
        return {}, f"{_SET}: {key}: no value. Write {key}=null to switch it off, or {key}=\"''\" for an empty text"
    try:
        values = parse_yaml(text, where=f"{_SET}: {key}")
    except RecipeError as error:
        return {}, str(error)
    for part in reversed(parts):
        values = {part: values}
    return _with_paths(values, folder=""), None


def _with_paths(values: Any, *, folder: str, kind: Any = Recipe) -> Any:
    """`values` with all paths made absolute that are written relative to `folder` or to the home folder."""
    if isinstance(values, list):
        return [_with_paths(value, folder=folder, kind=inside(kind, number)) for number, value in enumerate(values)]
    if not isinstance(values, dict):
        return values
    return {
        key: _absolute(value, folder) if is_path(kind, key) else _with_paths(value, folder=folder, kind=inside(kind, key))
        for key, value in values.items()
    }


def _absolute(value: Any, folder: str) -> Any:
    if isinstance(value, str) and (value in (".", "..") or value.startswith(("./", "../", "~/"))):
        return os.path.abspath(os.path.join(folder, os.path.expanduser(value)))
    return value


def _build(layers: Sequence[_Layer], *, top: str, problems: list[str]) -> Recipe:
    """The recipe of all layers; `problems` are those known before."""
    merged: dict[str, Any] = {key: {} for key in Recipe.model_fields if is_section(inside(Recipe, key))}
    origins: dict[KeyPath, str] = {}
    for layer in layers:
        unknown = dict(unknown_keys(layer.values))
        problems += [f"{layer.source}: {show_path(path)}: {message}" for path, message in unknown.items()]
        merged = _merge(merged, _without(layer.values, set(unknown)))
        origins.update((path, layer.source) for path in _paths(layer.values))
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        for path, message in wrong_values(error):
            problems.append(f"{_origin(path, origins, top)}: {show_path(path)}: {message}")
    if problems:
        raise RecipeError("\n".join(problems))
    return recipe


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _without(values: Any, paths: set[KeyPath], at: KeyPath = ()) -> Any:
    if isinstance(values, list):
        return [_without(value, paths, (*at, number)) for number, value in enumerate(values)]
    if not isinstance(values, dict):
        return values
    return {key: _without(value, paths, (*at, key)) for key, value in values.items() if (*at, key) not in paths}


def _paths(values: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    entries = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in entries:
        yield (*at, key)
        yield from _paths(value, (*at, key))


def _origin(path: KeyPath, origins: Mapping[KeyPath, str], top: str) -> str:
    """Where the key stands; for one that stands nowhere, where its section does."""
    while path and path not in origins:
        path = path[:-1]
    return origins.get(path, top)
