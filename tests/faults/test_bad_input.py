"""Whatever a user gets wrong: one line that says what, where and what to do, exit status 2, a stack trace only if asked for."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlxtune import backends
from mlxtune.adapters import Adapter, save_adapter
from mlxtune.backends import installed
from mlxtune.cli import main

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "recipes/charts-tiny.yaml")
CHARTS = ROOT / "data/charts"
NAMES = [name for name in ("torch", "mlx") if installed(name)]
ROWS = [json.loads(line) for line in (CHARTS / "train.jsonl").read_text().splitlines()[:8]]


def run(command: str, *arguments: Any, recipe: str | Path = RECIPE, backend: str = NAMES[0]) -> Result:
    """`command` of a small run; --out is the current folder's `out`."""
    sizes = ("data.limit.train=8", "data.limit.validation=4", "train.steps=2", "evaluate.limit=2", "evaluate.max_new_tokens=2")
    settings = [part for size in sizes for part in ("--set", size)]
    words = [command, recipe, "--backend", backend, "--out", "out", *settings, *arguments]
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="mlxtune")


def assert_one_line(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "nothing but a way out leaves the program"
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for part in parts:
        assert part in lines[0]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The command line quietens transformers before it is loaded; other tests may have loaded it already."""
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(before[0])
    if before[1]:
        logging.enable_progress_bar()


def write_rows(here: Path, change: Callable[[int, dict[str, Any]], Any] = lambda n, row: row) -> list[str]:
    """Eight rows with their pictures in `data`, each as `change` leaves it, as the settings that name them."""
    (here / "data/images").mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        shutil.copy(CHARTS / row["image"], here / "data/images")
    rows = [change(number, dict(row)) for number, row in enumerate(ROWS)]
    (here / "data/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--set", "data.path=data/rows.jsonl", "--set", "data.splits={train: all, validation: null, test: null}"]


def replaced(**values: Any) -> Callable[[int, dict[str, Any]], dict[str, Any]]:
    """The third row with other values."""
    return lambda number, row: {**row, **values} if number == 2 else row


# -- what is found before a model is loaded ---------------------------------------------------------------------------


@dataclass
class Case:
    settings: list[str]
    parts: tuple[str, ...]


SETTINGS = {
    "no such data": Case(["data.path=nowhere.jsonl"], ("data.path: no such file", "nowhere.jsonl", "Give a file")),
    "no such model": Case(
        ["model.path=models/nowhere/at-all"], ("model.path: 'models/nowhere/at-all' is neither", "Check the path")
    ),
    "no such hub id": Case(["model.path=owner/nowhere"], ("there is no folder 'owner/nowhere'", "Check the name, the network")),
    "no such column": Case(["data.target=answr"], ("train.jsonl:1: no field 'answr'", "Set data.target")),
    "no such split": Case(["data.splits.validation=val"], ("no split 'val'", "Set data.splits.validation: validation")),
    "no such task": Case(["data.task=chartq"], ("chartq", "chartqa")),
    "no such metric": Case(["evaluate.metrics=[exact_mach]"], ("evaluate.metrics: no metric 'exact_mach'", "'exact_match'")),
    "no such best metric": Case(["train.best=exact_mach"], ("train.best: no metric 'exact_mach'", "'exact_match'")),
    "no such key": Case(["train.learning_rat=1"], ("--set: train.learning_rat", "learning_rate")),
    "no such image folder": Case(["data.image_folder=nowhere"], ("data.image_folder: no such folder 'nowhere'",)),
    "no training rows": Case(["data.splits.train=null"], ("data.splits.train: null", "mlxtune evaluate")),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(case: str) -> None:
    chosen = SETTINGS[case]
    result = run("finetune", *[part for setting in chosen.settings for part in ("--set", setting)])
    assert_one_line(result, *chosen.parts)
    assert not Path("out").exists(), "nothing was begun"


def test_no_such_recipe() -> None:
    assert_one_line(run("finetune", recipe="charts-tny.yaml"), "charts-tny.yaml does not exist")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (replaced(query=""), ("data/rows.jsonl:3: field 'query' is not a question", "1 of 8 rows")),
        (replaced(label=[]), ("data/rows.jsonl:3: field 'label' is not an answer", "raise data.max_skipped")),
        (replaced(image="images/gone.png"), ("1 of", "data/rows.jsonl:3: picture 'images/gone.png'", "data.image_folder")),
        (replaced(image=None), ("data/rows.jsonl:3: the row names no picture", "data.text_only")),
        (replaced(image=7), ("data/rows.jsonl:3: picture '7'", "picture missing 1")),
        (lambda number, row: "text", ("data/rows.jsonl:1",)),
    ],
)
def test_rows(change: Any, parts: tuple[str, ...], here: Path) -> None:
    assert_one_line(run("finetune", *write_rows(here, change)), *parts)


def test_a_file_without_rows(here: Path) -> None:
    settings = write_rows(here)
    (here / "data/rows.jsonl").write_text("")
    assert_one_line(run("finetune", *settings), "data.splits.train", "is empty", "Set another")


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_a_backend_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "installed", lambda asked: asked != name)
    assert_one_line(run("finetune", backend=name), f"backend '{name}' is not installed", f"make finetune BACKEND={name}")


def test_no_backend_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_one_line(run("finetune", backend="auto"), "no backend is installed", "make finetune")


def test_an_unreachable_hub_is_not_waited_for_long(here: Path) -> None:
    """With the network's own refusal, in a process that has not been told to stay offline."""
    code = "import sys; from mlxtune.cli import main; main(sys.argv[1:])"
    words = ["ask", str(CHARTS / ROWS[0]["image"]), "What?", "--model", "owner/nowhere"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(here), "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: model.path: there is no folder 'owner/nowhere'") and "Check the name, the network" in line


# -- what only the model can tell -------------------------------------------------------------------------------------


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


def spoil_picture(here: Path) -> list[str]:
    settings = write_rows(here)
    file = here / "data" / ROWS[2]["image"]
    file.write_bytes(file.read_bytes()[:400])  # its size can still be read
    return settings


def no_picture_at_all(here: Path) -> list[str]:
    settings = write_rows(here)
    (here / "data" / ROWS[2]["image"]).write_text("no picture")
    return settings


def long_validation_row(here: Path) -> list[str]:
    settings = write_rows(here, lambda n, row: {**row, "query": row["query"] + " and" * (2000 if n == 7 else 0)})
    (here / "data/train.jsonl").write_text((here / "data/rows.jsonl").read_text().splitlines()[0] + "\n")
    (here / "data/rows.jsonl").rename(here / "data/validation.jsonl")
    return [*settings[:1], "data.path=data", "--set", "data.splits={train: train, validation: validation, test: train}"] + [
        "--set",
        "data.limit.validation=8",
    ]


def other_model_type(here: Path) -> list[str]:
    config = json.loads((ROOT / "models/tiny-charts/config.json").read_text())
    shutil.copytree(ROOT / "models/tiny-charts", here / "model")
    (here / "model/config.json").write_text(json.dumps({**config, "model_type": "llava_next"}))
    return ["--set", "model.path=model"]


def no_weights(here: Path) -> list[str]:
    shutil.copytree(ROOT / "models/tiny-charts", here / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return ["--set", "model.path=model"]


def short_weights(here: Path) -> list[str]:
    shutil.copytree(ROOT / "models/tiny-charts", here / "model")
    file = here / "model/model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])
    return ["--set", "model.path=model"]


def out_is_a_file(here: Path) -> list[str]:
    (here / "taken").write_text("")
    return ["--out", "taken/below"]


FOLDERS: dict[str, tuple[Callable[[Path], list[str]], tuple[str, ...]]] = {
    "picture cut short": (
        spoil_picture,
        ("data/rows.jsonl:", "picture 'images/train-0001.png' cannot be read", "Replace the file or remove the row"),
    ),
    "no picture": (
        no_picture_at_all,
        ("data/rows.jsonl:", "picture 'images/train-0001.png' cannot be read", "Replace the file or remove the row"),
    ),
    "placeholder in a question": (
        lambda here: write_rows(here, replaced(query="What is <|image_pad|>?")),
        ("train-3: 1 pictures but 2 placeholders", "no '<|image_pad|>' in the text"),
    ),
    "placeholder in an answer": (
        lambda here: write_rows(here, replaced(label="<|image_pad|>")),
        ("train-3: the answer holds '<|image_pad|>'", "Remove it from the row"),
    ),
    "long row": (
        lambda here: write_rows(here, replaced(query="Is it so? " * 2000)),
        ("train-3", "the limit is 512. Raise train.max_tokens"),
    ),
    "all rows long": (
        lambda here: [*write_rows(here), "--set", "train.max_tokens=10"],
        ("train-1", "the limit is 10", "7 more of 8 rows"),
    ),
    "long validation row": (long_validation_row, ("validation-8", "the limit is 512. Raise train.max_tokens")),
    "unknown model type": (other_model_type, ("model type 'llava_next'", "Use one of: qwen2_5_vl")),
    "no weights": (no_weights, ("model: ", "safetensors")),
    "weights cut short": (short_weights, ("model", "safetensors")),
    "unknown layers": (lambda here: ["--set", "lora.sites=[attenton]"], ("lora.sites: 'attenton' names no linear layer",)),
    "out is a file": (out_is_a_file, ("taken/below/charts-tiny-", "Set out, or --out")),
    "nothing to resume": (lambda here: ["--resume"], ("no unfinished run of 'charts-tiny'", "Leave --resume out")),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_model_rows_and_folders(case: str, backend: str, here: Path) -> None:
    make, parts = FOLDERS[case]
    result = run("finetune", *make(here), backend=backend)
    assert_one_line(result, *parts)
    assert "step 1" not in result.stdout and "before" not in result.stdout, "said before any work is done"


def test_quantising_needs_more_than_torch_on_a_cpu() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    result = run("finetune", "--set", "model.quantize=4bit", backend="torch")
    assert_one_line(result, "model.quantize: 4bit needs a CUDA device", "Set it to null")


def write_adapter(folder: Path, *, site: str, shape: tuple[int, int] = (4, 160)) -> Path:
    arrays = {f"{site}.lora_A": np.zeros((4, shape[1]), np.float32), f"{site}.lora_B": np.zeros((shape[0], 4), np.float32)}
    save_adapter(folder, Adapter(4, 8.0, 0.0, False, (site,), arrays), arrays, base="m")
    return folder


ADAPTERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda here: here / "nowhere", "no such file. Give the folder that holds a PEFT adapter"),
    "a file": (
        lambda here: write_adapter(here / "a", site="model.language_model.layers.0.mlp.up_proj") / "adapter_config.json",
        "Give the folder that holds a PEFT adapter",
    ),
    "of another family": (
        lambda here: write_adapter(here / "a", site="model.text_model.layers.0.mlp.up_proj"),
        "for another model: this one has no layer 'model.text_model.layers.0.mlp.up_proj'",
    ),
    "of another size": (
        lambda here: write_adapter(here / "a", site="model.language_model.layers.0.mlp.up_proj", shape=(8, 8)),
        "for another model: lora_A of 'model.language_model.layers.0.mlp.up_proj' is (4, 8)",
    ),
}


@pytest.mark.parametrize("case", ADAPTERS)
@pytest.mark.parametrize("command", ["evaluate", "ask"])
def test_adapters(case: str, command: str, backend: str, here: Path) -> None:
    make, part = ADAPTERS[case]
    if command == "evaluate":
        result = run("evaluate", "--adapter", make(here), backend=backend)
    else:
        words = ["ask", CHARTS / ROWS[0]["image"], "What?", "--model", ROOT / "models/tiny-charts", "--backend", backend]
        result = CliRunner().invoke(main, [str(word) for word in (*words, "--adapter", make(here))], prog_name="mlxtune")
    assert_one_line(result, part)


def test_a_picture_to_ask_about_that_is_none(here: Path) -> None:
    (here / "a.png").write_text("no picture")
    words = ["ask", "a.png", "What?", "--model", str(ROOT / "models/tiny-charts"), "--backend", NAMES[0]]
    assert_one_line(CliRunner().invoke(main, words, prog_name="mlxtune"), "a.png", "cannot be read")


def test_debug_shows_the_stack() -> None:
    result = run("finetune", "--debug", "--set", "data.path=nowhere.jsonl")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr and "mlxtune.errors.DataError" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: data.path: no such file")
