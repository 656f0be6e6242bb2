"""JSON schema of a recipe file, for completion and checks in editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlxtune.recipe.spec import Recipe

_EXTENDS = {
    "title": "Extends",
    "description": "recipes that this one builds on, seen from this file; of several the later wins",
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}}],
}


def recipe_schema() -> dict[str, Any]:
    """The schema of one file. No key is required in it: what a file leaves out, the files it extends may hold."""
    schema = Recipe.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    properties = {"extends": _EXTENDS, **schema.pop("properties")}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "properties": properties}


def write_schema(path: str | Path) -> None:
    """Writes the schema to `path`; the copy of the repository is recipes/schema.json."""
    Path(path).write_text(json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
