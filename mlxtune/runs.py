"""A run's folder on disk. Files are written beside their place and moved there: a kill leaves the old one or the new one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors.numpy import load_file, save_file

from mlxtune.adapters import Adapter, save_adapter, stored_arrays
from mlxtune.errors import RunError
from mlxtune.metrics import Score
from mlxtune.recipe import Recipe, dump_recipe, load_recipe
from mlxtune.types import Arrays

_MANIFEST = "manifest.json"
_KEPT = 2  # newest checkpoints that stay; an older one would only be needed if both were damaged


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `path` when the block ends well: readers see the old or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    with beside.open("w", encoding="utf-8") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, path)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as stream:
        stream.write(text)


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """A JSON Lines file, written as the lines come."""
    with replacing(path) as stream:
        for line in lines:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@dataclass(frozen=True)
class Checkpoint:
    """Where training stood after `step`. best: the best validation value so far, None before the first look."""

    step: int
    best: float | None
    adapter: Arrays
    optimizer: Arrays


@dataclass(frozen=True)
class RunFolder:
    path: Path

    # -- the whole run ----------------------------------------------------------------------------------------------

    def update_info(self, **values: Any) -> None:
        """Adds to run.json."""
        self.write_json("run.json", {**self.info(), **values})

    def info(self) -> dict[str, Any]:
        return self.read_json("run.json") or {}

    def recipe(self) -> Recipe:
        """The run's recipe as it was resolved."""
        return load_recipe(self.path / "recipe.yaml")

    def write_lines(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """A JSON Lines file of the run's folder."""
        write_lines(self.path / name, lines)

    def write_json(self, name: str, value: Any) -> None:
        write_json(self.path / name, value)

    def read_json(self, name: str) -> Any:
        """The value of a JSON file of the run's folder; None where there is none."""
        file = self.path / name
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def write_evaluation(
        self, phase: str, predictions: Sequence[Mapping[str, Any]], scores: Mapping[str, Score], about: Mapping[str, Any]
    ) -> None:
        """phase: "before", "after", or either with "/" and the name of a further set."""
        self.write_lines(f"{phase}/predictions.jsonl", predictions)
        self.write_json(f"{phase}/evaluation.json", about)
        self.write_json(f"{phase}/metrics.json", {name: value.to_dict() for name, value in scores.items()})

    def read_evaluation(self, phase: str) -> tuple[list[dict[str, Any]], dict[str, Any]] | None:
        """(predictions, metrics) of a finished evaluation; None where it was not made."""
        metrics = self.path / phase / "metrics.json"  # written last
        if not metrics.exists():
            return None
        text = (self.path / phase / "predictions.jsonl").read_text(encoding="utf-8")
        # splitlines() would also cut at U+2028 and its kind, which a model may well answer with.
        return [json.loads(line) for line in text.split("\n") if line], json.loads(metrics.read_text(encoding="utf-8"))

    # -- training ---------------------------------------------------------------------------------------------------

    def log_step(self, values: Mapping[str, Any]) -> None:
        self._append("train.jsonl", values)

    def log_validation(self, values: Mapping[str, Any]) -> None:
        self._append("validation.jsonl", values)

    def validations(self) -> list[dict[str, Any]]:
        """The looks at the validation rows so far, in order."""
        return self._logged("validation.jsonl")

    def looks_since_best(self) -> int:
        """How many looks at the validation rows followed the best one; all of them where none was."""
        looks = [look["best"] for look in self.validations()]
        return [*looks[::-1], True].index(True)

    def steps(self) -> list[dict[str, Any]]:
        """The lines of train.jsonl."""
        return self._logged("train.jsonl")

    def forget_steps_after(self, step: int) -> None:
        """Drops lines that a resumed run will write again, and a last line that a kill cut short."""
        for name in ("train.jsonl", "validation.jsonl"):
            if (self.path / name).exists():
                kept = [line for line in self._logged(name) if line["step"] <= step]
                write_text(self.path / name, "".join(json.dumps(line) + "\n" for line in kept))

    def _append(self, name: str, values: Mapping[str, Any]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")

    def _logged(self, name: str) -> list[dict[str, Any]]:
        file = self.path / name
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def save_checkpoint(self, checkpoint: Checkpoint, adapter: Adapter, *, base: str) -> Path:
        folder = self._checkpoints / f"step-{checkpoint.step:06d}"
        partial = self._fresh_partial(folder)
        save_adapter(partial, adapter, checkpoint.adapter, base=base)
        save_file(checkpoint.optimizer, partial / "optimizer.safetensors")
        write_json(partial / "state.json", {"step": checkpoint.step, "best": checkpoint.best})
        _seal(partial, folder)
        for old in self._complete()[:-_KEPT]:
            shutil.rmtree(old)
        return folder

    def save_best(self, adapter: Adapter, arrays: Arrays, *, step: int, base: str) -> None:
        folder = self._checkpoints / "best"
        partial = self._fresh_partial(folder)
        save_adapter(partial, adapter, arrays, base=base)
        write_json(partial / "state.json", {"step": step})
        _seal(partial, folder)

    def save_result(self, adapter: Adapter, arrays: Arrays, *, base: str) -> None:
        """The adapter that the run ends with, as PEFT has it and nothing beside it."""
        folder = self.path / "adapter"
        partial = self._fresh_partial(folder)
        save_adapter(partial, adapter, arrays, base=base)
        _place(partial, folder)

    def best(self) -> Path | None:
        """The best checkpoint's folder; None where none was saved. Errors: RunError where it is damaged."""
        folder = self._checkpoints / "best"
        folder = next((path for path in (folder, _aside(folder)) if path.exists()), None)
        if folder is not None and not _intact(folder):
            raise RunError(f"{folder}: damaged since it was written. Remove {self._checkpoints} and run again with --resume")
        return folder

    def best_step(self) -> int | None:
        folder = self.best()
        return json.loads((folder / "state.json").read_text(encoding="utf-8"))["step"] if folder else None

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint whose files are all as they were written."""
        for folder in reversed(self._complete()):
            if _intact(folder):
                state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                optimizer = {name: np.array(value) for name, value in load_file(folder / "optimizer.safetensors").items()}
                return Checkpoint(state["step"], state["best"], stored_arrays(folder), optimizer)
        return None

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _complete(self) -> list[Path]:
        return sorted(self._checkpoints.glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")))

    def _fresh_partial(self, folder: Path) -> Path:
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial


def new_run(out: Path, name: str, recipe: Recipe) -> RunFolder:
    """Makes <out>/<name>-<date>-<n> and writes the resolved recipe into it."""
    number = 1
    while True:
        path = out / f"{name}-{date.today().isoformat()}-{number}"
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise RunError(
                f"{path}: the run folder cannot be made ({error.strerror}). Set out, or --out, to another folder"
            ) from error
    write_text(path / "recipe.yaml", dump_recipe(recipe))
    return RunFolder(path)


def run_to_resume(out: Path, name: str, recipe: Recipe) -> RunFolder:
    """The newest unfinished run of this recipe. Errors: RunError where there is none, or its recipe was another one."""
    runs = {RunFolder(file.parent): RunFolder(file.parent).info() for file in out.glob("*/run.json")}
    # By the name inside: the folders of "charts" and of "charts-t4" begin alike.
    own = [run for run, info in runs.items() if info.get("name") == name and info.get("kind") == "finetune"]
    open_runs = [run for run in own if runs[run].get("status") != "finished"]
    if not open_runs:
        raise RunError(f"{out}: no unfinished run of '{name}' to resume. Leave --resume out to start one")
    run = max(open_runs, key=lambda run: runs[run]["started"])
    stored = run.recipe()
    if stored != recipe:
        keys = [key for key in type(recipe).model_fields if getattr(stored, key) != getattr(recipe, key)]
        raise RunError(
            f"{run.path}: was started with another recipe ({', '.join(keys)} differ). Start a new run, or restore the recipe"
        )
    return run


def _seal(partial: Path, folder: Path) -> None:
    """Writes the manifest of SHA-256 sums and moves the folder to its place."""
    write_json(partial / _MANIFEST, {file.name: _digest(file) for file in sorted(partial.iterdir())})
    _place(partial, folder)


def _place(partial: Path, folder: Path) -> None:
    """Moves a folder to its place; one that stands there goes aside for as long."""
    if folder.exists():
        shutil.rmtree(_aside(folder), ignore_errors=True)
        os.replace(folder, _aside(folder))
    os.replace(partial, folder)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _intact(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return all(_digest(folder / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError):
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
