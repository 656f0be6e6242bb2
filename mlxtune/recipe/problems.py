"""Says what is wrong with a recipe, one line a problem, each with the place where the key stands."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from mlxtune.recipe.spec import Recipe, inside, is_section

KeyPath = tuple[str | int, ...]

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (put it in quotes)",
    "string_too_short": "a text of at least one character",
    "list_type": "a list",
    "too_short": "a list of at least one entry",
    "model_type": "a mapping of keys",
    "literal_error": "{expected}",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
}


def unknown_keys(values: Any, *, kind: Any = Recipe, at: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yields (key path, message) for every key of `values` that no section has."""
    if is_section(kind) and isinstance(values, Mapping):
        yield from (((*at, key), _suggest(key, kind)) for key in values if key not in kind.model_fields)
    for key, value in _entries(values):
        if (below := inside(kind, key)) is not None:
            yield from unknown_keys(value, kind=below, at=(*at, key))


def _entries(values: Any) -> Iterable[tuple[Any, Any]]:
    return values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()


def _suggest(key: str, model: type[BaseModel]) -> str:
    near = difflib.get_close_matches(key, model.model_fields, n=1)
    if near:
        return f"unknown key; did you mean '{near[0]}'?"
    elsewhere = [show_path(path) for path in _all_paths(Recipe) if path[-1] == key]
    if elsewhere:
        return "unknown key here; did you mean " + " or ".join(f"'{path}'" for path in elsewhere) + "?"
    return f"unknown key; there are: {', '.join(model.model_fields)}"


def _all_paths(model: type[BaseModel], at: KeyPath = ()) -> Iterator[KeyPath]:
    for key in model.model_fields:
        yield (*at, key)
        if is_section(section := inside(model, key)):
            yield from _all_paths(section, (*at, key))


def wrong_values(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """Yields (key path, message) once per wrong key, however many readings of its type it failed."""
    grouped: dict[KeyPath, list[Any]] = {}
    for detail in error.errors(include_url=False):
        grouped.setdefault(_key_path(detail["loc"]), []).append(detail)
    for path, details in grouped.items():
        yield path, _message(path, details)


def _key_path(loc: tuple[int | str, ...]) -> KeyPath:
    """pydantic appends the names of union members to a location; they are no keys."""
    path: KeyPath = ()
    kind: Any = Recipe
    for part in loc:
        if kind is None or (isinstance(part, str) and not is_section(kind) and inside(kind, part) is None):
            break
        path = (*path, part)
        kind = inside(kind, part)
    return path


def _message(path: KeyPath, details: list[Any]) -> str:
    first = details[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "missing":
        return f"missing ({_description(path)})"
    wanted = " or ".join(dict.fromkeys(_expected(detail) for detail in details))
    return f"{_show(first['input'])} is not {wanted} ({_description(path)})"


def _expected(detail: Mapping[str, Any]) -> str:
    known = _EXPECTED.get(detail["type"])
    return known.format(**detail.get("ctx", {})) if known else detail["msg"]


def _description(path: KeyPath) -> str:
    kind: Any = Recipe
    text = ""
    for part in path:
        if is_section(kind):
            text = kind.model_fields[str(part)].description or ""
        kind = inside(kind, part)
    return text


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def show_path(path: KeyPath) -> str:
    """``train.steps``, ``lora.sites[0]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
