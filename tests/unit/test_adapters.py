"""Adapters as arrays: which layers, which first weights, PEFT's files, and every refusal."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxtune.adapters import Adapter, load_adapter, new_adapter, save_adapter, select_sites
from mlxtune.errors import AdapterError
from mlxtune.families import FAMILIES
from mlxtune.recipe import LoraSpec

QWEN, SMOL = FAMILIES["qwen2_5_vl"], FAMILIES["idefics3"]


def qwen_linears(*, layers: int = 12) -> dict[str, tuple[int, int]]:
    text = {
        f"model.language_model.layers.{n}.{name}": shape
        for n in range(layers)
        for name, shape in {
            "self_attn.q_proj": (16, 16),
            "self_attn.k_proj": (8, 16),
            "self_attn.v_proj": (8, 16),
            "self_attn.o_proj": (16, 16),
            "mlp.gate_proj": (32, 16),
            "mlp.up_proj": (32, 16),
            "mlp.down_proj": (16, 32),
        }.items()
    }
    vision = {f"model.visual.blocks.{n}.{name}": (8, 8) for n in range(2) for name in ("attn.qkv", "attn.proj", "mlp.gate_proj")}
    return {**text, **vision, "model.visual.merger.mlp.0": (32, 32), "model.visual.merger.mlp.2": (16, 32), "lm_head": (50, 16)}


def smol_linears() -> dict[str, tuple[int, int]]:
    text = {f"model.text_model.layers.{n}.self_attn.{x}_proj": (8, 8) for n in range(3) for x in "qkvo"}
    vision = {f"model.vision_model.encoder.layers.{n}.self_attn.{x}": (8, 8) for n in range(2) for x in ("q_proj", "out_proj")}
    return {**text, **vision, "model.connector.modality_projection.proj": (8, 32), "lm_head": (50, 8)}


def lora(**values: Any) -> LoraSpec:
    return LoraSpec.model_validate({"rank": 4, **values})


@pytest.mark.parametrize(
    ("sites", "layers", "count", "some"),
    [
        (["attention"], "all", 48, "model.language_model.layers.0.self_attn.q_proj"),
        (["mlp"], "all", 36, "model.language_model.layers.11.mlp.down_proj"),
        (["attention", "mlp"], "all", 84, "model.language_model.layers.3.mlp.up_proj"),
        (["attention", "attention"], "all", 48, "model.language_model.layers.0.self_attn.o_proj"),
        (["projector"], "all", 2, "model.visual.merger.mlp.0"),
        (["vision"], "all", 6, "model.visual.blocks.1.attn.qkv"),
        (["q_proj"], "all", 12, "model.language_model.layers.7.self_attn.q_proj"),
        (["gate_proj"], "all", 14, "model.visual.blocks.0.mlp.gate_proj"),  # a name means every layer of that name
        (["mlp.gate_proj"], "all", 14, "model.visual.blocks.0.mlp.gate_proj"),
        (["model.language_model.layers.5.mlp.up_proj"], "all", 1, "model.language_model.layers.5.mlp.up_proj"),
        ([r".*layers\.[01]\.self_attn\.[qv]_proj"], "all", 4, "model.language_model.layers.1.self_attn.v_proj"),
        (["attention"], 2, 8, "model.language_model.layers.11.self_attn.q_proj"),  # by number: "9" < "11"
        (["attention"], 99, 48, "model.language_model.layers.0.self_attn.q_proj"),
        (["attention", "projector"], 1, 6, "model.visual.merger.mlp.2"),  # layers counts the text model's only
        ([".*"], "all", 92, "model.visual.merger.mlp.2"),
    ],
)
def test_sites(sites: list[str], layers: Any, count: int, some: str) -> None:
    found = select_sites(qwen_linears(), QWEN, lora(sites=sites, layers=layers))
    assert len(found) == count and some in found and list(found) == sorted(set(found))
    assert "lm_head" not in found


def test_last_layers_are_the_last() -> None:
    found = select_sites(qwen_linears(), QWEN, lora(sites=["q_proj"], layers=3))
    assert {site.split(".")[3] for site in found} == {"9", "10", "11"}


def test_sites_of_the_other_family() -> None:
    assert len(select_sites(smol_linears(), SMOL, lora(sites=["attention"]))) == 12
    assert len(select_sites(smol_linears(), SMOL, lora(sites=["vision", "projector"]))) == 5
    assert len(select_sites(smol_linears(), SMOL, lora(sites=["attention"], layers=1))) == 4


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (["attenton"], "'attenton' names no linear layer"),
        (["attention", "proj_q"], "'proj_q' names no linear layer"),
        (["lm_head"], "'lm_head' names no linear layer"),
        (["roj"], "'roj' names no linear layer"),
        (["(q_proj"], "nor a valid pattern"),
    ],
)
def test_unknown_sites_are_refused(sites: list[str], message: str) -> None:
    with pytest.raises(AdapterError, match="lora.sites: ") as caught:
        select_sites(qwen_linears(), QWEN, lora(sites=sites))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_first_weights() -> None:
    adapter = new_adapter(qwen_linears(), QWEN, lora(sites=["attention", "mlp"], rank=8), seed=3)
    assert adapter.parameters == sum(array.size for array in adapter.arrays.values()) > 0
    for site in adapter.sites:
        size_out, size_in = qwen_linears()[site]
        a, b = adapter.arrays[f"{site}.lora_A"], adapter.arrays[f"{site}.lora_B"]
        assert a.shape == (8, size_in) and b.shape == (size_out, 8) and a.dtype == b.dtype == np.float32
        assert not b.any(), "an untrained adapter changes nothing"
        assert 0.9 / math.sqrt(size_in) < np.abs(a).max() <= 1 / math.sqrt(size_in) + 1e-7
        assert abs(a.mean()) < 0.3 / math.sqrt(size_in)


def test_first_weights_hang_on_seed_and_site_alone() -> None:
    one = new_adapter(qwen_linears(), QWEN, lora(sites=["q_proj"]), seed=0).arrays
    more = new_adapter(qwen_linears(layers=20), QWEN, lora(sites=["attention", "vision"]), seed=0).arrays
    assert all((more[name] == array).all() for name, array in one.items())
    other = new_adapter(qwen_linears(), QWEN, lora(sites=["q_proj"]), seed=1).arrays
    first = [name for name in one if name.endswith("lora_A")]
    assert not any((other[name] == one[name]).all() for name in first)
    assert len({one[name].tobytes() for name in first}) == len(first), "no two sites start alike"


@pytest.mark.parametrize(("rslora", "scale"), [(False, 32 / 16), (True, 32 / 4)])
def test_scale(rslora: bool, scale: float) -> None:
    assert new_adapter(qwen_linears(), QWEN, lora(rank=16, alpha=32.0, rslora=rslora), seed=0).scale == scale


@pytest.fixture
def adapter() -> Adapter:
    made = new_adapter(
        qwen_linears(), QWEN, lora(alpha=12.0, dropout=0.25, rslora=True, sites=["attention", "projector"]), seed=5
    )
    rng = np.random.default_rng(0)
    return dataclasses.replace(made, arrays={n: rng.normal(size=a.shape).astype(np.float32) for n, a in made.arrays.items()})


def test_files_are_in_the_layout_of_peft(tmp_path: Path, adapter: Adapter) -> None:
    save_adapter(tmp_path / "a", adapter, adapter.arrays, base="some/model")
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    wanted = {"peft_type": "LORA", "r": 4, "lora_alpha": 12.0, "lora_dropout": 0.25, "use_rslora": True, "bias": "none"}
    assert {**config, **wanted} == config
    assert config["base_model_name_or_path"] == "some/model" and config["target_modules"] == list(adapter.sites)
    stored = load_file(tmp_path / "a/adapter_model.safetensors")
    assert set(stored) == {f"base_model.model.{site}.lora_{m}.weight" for site in adapter.sites for m in "AB"}
    pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    read = peft.LoraConfig.from_pretrained(str(tmp_path / "a"))
    assert (read.r, read.lora_alpha, read.use_rslora) == (4, 12.0, True) and set(read.target_modules) == set(adapter.sites)


def test_round_trip(tmp_path: Path, adapter: Adapter) -> None:
    save_adapter(tmp_path, adapter, adapter.arrays, base="some/model")
    read = load_adapter(tmp_path, qwen_linears(), QWEN)
    assert dataclasses.replace(read, arrays={}) == dataclasses.replace(adapter, arrays={}) and read.scale == 6.0
    assert read.arrays.keys() == adapter.arrays.keys()
    assert all((read.arrays[name] == array).all() for name, array in adapter.arrays.items())


def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path, adapter: Adapter) -> None:
    shuffled = dict(sorted(adapter.arrays.items(), reverse=True))
    save_adapter(tmp_path / "a", adapter, adapter.arrays, base="m")
    save_adapter(tmp_path / "b", adapter, shuffled, base="m")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_names_of_other_writers_are_read(tmp_path: Path, adapter: Adapter) -> None:
    """Older transformers name the text model `model.layers`; a live PEFT model puts the adapter's name before `weight`."""
    save_adapter(tmp_path, adapter, adapter.arrays, base="m")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    renamed = {
        name.replace("model.language_model.layers", "model.layers")
        .replace(".model.visual.", ".visual.")
        .replace(".weight", ".default.weight"): array
        for name, array in stored.items()
    }
    assert not renamed.keys() & stored.keys()
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    assert load_adapter(tmp_path, qwen_linears(), QWEN).arrays.keys() == adapter.arrays.keys()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_of_peft_are_read(tmp_path: Path, adapter: Adapter, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    save_adapter(tmp_path, adapter, adapter.arrays, base="m")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    halves = {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in stored.items()}
    save_torch(halves, str(tmp_path / "adapter_model.safetensors"))
    read = load_adapter(tmp_path, qwen_linears(), QWEN).arrays
    for name, array in adapter.arrays.items():
        assert read[name].dtype == np.float32
        assert (read[name] == torch.from_numpy(array).to(getattr(torch, dtype)).float().numpy()).all()


def _config(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def _weights(folder: Path, change: Any) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def _without_config_key(folder: Path, key: str) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != key}))


SPOILT: dict[str, tuple[Any, str]] = {
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json: no such file"),
    "config is no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "not valid JSON"),
    "config is a list": (lambda f: (f / "adapter_config.json").write_text("[]"), "adapter_config.json"),
    "no rank": (lambda f: _without_config_key(f, "r"), "'r'"),
    "no alpha": (lambda f: _without_config_key(f, "lora_alpha"), "'lora_alpha'"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
    "weights cut short": (
        lambda f: (f / "adapter_model.safetensors").write_bytes((f / "adapter_model.safetensors").read_bytes()[:-9]),
        "cannot be read",
    ),
    "weights are text": (lambda f: (f / "adapter_model.safetensors").write_text("no"), "cannot be read"),
    "weights are empty": (lambda f: _weights(f, lambda arrays: {}), "no LoRA"),
    "another kind": (lambda f: _config(f, peft_type="IA3"), "peft_type IA3"),
    "DoRA": (lambda f: _config(f, use_dora=True), "use_dora"),
    "ranks by layer": (lambda f: _config(f, rank_pattern={"q_proj": 2}), "rank_pattern"),
    "whole modules": (lambda f: _config(f, modules_to_save=["lm_head"]), "modules_to_save"),
    "bias": (lambda f: _config(f, bias="all"), "bias all"),
    "another rank": (lambda f: _config(f, r=8), "lora_A of"),
    "numbers of another kind": (
        lambda f: _weights(f, lambda a: {n: v.astype(np.int32) for n, v in a.items()}),
        "type I32",
    ),
    "half a pair": (lambda f: _weights(f, lambda a: {n: v for n, v in a.items() if "lora_B" not in n}), "lora_B of"),
    "other shapes": (lambda f: _weights(f, lambda a: {n: v[:, :2].copy() for n, v in a.items()}), "for another model"),
    "other layers": (
        lambda f: _weights(f, lambda a: {n.replace("self_attn", "attention"): v for n, v in a.items()}),
        "for another model",
    ),
    "stray array": (lambda f: _weights(f, lambda a: {**a, "base_model.model.lm_head.weight": np.zeros((50, 16))}), "lm_head"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_does_not_fit_is_refused(case: str, tmp_path: Path, adapter: Adapter) -> None:
    spoil, part = SPOILT[case]
    save_adapter(tmp_path, adapter, adapter.arrays, base="m")
    spoil(tmp_path)
    with pytest.raises(AdapterError) as caught:
        load_adapter(tmp_path, qwen_linears(), QWEN)
    assert part in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_adapter_of_another_family_is_refused(tmp_path: Path, adapter: Adapter) -> None:
    save_adapter(tmp_path, adapter, adapter.arrays, base="m")
    with pytest.raises(AdapterError, match="the adapter is for another model"):
        load_adapter(tmp_path, smol_linears(), SMOL)


def test_the_path_of_the_weights_file_is_refused(tmp_path: Path, adapter: Adapter) -> None:
    save_adapter(tmp_path, adapter, adapter.arrays, base="m")
    with pytest.raises(AdapterError, match="Give the folder"):
        load_adapter(tmp_path / "adapter_model.safetensors", qwen_linears(), QWEN)
