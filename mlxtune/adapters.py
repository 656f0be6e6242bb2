"""LoRA adapters as plain arrays: which layers get one, their first weights, and PEFT's files.

Canonical array names are "<site>.lora_A" [rank, in] and "<site>.lora_B" [out, rank], float32, where <site> is the layer's
module path in transformers 5. Source: Hu et al. 2021 (arXiv 2106.09685); rsLoRA: Kalajdzievski 2023 (arXiv 2312.03732).
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

from mlxtune.errors import AdapterError
from mlxtune.families import Family
from mlxtune.recipe import LoraSpec
from mlxtune.types import Arrays

_PREFIX = "base_model.model."
Shapes = Mapping[str, tuple[int, int]]  # linear layer -> (out, in)


@dataclass(frozen=True)
class Adapter:
    """sites: the adapted layers, sorted. scale: what the update is multiplied with."""

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    sites: tuple[str, ...]
    arrays: Arrays

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def parameters(self) -> int:
        return sum(array.size for array in self.arrays.values())


def select_sites(linears: Shapes, family: Family, spec: LoraSpec) -> tuple[str, ...]:
    """The linear layers that `lora.sites` names by group, by the end of their name, or by a pattern for the whole name."""
    found: set[str] = set()
    for wanted in spec.sites:
        hits = _sites_named(wanted, linears, family)
        if not hits:
            groups = ", ".join(family.sites)
            raise AdapterError(
                f"lora.sites: '{wanted}' names no linear layer of this model. Groups: {groups}; or a layer name such as q_proj"
            )
        found |= hits
    if spec.layers != "all":
        numbers = {site: int(match[1]) for site in linears if (match := re.fullmatch(family.layer, site))}
        first = max(numbers.values()) + 1 - spec.layers
        found = {site for site in found if numbers.get(site, first) >= first}
    return tuple(sorted(found))


def _sites_named(wanted: str, linears: Shapes, family: Family) -> set[str]:
    if wanted in family.sites:
        return {site for site in linears if re.fullmatch(family.sites[wanted], site)}
    by_end = {site for site in linears if site == wanted or site.endswith(f".{wanted}")}
    # The output head has no group: an adapter there would be merged into the embedding of models that tie the two.
    if by_end:
        return {site for site in by_end if family.group_of(site)}
    try:
        return {site for site in linears if re.fullmatch(wanted, site) and family.group_of(site)}
    except re.error as error:
        raise AdapterError(f"lora.sites: '{wanted}' is neither a group, a layer name nor a valid pattern ({error})") from error


def new_adapter(linears: Shapes, family: Family, spec: LoraSpec, *, seed: int) -> Adapter:
    """A from U(-1/sqrt(in), 1/sqrt(in)) (PEFT's Kaiming draw), B zero; each site has its own stream, so sites don't shift it."""
    sites = select_sites(linears, family, spec)
    arrays: Arrays = {}
    for site in sites:
        size_out, size_in = linears[site]
        bound = 1 / math.sqrt(size_in)
        draw = np.random.default_rng([seed, zlib.crc32(site.encode())]).uniform(-bound, bound, (spec.rank, size_in))
        arrays[f"{site}.lora_A"] = draw.astype(np.float32)
        arrays[f"{site}.lora_B"] = np.zeros((size_out, spec.rank), np.float32)
    return Adapter(rank=spec.rank, alpha=spec.alpha, dropout=spec.dropout, rslora=spec.rslora, sites=sites, arrays=arrays)


def save_adapter(folder: Path, adapter: Adapter, arrays: Arrays, *, base: str) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors` as PEFT reads them. base: the model's path or hub id."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "task_type": None,
        "inference_mode": True,
        "bias": "none",
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora,
        "target_modules": list(adapter.sites),
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    named = {f"{_PREFIX}{name}.weight": np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def load_adapter(folder: Path, linears: Shapes, family: Family) -> Adapter:
    """Reads an adapter that mlxtune or PEFT wrote. Errors: AdapterError where it is of another kind or for another model."""
    config = _read_config(folder)
    arrays = {_canonical(name, family): array for name, array in stored_arrays(folder).items()}
    strays = [name for name in arrays if not re.search(r"\.lora_[AB]$", name)]
    if strays or not arrays:
        what = f"holds '{strays[0]}', which is no part of a LoRA layer" if strays else "holds no LoRA layers"
        raise AdapterError(f"{folder}/adapter_model.safetensors: {what}. Merge such an adapter with PEFT first")
    sites = tuple(sorted({name.rpartition(".lora_")[0] for name in arrays}))
    rank = int(config["r"])
    for site in sites:
        _check_site(site, arrays, linears, rank=rank, folder=folder)
    return Adapter(
        rank=rank,
        alpha=float(config["lora_alpha"]),
        dropout=float(config.get("lora_dropout") or 0.0),
        rslora=bool(config.get("use_rslora", False)),
        sites=sites,
        arrays=arrays,
    )


def stored_arrays(folder: Path) -> Arrays:
    """The arrays of `adapter_model.safetensors` as float32, without what PEFT puts around a name. Errors: AdapterError."""
    path = folder / "adapter_model.safetensors"
    try:
        stored = deserialize(path.read_bytes())
    except FileNotFoundError as error:
        raise AdapterError(f"{path.parent}: no {path.name}. Give the folder that holds a PEFT adapter") from error
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path}: cannot be read ({error}). Copy the adapter again") from error
    return {_inner(name): _as_float32(view["data"], view["dtype"], path=path).reshape(view["shape"]) for name, view in stored}


def _inner(name: str) -> str:
    return name.removeprefix(_PREFIX).replace(".default.weight", ".weight").removesuffix(".weight")


def _as_float32(data: bytes, kind: str, *, path: Path) -> np.ndarray:
    # numpy has no bfloat16, which PEFT writes for adapters that were trained in it: it is the upper half of a float32.
    if kind == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if kind not in ("F16", "F32", "F64"):
        raise AdapterError(f"{path}: numbers of type {kind} are no adapter's. Save it as float32")
    return np.frombuffer(data, f"<f{int(kind[1:]) // 8}").astype(np.float32)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AdapterError(
            f"{path}: no such file. Give the folder that holds a PEFT adapter, such as runs/<name>/adapter"
        ) from error
    except ValueError as error:
        raise AdapterError(f"{path}: not valid JSON ({error}). Copy the adapter again") from error
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read ({error.strerror}). Check its permissions") from error
    lacking = [
        key for key in ("r", "lora_alpha") if not isinstance(config, dict) or not isinstance(config.get(key), (int, float))
    ]
    if lacking:
        raise AdapterError(
            f"{path}: '{lacking[0]}' is no number there, so this is no LoRA adapter. Give one that PEFT or mlxtune wrote"
        )
    special = [key for key in ("rank_pattern", "alpha_pattern", "modules_to_save", "use_dora") if config.get(key)]
    if config.get("peft_type") != "LORA" or special or config.get("bias", "none") != "none":
        what = ", ".join(special) or f"peft_type {config.get('peft_type')}, bias {config.get('bias')}"
        raise AdapterError(f"{path}: only plain LoRA adapters can be applied, this one has {what}. Merge it with PEFT first")
    return config


def _canonical(name: str, family: Family) -> str:
    site, _, matrix = name.rpartition(".lora_")
    return f"{family.canonical(site)}.lora_{matrix}"


def _check_site(site: str, arrays: Arrays, linears: Shapes, *, rank: int, folder: Path) -> None:
    if site not in linears:
        raise AdapterError(
            f"{folder}: the adapter is for another model: this one has no layer '{site}'. Check --adapter and model.path"
        )
    size_out, size_in = linears[site]
    for matrix, shape in (("A", (rank, size_in)), ("B", (size_out, rank))):
        array = arrays.get(f"{site}.lora_{matrix}")
        if array is None or array.shape != shape:
            got = "is missing" if array is None else f"is {array.shape}"
            raise AdapterError(
                f"{folder}: the adapter is for another model: lora_{matrix} of '{site}' {got}, this model needs {shape}"
            )
