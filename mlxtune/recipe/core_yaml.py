"""YAML as people expect it: the core schema of YAML 1.2 (chapter 10.3) on PyYAML's parser, which by itself speaks YAML 1.1.

In 1.1 `1e-4` is text, `off` is false, `010` is 8, `2024-08-26` is a date, and the second of two equal keys wins unseen.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from mlxtune.errors import RecipeError

_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
_RESOLVERS = [
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not read here; use extends", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a list or mapping cannot be a key", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' stands here twice", key.start_mark)
            seen.add(key.value)
            key.tag = "tag:yaml.org,2002:str"  # a key is text, even one that reads like a number
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either version of YAML would take for something else than text."""


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str | bytes, *, where: str) -> Any:
    """The value of one YAML document. Raises RecipeError as ``where:line:column: problem``."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise RecipeError(f"{place}: {_explain(error)}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not a text in UTF-8 ({' '.join(str(error).split())}). Save it as UTF-8") from error
    except (ValueError, KeyError) as error:
        raise RecipeError(
            f"{where}: a value does not fit its '!!' tag or is too long a number ({error}). Remove the tag"
        ) from error


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "not YAML"
    if "'\\t'" in problem:
        return f"{problem}. Indent with spaces, not with tabs"
    if "mapping values are not allowed" in problem:
        return f"{problem}. Look at the indentation, or put a text with ': ' in quotes"
    return problem


def write_yaml(value: Any) -> str:
    """`value` as YAML in block style, keys in their order; what it says is the same to readers of YAML 1.1 and 1.2."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
