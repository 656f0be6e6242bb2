"""A model folder's `config.json` in one shape, whichever of the two published layouts it has.

The hub's files keep the text model's keys at the top level and the rotary settings in `rope_theta` / `rope_scaling`;
transformers 5 saves them under `text_config` with `rope_parameters`. Readers see `text` and `vision` either way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.errors import ModelError


@dataclass(frozen=True)
class ModelConfig:
    """folder: where it was read. top: the file as it stands. text, vision: the two parts with their keys at one level."""

    folder: Path
    model_type: str
    top: dict[str, Any]
    text: dict[str, Any]
    vision: dict[str, Any]

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding matrix."""
        return bool(self.top.get("tie_word_embeddings", self.text.get("tie_word_embeddings", False)))


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A JSON object of a model folder; {} for a missing optional file, else ModelError."""
    if optional and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path}: no such file; a model folder needs it. Check model.path, or download the model again"
        ) from error
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error}). Download the file again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds no JSON object but a {type(value).__name__}. Download the file again")
    return value


def read_config(folder: Path) -> ModelConfig:
    """Errors: ModelError where the file is missing, is no JSON, or names no `model_type`."""
    top = read_json(folder / "config.json")
    if not isinstance(top.get("model_type"), str):
        raise ModelError(f"{folder}/config.json: names no 'model_type', so it is no model that can be loaded. Check model.path")
    # Flat layout: the text model's keys lie beside `vision_config`.
    text = dict(top.get("text_config") or {key: value for key, value in top.items() if key != "vision_config"})
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    text["rope_theta"] = rope.get("rope_theta", text.get("rope_theta", 10_000.0))
    text["mrope_section"] = rope.get("mrope_section")
    return ModelConfig(
        folder=folder, model_type=top["model_type"], top=top, text=text, vision=dict(top.get("vision_config") or {})
    )


def check_swiglu(config: ModelConfig) -> None:
    """ModelError unless the text model's MLPs are SwiGLU, as the forwards of Llama-like models take for granted."""
    activation = config.text.get("hidden_act", "silu")
    if activation != "silu":
        raise ModelError(
            f"{config.folder}/config.json: the text model's hidden_act is '{activation}', but only 'silu' is supported. "
            "Restore the published file"
        )
