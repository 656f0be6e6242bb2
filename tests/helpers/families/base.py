"""What the tests must know of a family, and the tools to build a small random model of it.

Weights are drawn large enough for logits that differ, and no bias and no norm has the value it starts with: what a forward
leaves out must show.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.families import Processor
from mlxtune.images import ImageRef
from mlxtune.types import Pixels

ROOT = Path(__file__).resolve().parents[3]
ASSETS = ROOT.parent / "shared" / "assets"
TINY = ROOT / "models" / "tiny-charts"
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.json")
TEXT_FILES += ("special_tokens_map.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
TEXT_FILES += ("chat_template.jinja",)  # newer repositories keep the template in a file of its own
SMALL_TEXT: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
SMALL_TEXT |= {"max_position_embeddings": 4096, "rms_norm_eps": 1e-6}


@dataclass(frozen=True)
class Fixture:
    """build(folder, *, seed, tied, nested, assets): a random model in the published layout; `assets` see tests.helpers.models.

    write_files(folder): a model folder without weights, made without a framework. assets: folders of real tokenizers and
    settings in shared/assets. reference_pixels(processor, image): (values, grid) of the published image processor.
    forward_pictures(processor, ids [B, S], pixels of each row): arguments of the independent model's forward. width: of features.
    ends: the token that ends a trained answer, by asset folder.
    older_name: what PEFT with transformers 4 called the layer that has this name in an adapter's file.
    names: what this family calls the layers that the contract tests name as Llama-like models do; see `named`.
    load, logits, answer: of the independent implementation, where it is not transformers; see tests.helpers.oracle.
    """

    build: Callable[..., None]
    write_files: Callable[[Path], None]
    assets: tuple[str, ...]
    ends: dict[str, str]
    reference_pixels: Callable[[Processor, ImageRef], tuple[np.ndarray, tuple[int, ...]]]
    forward_pictures: Callable[[Processor, np.ndarray, list[list[Pixels]]], dict[str, Any]] | None = None
    width: int = 64
    layouts: tuple[tuple[bool, bool], ...] = ((True, True), (True, False), (False, True), (False, False))  # tied, nested
    older_name: Callable[[str], str] = lambda name: name.replace(".language_model.", ".")
    names: Mapping[str, str] = field(default_factory=dict)
    load: Callable[[Path], Any] | None = None
    logits: Callable[..., np.ndarray] | None = None
    answer: Callable[..., tuple[int, ...]] | None = None

    def named(self, name: str) -> str:
        return self.names.get(name, name)


def random_weights(model: Any, *, seed: int) -> None:
    """Matrices N(0, 1.2 / fan-in), embeddings and biases N(0, 0.1), norms about 1."""
    import torch

    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name or "ln_q" in name:
            parameter.data.uniform_(0.7, 1.3)
        elif parameter.ndim > 1 and "embed_tokens" not in name and "position_embedding" not in name:
            parameter.data.normal_(0.0, (1.2 / parameter[0].numel()) ** 0.5)
        else:
            parameter.data.normal_(0.0, 0.3 if parameter.ndim > 1 else 0.1)


def save(model: Any, folder: Path, *, seed: int) -> None:
    random_weights(model, seed=seed)
    # The generation settings come from the tokenizer's folder; transformers would write its own guess over them.
    kept = folder / "generation_config.json"
    text = kept.read_text(encoding="utf-8")
    model.save_pretrained(folder)
    kept.write_text(text, encoding="utf-8")


def rename(folder: Path, prefixes: tuple[tuple[str, str], ...]) -> None:
    """transformers saves the hub's names; this gives tensors their modules' names instead. The first fitting prefix counts."""
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    renamed = {}
    for name, value in load_file(path).items():
        old, new = next(((old, new) for old, new in prefixes if name.startswith(old)), ("", ""))
        renamed[new + name.removeprefix(old)] = value
    save_file(renamed, path, metadata={"format": "pt"})


def copy(source: Path, folder: Path, *names: str) -> None:
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def patch(path: Path, **values: Any) -> None:
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
