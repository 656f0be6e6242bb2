"""Adapters travel: from one backend to the other, to PEFT, and from PEFT to both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxtune.adapters import load_adapter, save_adapter
from mlxtune.engine import Engine
from mlxtune.generation import generate
from mlxtune.recipe import LoraSpec, TrainSpec
from tests.helpers import oracle
from tests.helpers.families import FIXTURES
from tests.helpers.rows import examples
from tests.helpers.training import EVERYWHERE, attach, encode, mean_loss, train

Open = Callable[..., Engine]
SPEC = TrainSpec(steps=4, batch_size=4, micro_batch_size=2, learning_rate=1e-2, warmup=0.0)


def trained(engine: Engine, folder: Path, lora: LoraSpec) -> Path:
    adapter = attach(engine, lora, random_b=True)
    train(engine, encode(engine, examples(12)), SPEC)
    save_adapter(folder, adapter, engine.backend.adapter(), base="a/model")
    return folder


def with_adapter(engine: Engine, folder: Path) -> Engine:
    engine.backend.attach(load_adapter(folder, engine.backend.linears(), engine.family), weight_decay=0.0)
    return engine


@pytest.mark.parametrize("origin", [0, 1])
def test_an_adapter_means_the_same_on_the_other_backend(both: tuple[str, str], open_: Open, tmp_path: Path, origin: int) -> None:
    here = open_(both[origin])
    trained(here, tmp_path, LoraSpec(rank=4, alpha=8, sites=EVERYWHERE))
    there, plain = with_adapter(open_(both[1 - origin]), tmp_path), open_(both[origin])
    rows = encode(here, examples(10, first=50))
    loss = mean_loss(here, rows)
    assert abs(loss - mean_loss(plain, rows)) > 0.1
    assert mean_loss(there, rows) == pytest.approx(loss, abs=1e-5)
    prompts = encode(here, examples(50, first=50), answer=False)
    ours, theirs, untouched = (generate(engine, prompts, batch_size=10, max_new_tokens=6) for engine in (here, there, plain))
    assert ours == theirs
    assert sum(a != b for a, b in zip(ours, untouched, strict=True)) > 40
    assert len(set(ours)) > 25


LORAS = {
    "text": LoraSpec(rank=4, alpha=8),
    "everywhere, rank-stabilised": LoraSpec(rank=3, alpha=8, rslora=True, sites=EVERYWHERE),
    "one kind of layer, last layer": LoraSpec(rank=4, alpha=8, sites=["q_proj"], layers=1),
}


@pytest.mark.parametrize("lora", LORAS.values(), ids=LORAS)
def test_peft_reads_our_adapter(backend: str, open_: Open, folder: Path, tmp_path: Path, lora: LoraSpec) -> None:
    peft = pytest.importorskip("peft")
    engine = open_(backend)
    named = FIXTURES[engine.family.name].named
    lora = lora.model_copy(update={"sites": [named(site) for site in lora.sites]})
    trained(engine, tmp_path, lora)
    rows = encode(engine, examples(5, first=50))
    model = peft.PeftModel.from_pretrained(oracle.load(folder), str(tmp_path)).eval()
    assert peft.get_peft_model_state_dict(model).keys() == _tensor_names(tmp_path)
    theirs = oracle.loss(model, engine.processor, rows)
    assert mean_loss(engine, rows) == pytest.approx(theirs, abs=1e-5)
    assert abs(theirs - oracle.loss(oracle.load(folder), engine.processor, rows)) > 1e-3


TARGETS: dict[str, Any] = {
    "names": ["q_proj", "v_proj", "down_proj"],
    "all-linear": "all-linear",
    "names, rank-stabilised": ["o_proj", "gate_proj"],
}


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_we_read_the_adapter_that_peft_wrote(
    family: str, backend: str, open_: Open, folder: Path, tmp_path: Path, targets: Any, request: pytest.FixtureRequest
) -> None:
    peft = pytest.importorskip("peft")
    targets = targets if targets == "all-linear" else [FIXTURES[family].named(name) for name in targets]
    rslora = "rank-stabilised" in request.node.callspec.id
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, use_rslora=rslora, init_lora_weights=False)
    model = peft.get_peft_model(oracle.load(folder), config).eval()
    model.save_pretrained(tmp_path)
    engine = with_adapter(open_(backend), tmp_path)
    rows = encode(engine, examples(5, first=50))
    assert mean_loss(engine, rows) == pytest.approx(oracle.loss(model, engine.processor, rows), abs=1e-5)


def _tensor_names(folder: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "np") as file:
        return set(file.keys())
