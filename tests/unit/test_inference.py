"""The inference runner answers what the evaluation answers, whole or in pieces, about a file or an opened picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mlxtune
from mlxtune import inference
from mlxtune.adapters import new_adapter, save_adapter
from mlxtune.backends import installed
from mlxtune.data import load_data
from mlxtune.engine import Engine
from mlxtune.errors import AdapterError, DataError, ModelError
from mlxtune.evaluate import evaluate
from mlxtune.finetune import ignore
from mlxtune.inference import Runner
from mlxtune.recipe import load_recipe
from mlxtune.tasks import get_task

ROOT = Path(__file__).parents[2]
MODEL, CHARTS = ROOT / "models/tiny-charts", ROOT / "data/charts"
RECIPE = load_recipe(ROOT / "recipes/charts-tiny.yaml")
SUFFIX = get_task("chartqa").suffix


@pytest.fixture(scope="module", params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


@pytest.fixture(scope="module")
def bare(backend: str) -> Runner:
    return mlxtune.load(MODEL, backend=backend)


@pytest.fixture(scope="module")
def adapter(bare: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With random weights that change every answer."""
    new = new_adapter(bare.engine.backend.linears(), bare.engine.family, RECIPE.lora, seed=0)
    draw = np.random.default_rng(0)
    arrays = {name: array + draw.normal(0, 0.3, array.shape).astype(np.float32) for name, array in new.arrays.items()}
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(folder, new, arrays, base=str(MODEL))
    return folder


@pytest.fixture(scope="module")
def runner(backend: str, adapter: Path) -> Runner:
    return mlxtune.load(MODEL, adapter=adapter, backend=backend, precision="float32")


@pytest.mark.parametrize("which", ["bare", "runner"])
def test_ask_is_what_evaluate_writes(which: str, backend: str, request: pytest.FixtureRequest) -> None:
    asked: Runner = request.getfixturevalue(which)
    examples = load_data(RECIPE.data).splits["test"][:6]
    lines = evaluate(asked.engine, examples, ["exact_match"], RECIPE.evaluate, phase="after", observe=ignore).predictions
    for line in lines:
        answer = asked.ask(CHARTS / line["images"][0], line["question"] + SUFFIX, max_new_tokens=RECIPE.evaluate.max_new_tokens)
        assert answer == line["prediction"]
    assert len({line["prediction"] for line in lines}) > 1


def test_the_adapter_counts(bare: Runner, runner: Runner) -> None:
    asked = (CHARTS / "images/test-0001.png", "Which bar is the highest?")
    assert bare.ask(*asked, max_new_tokens=16) != runner.ask(*asked, max_new_tokens=16)


def test_pieces_join_to_the_answer(bare: Runner) -> None:
    asked = (CHARTS / "images/test-0001.png", "What is the value of Milk?")
    pieces = list(bare.stream(*asked, max_new_tokens=12))
    assert len(pieces) > 2 and "".join(pieces).strip() == bare.ask(*asked, max_new_tokens=12)


def test_every_form_of_a_picture_gives_the_same_answer(bare: Runner) -> None:
    file = CHARTS / "images/test-0002.png"
    opened = Image.open(file)
    forms = [file, str(file), file.read_bytes(), opened, opened.convert("RGB"), opened.convert("RGBA")]
    answers = {bare.ask(form, "Which color does the lowest bar have?", max_new_tokens=12) for form in forms}
    assert len(answers) == 1 and answers != {""}


def test_a_question_without_a_picture(runner: Runner) -> None:
    assert isinstance(runner.ask(None, "What?", max_new_tokens=4), str)


def test_what_is_not_there_is_refused(runner: Runner, backend: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        runner.ask(tmp_path / "gone.png", "What?")
    with pytest.raises(ModelError, match="neither a folder nor a hub id"):
        mlxtune.load(tmp_path / "gone", backend=backend)
    with pytest.raises(AdapterError, match="Give the folder"):
        mlxtune.load(MODEL, adapter=tmp_path / "gone", backend=backend)


# -- pieces, on a tokenizer of bytes ----------------------------------------------------------------------------------


@dataclass
class Bytes:
    """A token is a byte; 0 ends the answer."""

    stop_ids: frozenset[int] = field(default_factory=lambda: frozenset({0}))

    def encode(self, example: Any, *, max_tokens: int | None, answer: bool) -> Any:
        assert max_tokens is None and not answer and example.question == "What?"
        return example

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace").strip()


@pytest.mark.parametrize("text", ["Milk", "Żółw, 日本 🦊!", "a  b\n\n c", "  led by space", "ends \n", "", "�"])
def test_pieces_never_hold_half_a_character(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def tokens(engine: Any, prompts: Any, *, max_new_tokens: int) -> Iterator[np.ndarray]:
        yield from (np.array([byte]) for byte in [*text.encode(), 0, 65][:max_new_tokens])

    monkeypatch.setattr(inference, "tokens", tokens)
    runner = Runner(Engine(family=None, processor=Bytes(), backend=None))  # type: ignore[arg-type]
    pieces = list(runner.stream(None, "What?"))
    assert "".join(pieces) == text.strip() == runner.ask(None, "What?")
    assert text == "�" or not any("�" in piece for piece in pieces)


def test_a_character_that_the_limit_cuts_is_told_as_the_evaluation_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "tokens", lambda engine, prompts, max_new_tokens: iter(np.array([[65], [0xC5]])))
    assert Runner(Engine(family=None, processor=Bytes(), backend=None)).ask(None, "What?") == Bytes().decode([65, 0xC5])  # type: ignore[arg-type]
