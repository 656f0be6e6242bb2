"""What cannot be loaded is refused in one line with a remedy, on both backends alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxtune.adapters import load_adapter, save_adapter
from mlxtune.engine import Engine
from mlxtune.errors import AdapterError, MlxtuneError, ModelError
from mlxtune.recipe import LoraSpec
from tests.helpers.families import FIXTURES
from tests.helpers.rows import examples
from tests.helpers.training import attach, encode, mean_loss

Open = Callable[..., Engine]
Change = Callable[[dict[str, np.ndarray]], None]


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def refusal(kind: type[MlxtuneError], call: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500, message
    return message


def change_weights(folder: Path, change: Change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _drop(weights: dict[str, np.ndarray], end: str) -> None:
    del weights[next(name for name in weights if name.endswith(end))]


def _add_layer(weights: dict[str, np.ndarray], end: str) -> None:
    name = next(name for name in weights if name.endswith(end))
    weights[name.removesuffix(end) + end.replace("1.", "77.", 1)] = weights[name]


def _cut(weights: dict[str, np.ndarray], end: str) -> None:
    name = next(name for name in weights if name.endswith(end))
    weights[name] = weights[name][:-1].copy()


LAYER, HEAD = "layers.1.mlp.up_proj", "lm_head"


@pytest.mark.parametrize(
    ("change", "layer"),
    [(_drop, LAYER), (_drop, HEAD), (_add_layer, LAYER), (_cut, LAYER)],
    ids=["missing", "no head though the config has one", "unknown", "another shape"],
)
def test_weights_that_do_not_fit(
    family: str, backend: str, open_: Open, copy: Path, change: Callable[[dict[str, np.ndarray], str], None], layer: str
) -> None:
    end = FIXTURES[family].named(layer)
    change_weights(copy, lambda weights: change(weights, f"{end}.weight"))
    wanted = HEAD if layer == HEAD else end.replace("1.", "77.", 1) if change is _add_layer else end
    assert f"{wanted}.weight" in refusal(ModelError, lambda: open_(backend, copy))


def test_a_head_is_read_where_it_is_stored_and_shared_where_the_config_says_so(
    family: str, backend: str, open_: Open, copy: Path
) -> None:
    if not any(tied for tied, _ in FIXTURES[family].layouts):
        pytest.skip(f"{family} always has an output head of its own")
    own = open_(backend, copy)
    rows = encode(own, examples(3))
    change_config(copy, tie_word_embeddings=True)
    path = copy / "config.json"
    config = json.loads(path.read_text())
    for part in {"text_config", "decoder"} & config.keys():
        config[part]["tie_word_embeddings"] = True
    path.write_text(json.dumps(config))
    change_weights(copy, lambda weights: _drop(weights, f"{HEAD}.weight"))
    assert abs(mean_loss(open_(backend, copy), rows) - mean_loss(own, rows)) > 0.01


def test_no_safetensors(backend: str, open_: Open, copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "safetensors" in refusal(ModelError, lambda: open_(backend, copy))


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_broken_safetensors(backend: str, open_: Open, copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    refusal(ModelError, lambda: open_(backend, copy))


def test_a_truncated_download(backend: str, open_: Open, copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    refusal(ModelError, lambda: open_(backend, copy))


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"model_type": "gpt2"}', "gpt2"), ("{}", "model_type"), ("{", "JSON"), (None, "config.json"), ("[1]", "config.json")],
)
def test_configs_that_name_no_known_model(backend: str, open_: Open, copy: Path, content: str | None, said: str) -> None:
    (copy / "config.json").unlink()
    if content is not None:
        (copy / "config.json").write_text(content)
    assert said in refusal(ModelError, lambda: open_(backend, copy))


def test_no_code_of_a_folder_runs(backend: str, open_: Open, copy: Path, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Model: pass\n")
    change_config(
        copy, auto_map={name: "evil.Model" for name in ("AutoConfig", "AutoModel", "AutoTokenizer")}, model_file="evil.py"
    )
    engine = open_(backend, copy)
    encode(engine, examples(1))
    assert not proof.exists()


def test_an_adapter_for_another_model(engine: Engine, tmp_path: Path) -> None:
    linears = engine.backend.linears()
    adapter = attach(engine, LoraSpec(rank=4, sites=[FIXTURES[engine.family.name].named("q_proj")]))
    site = adapter.sites[0]
    cases: dict[str, Change] = {
        "no layer": lambda arrays: arrays.update({f"{site}.deeper.lora_{m}": arrays[f"{site}.lora_{m}"] for m in "AB"}),
        "this model needs": lambda arrays: arrays.update({f"{site}.lora_A": arrays[f"{site}.lora_A"][:, :-1]}),
        "missing": lambda arrays: arrays.pop(f"{site}.lora_B"),
    }
    for number, (said, change) in enumerate(cases.items()):
        arrays, folder = dict(adapter.arrays), tmp_path / str(number)
        change(arrays)
        save_adapter(folder, adapter, arrays, base="a/model")
        assert said in refusal(AdapterError, lambda at=folder: load_adapter(at, linears, engine.family))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"use_dora": True}, "use_dora"), ({"bias": "all"}, "bias"), ({"rank_pattern": {"q_proj": 2}}, "rank_pattern")],
)
def test_adapters_of_peft_that_are_no_plain_lora(
    engine: Engine, folder: Path, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    peft = pytest.importorskip("peft")
    from tests.helpers import oracle

    layer = FIXTURES[engine.family.name].named("q_proj")
    model = peft.get_peft_model(oracle.load(folder), peft.LoraConfig(target_modules=[layer], **settings))
    model.save_pretrained(tmp_path)
    assert said in refusal(AdapterError, lambda: load_adapter(tmp_path, engine.backend.linears(), engine.family))


def test_published_adapter_names_fit_too(engine: Engine, tmp_path: Path) -> None:
    """PEFT files of transformers 4 name layers as the published weights do."""
    linears = engine.backend.linears()
    adapter = attach(engine, random_b=True)
    save_adapter(tmp_path, adapter, adapter.arrays, base="a/model")
    path = tmp_path / "adapter_model.safetensors"
    stored = load_file(path)
    older = FIXTURES[engine.family.name].older_name
    save_file({older(name): array for name, array in stored.items()}, path)
    loaded = load_adapter(tmp_path, linears, engine.family)
    assert loaded.sites == adapter.sites
    assert all(np.array_equal(loaded.arrays[name], array) for name, array in adapter.arrays.items())
