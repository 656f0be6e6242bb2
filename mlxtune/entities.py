"""Entities: what the things in the folders of pictures are called. Read from one small JSON file that a person writes.

``{"baba_yaga": "Baba Yaga", "koschei": {"name": "Кощей", "aliases": ["Кощей Бессмертный"], "cases": ["Кощея", "Кощею"]}}``
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.errors import DataError

_PARTS = ("name", "aliases", "cases")
_FORM = 'Write {"folder": "name"} or {"folder": {"name": "…", "aliases": ["…"], "cases": ["…"]}}'


@dataclass(frozen=True)
class Entity:
    """key: the folder, or the value of a row's class column. name: what it is called. aliases: other names.
    cases: grammatical forms of name and aliases, for languages that have them."""

    key: str
    name: str
    aliases: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()

    @property
    def all_names(self) -> tuple[str, ...]:
        """Name, aliases and cases in this order, each once (upper and lower case are the same)."""
        seen: dict[str, str] = {}
        for name in (self.name, *self.aliases, *self.cases):
            seen.setdefault(name.casefold(), name)
        return tuple(seen.values())


def read_entities(path: Path | str) -> dict[str, Entity]:
    """The entities of a JSON file by key, in its order. Raises DataError that names the file and the entry."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        content = json.loads(text, object_pairs_hook=_once)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. {_FORM}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Give a JSON file of names") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file of names ({' '.join(str(error).split())}). {_FORM}") from error
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: holds no names. {_FORM}")
    return {(entity := _entity(key, value, path=path)).key: entity for key, value in content.items()}


def find_entity(entities: Mapping[str, Entity], key: str) -> Entity | None:
    """The entity of a folder's name; accents may be written as one character or as two, as file systems like."""
    return entities.get(unicodedata.normalize("NFC", key.strip()))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [unicodedata.normalize("NFC", key.strip()) for key, _ in pairs]
    if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
        raise ValueError(f"{twice!r} stands there twice")
    return dict(zip(keys, (value for _, value in pairs), strict=True))


def _entity(key: str, value: Any, *, path: Path | str) -> Entity:
    parts = value if isinstance(value, dict) else {"name": value}
    if unknown := [part for part in parts if part not in _PARTS]:
        raise DataError(f"{path}: {key!r} has an unknown part {unknown[0]!r}; known are {', '.join(_PARTS)}. {_FORM}")
    if "name" not in parts:
        raise DataError(f"{path}: {key!r} has no 'name'. {_FORM}")
    names = {part: _names(parts.get(part), key=key, part=part, path=path) for part in _PARTS}
    if not key or len(names["name"]) != 1:
        raise DataError(f"{path}: {key!r} must have a key and one name. {_FORM}")
    return Entity(key, names["name"][0], names["aliases"], names["cases"])


def _names(value: Any, *, key: str, part: str, path: Path | str) -> tuple[str, ...]:
    names = value if isinstance(value, list) and part != "name" else [] if value is None else [value]
    for name in names:
        if not isinstance(name, str) or not name.strip() or not _encodes(name):
            raise DataError(f"{path}: {part} of {key!r} is {json.dumps(name)[:60]}, not text. {_FORM}")
    return tuple(dict.fromkeys(unicodedata.normalize("NFC", name.strip()) for name in names))


def _encodes(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)
