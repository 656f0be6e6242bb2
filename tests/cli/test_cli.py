"""The command line as a user meets it: help, lists, and one clear line for each thing that a user can mend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import mlxtune
from mlxtune.cli import main
from mlxtune.errors import AdapterError, RunError

RECIPE = """
model: {path: some/model}
data: {path: some/data}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "wrong.yaml").write_text(RECIPE + "train: {learning_rat: 1.0e-3}\nlora: {rank: -1}\n")
    (tmp_path / "a.png").write_bytes(b"")
    return tmp_path


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Instead of the library behind the commands: keeps what it is called with, or raises `stand_in["raise"]`."""
    seen: dict[str, Any] = {}

    def keep(*positional: Any, **named: Any) -> Any:
        if "raise" in seen:
            raise seen["raise"]
        seen.update(named, positional=positional)
        return SimpleNamespace(stream=lambda image, question, *, max_new_tokens: _pieces(seen, image, question, max_new_tokens))

    for name, functions in (("finetune", ("finetune", "evaluate_only")), ("inference", ("load",))):
        module = ModuleType(f"mlxtune.{name}")
        for function in functions:
            setattr(module, function, keep)
        monkeypatch.setitem(sys.modules, f"mlxtune.{name}", module)
        monkeypatch.setattr(mlxtune, name, module, raising=False)
    return seen


def _pieces(seen: dict[str, Any], *asked: Any) -> Iterator[str]:
    seen["asked"] = asked
    yield from ("The high", "est is \x1b[31mMilk", ".")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="mlxtune")


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_help(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: {' '.join(('mlxtune', *path))}")
    assert "--debug" in result.output


COMMANDS = ("ask", "caption", "compare", "data", "evaluate", "finetune", "list", "report", "score")


def test_help_names_every_command_in_full() -> None:
    lines = run("--help").output.splitlines()
    assert [line.split()[0] for line in lines[lines.index("Commands:") + 1 :]] == list(COMMANDS)
    assert "..." not in "\n".join(lines[lines.index("Commands:") :])


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"mlxtune, version {mlxtune.__version__}\n")


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("models", ["qwen2_5_vl", "idefics3", "Qwen/Qwen2.5-VL-3B-Instruct", "HuggingFaceTB/SmolVLM-256M-Instruct"]),
        ("tasks", ["chartqa", "query", "label", "relaxed_accuracy", "qa"]),
        ("metrics", ["exact_match", "relaxed_accuracy", "contains", "token_f1", "rougeL", "bleu"]),
        ("recipes", ["charts-tiny.yaml", "The default", "smolvlm-chartqa.yaml"]),
    ],
)
def test_list(what: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # recipes are found from anywhere
    monkeypatch.setenv("COLUMNS", "120")
    result = run("list", what)
    assert result.exit_code == 0, result.output
    assert [part for part in parts if part not in result.output] == []


def test_list_recipes_prefers_the_folder_one_is_in(folder: Path) -> None:
    (folder / "recipes").mkdir()
    (folder / "recipes" / "mine.yaml").write_text("# yaml-language-server: $schema=x\n# [bold]Mine[/bold]\nmodel: {}\n")
    output = run("list", "recipes").output
    assert "[bold]Mine[/bold]" in output and "charts-tiny" not in output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["finetune"], "Missing argument 'RECIPE'"),
        (["evaluate"], "Missing argument 'RECIPE'"),
        (["finetune", "r.yaml", "--backend", "jax"], "'jax' is not one of 'auto', 'mlx', 'torch'"),
        (["ask", "a.png", "why?"], "Missing option '--model'"),
        (["ask", "a.png", "why?", "--model", "m", "--max-new-tokens", "0"], "x>=1"),
        (["train"], "No such command 'train'"),
        (["list", "metric"], "No such command 'metric'"),
    ],
)
def test_wrong_usage(arguments: list[str], part: str, folder: Path, stand_in: dict[str, Any]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert part in result.stderr
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert "positional" not in stand_in  # nothing was begun


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["finetune", "none.yaml"], ["none.yaml does not exist"]),
        (["evaluate", "none.yaml"], ["none.yaml does not exist"]),
        (["finetune", "wrong.yaml"], ["train.learning_rat: ", "lora.rank: "]),
        (["finetune", "r.yaml", "--set", "train.step=5"], ["train.step: "]),
        (["finetune", "r.yaml", "--set", "train.steps"], ["'train.steps' is not of the form key.key=value"]),
        (["ask", "none.png", "why?", "--model", "m"], ["none.png: no such picture"]),
        (["ask", ".", "why?", "--model", "m"], [".: no such picture"]),
        (["ask", "a.png", " ", "--model", "m"], ["the question is empty"]),
    ],
)
def test_what_a_user_can_mend_is_a_line_each(
    arguments: list[str], lines: list[str], folder: Path, stand_in: dict[str, Any]
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    told = result.stderr.splitlines()
    assert len(told) == len(lines), result.stderr
    for line, part in zip(told, lines, strict=True):
        assert line.startswith("error: ") and part in line
    assert "positional" not in stand_in


@pytest.mark.parametrize(
    "command", [["finetune", "r.yaml"], ["evaluate", "r.yaml"], ["ask", "a.png", "why?", "--model", "m"]], ids=lambda c: c[0]
)
def test_errors_of_the_library(command: list[str], folder: Path, stand_in: dict[str, Any]) -> None:
    stand_in["raise"] = AdapterError("it does not fit\x1b[2J")
    result = run(*command)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "error: it does not fit\n")


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_stack_before_and_after_the_command(before: bool, folder: Path, stand_in: dict[str, Any]) -> None:
    stand_in["raise"] = RunError("taken")
    result = run(*(["--debug"] if before else []), "finetune", "r.yaml", *([] if before else ["--debug"]))
    assert result.exit_code == 2
    assert "Traceback" in result.stderr and "RunError: taken" in result.stderr
    assert result.stderr.splitlines()[-1] == "error: taken"


def test_what_we_broke_ourselves_is_not_dressed_up(folder: Path, stand_in: dict[str, Any]) -> None:
    stand_in["raise"] = AssertionError("ours")
    assert isinstance(run("finetune", "r.yaml").exception, AssertionError)


def test_an_interrupted_training_says_how_to_go_on(folder: Path, stand_in: dict[str, Any]) -> None:
    stand_in["raise"] = KeyboardInterrupt()
    result = run("finetune", "r.yaml", "--backend", "mlx", "--out", "my runs", "--set", "train.steps=5")
    assert result.exit_code == 130
    expected = "mlxtune finetune r.yaml --backend mlx --out 'my runs' --set train.steps=5 --resume"
    assert result.stderr.strip() == f"interrupted. Go on with: {expected}"


def test_an_interrupted_answer_just_ends(folder: Path, stand_in: dict[str, Any]) -> None:
    stand_in["raise"] = KeyboardInterrupt()
    result = run("ask", "a.png", "why?", "--model", "m")
    assert (result.exit_code, result.stderr.strip()) == (130, "interrupted")


def test_finetune_passes_on_what_it_is_told(folder: Path, stand_in: dict[str, Any]) -> None:
    result = run("finetune", "r.yaml", "--backend", "torch", "--resume", "--out", "o", "--set", "train.steps=5")
    assert result.exit_code == 0, result.output
    (recipe,) = stand_in["positional"]
    assert (recipe.train.steps, recipe.model.path) == (5, "some/model")
    assert {key: stand_in[key] for key in ("name", "recipe_path", "backend", "out", "resume")} == {
        "name": "r",
        "recipe_path": Path("r.yaml"),
        "backend": "torch",
        "out": Path("o"),
        "resume": True,
    }
    assert callable(stand_in["observe"])


def test_evaluate_passes_on_the_adapter(folder: Path, stand_in: dict[str, Any]) -> None:
    assert run("evaluate", "r.yaml", "--adapter", "runs/r/adapter").exit_code == 0
    assert (stand_in["adapter"], stand_in["backend"], stand_in["out"]) == (Path("runs/r/adapter"), None, None)


def test_ask_streams_the_answer_and_nothing_else(folder: Path, stand_in: dict[str, Any]) -> None:
    result = run("ask", "a.png", "Which?", "--model", "m", "--adapter", "d", "--max-new-tokens", "9")
    assert (result.exit_code, result.output) == (0, "The highest is Milk.\n")
    assert (stand_in["positional"], stand_in["adapter"], stand_in["backend"]) == (("m",), Path("d"), "auto")
    assert stand_in["asked"] == (Path("a.png"), "Which?", 9)


def test_load_passes_on_what_it_is_told(stand_in: dict[str, Any]) -> None:
    mlxtune.load("m", adapter="d", backend="mlx", precision="float32")
    assert stand_in == {"adapter": "d", "backend": "mlx", "precision": "float32", "positional": ("m",)}
