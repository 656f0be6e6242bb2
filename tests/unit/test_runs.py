"""Run folders: whole files or none, checkpoints that say when they are damaged, and which run is gone on with."""

from __future__ import annotations

import json
import os
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.adapters import Adapter
from mlxtune.errors import RunError
from mlxtune.metrics import Item, score
from mlxtune.recipe import Recipe, load_recipe
from mlxtune.runs import Checkpoint, RunFolder, new_run, run_to_resume, write_json, write_text

ADAPTER = Adapter(rank=2, alpha=4.0, dropout=0.0, rslora=False, sites=("a.b",), arrays={})


class Killed(BaseException):
    """Not an Exception, as nothing may catch it."""


def recipe(**train: Any) -> Recipe:
    return Recipe.model_validate({"model": {"path": "m/n"}, "data": {"path": "d"}, "train": train})


def checkpoint(step: int) -> Checkpoint:
    adapter = {"a.b.lora_A": np.full((2, 3), step, np.float32), "a.b.lora_B": np.full((4, 2), -step, np.float32)}
    optimizer = {"a.b.lora_A.exp_avg": np.full((2, 3), step / 2, np.float32), "step": np.array(step, np.int64)}
    return Checkpoint(step=step, best=1 / step, adapter=adapter, optimizer=optimizer)


def kill_at_move(monkeypatch: pytest.MonkeyPatch, *, name: str) -> None:
    """The process dies when the file or folder of this name is about to be moved to its place."""
    replace = os.replace

    def move(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", move)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


# -- whole files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, "old"])
def test_a_kill_leaves_the_old_file_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    file = tmp_path / "deep" / "file.txt"
    if before is not None:
        write_text(file, before)
    with monkeypatch.context() as dying:
        kill_at_move(dying, name="file.txt")
        with pytest.raises(Killed):
            write_text(file, "new")
    assert (file.read_text() if file.exists() else None) == before
    write_text(file, "new")
    assert file.read_text() == "new" and [path.name for path in file.parent.iterdir()] == ["file.txt"]


def test_json_keeps_every_script_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"вопрос": "Żółw"})
    assert "Żółw" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_info_is_added_to(run: RunFolder) -> None:
    assert run.info() == {}
    run.update_info(status="running", seed=1)
    run.update_info(status="finished")
    assert run.info() == {"status": "finished", "seed": 1}


def test_an_evaluation_counts_only_when_it_is_whole(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = [{"id": "1", "prediction": "Да\u2028yes"}, {"id": "2", "prediction": ""}]
    scores, _ = score(["exact_match"], [Item("Да", ("да",)), None])
    with monkeypatch.context() as dying:
        kill_at_move(dying, name="metrics.json")
        with pytest.raises(Killed):
            run.write_evaluation("before", predictions, scores, {"rows": 2})
    assert (run.path / "before/predictions.jsonl").exists() and run.read_evaluation("before") is None
    run.write_evaluation("before", predictions, scores, {"rows": 2})
    assert run.read_evaluation("before") == (predictions, {"exact_match": {"value": 1.0, "n": 1, "ungraded": 1}})
    assert run.read_evaluation("after") is None and run.read_json("before/evaluation.json") == {"rows": 2}
    run.write_evaluation("before/gqa-ru", predictions[:1], scores, {"rows": 1})
    assert [len(run.read_evaluation(name)[0]) for name in ("before", "before/gqa-ru")] == [2, 1]


def test_looks_at_the_validation_rows_are_forgotten_with_their_steps(run: RunFolder) -> None:
    run.path.mkdir()
    for step in (10, 20, 30):
        run.log_validation({"step": step, "loss": 1 / step, "scores": {}, "best": step == 20})
    with (run.path / "validation.jsonl").open("a") as stream:
        stream.write('{"step": 40, "lo')  # a kill
    run.forget_steps_after(20)
    assert [look["step"] for look in run.validations()] == [10, 20]


# -- checkpoints ----------------------------------------------------------------------------------------------------


def same(left: Checkpoint | None, right: Checkpoint) -> bool:
    if left is None or (left.step, left.best) != (right.step, right.best):
        return False
    pairs = [(left.adapter, right.adapter), (left.optimizer, right.optimizer)]
    return all(a.keys() == b.keys() and all((a[k] == b[k]).all() and a[k].dtype == b[k].dtype for k in a) for a, b in pairs)


def save(run: RunFolder, step: int) -> Path:
    return run.save_checkpoint(checkpoint(step), ADAPTER, base="m/n")


def test_a_checkpoint_comes_back_as_it_was(run: RunFolder) -> None:
    assert run.latest_checkpoint() is None
    folder = save(run, 7)
    assert folder.name == "step-000007" and same(run.latest_checkpoint(), checkpoint(7))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == {file.name for file in folder.iterdir()} - {"manifest.json"}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in manifest.values())


def test_only_the_newest_two_stay(run: RunFolder) -> None:
    for step in (5, 10, 999_999, 1_000_000):  # the last name is longer than the others
        save(run, step)
    assert {f.name for f in (run.path / "checkpoints").iterdir()} == {"step-999999", "step-1000000"}
    assert same(run.latest_checkpoint(), checkpoint(1_000_000))


FILES = ["adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "state.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_makes_the_older_one_count(run: RunFolder, name: str) -> None:
    save(run, 1)
    file = save(run, 2) / name
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    assert same(run.latest_checkpoint(), checkpoint(1))


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])])
def test_a_missing_or_short_file_makes_the_older_one_count(run: RunFolder, name: str, spoil: Any) -> None:
    save(run, 1)
    spoil(save(run, 2) / name)
    assert same(run.latest_checkpoint(), checkpoint(1))


def test_a_kill_while_saving_leaves_the_older_ones(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, 1)
    with monkeypatch.context() as dying:
        kill_at_move(dying, name="step-000002")
        with pytest.raises(Killed):
            save(run, 2)
    assert same(run.latest_checkpoint(), checkpoint(1))
    save(run, 2)
    assert same(run.latest_checkpoint(), checkpoint(2))
    assert {f.name for f in (run.path / "checkpoints").iterdir()} == {"step-000001", "step-000002"}


def test_best_is_kept_apart(run: RunFolder) -> None:
    assert run.best() is None and run.best_step() is None
    for step in (3, 6):
        run.save_best(ADAPTER, checkpoint(step).adapter, step=step, base="m/n")
    for step in (7, 8, 9):
        save(run, step)
    assert run.best_step() == 6 and run.best() == run.path / "checkpoints/best"


def test_a_kill_while_saving_the_best_leaves_the_older_best(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save_best(ADAPTER, checkpoint(3).adapter, step=3, base="m/n")
    with monkeypatch.context() as dying:
        kill_at_move(dying, name="best")
        with pytest.raises(Killed):
            run.save_best(ADAPTER, checkpoint(6).adapter, step=6, base="m/n")
    assert run.best_step() == 3


def test_a_damaged_best_is_said_to_be_damaged(run: RunFolder) -> None:
    """Without a word, the last weights would stand for the best ones."""
    run.save_best(ADAPTER, checkpoint(3).adapter, step=3, base="m/n")
    (run.path / "checkpoints/best/adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="checkpoints/best.*damaged"):
        run.best()


# -- train.jsonl ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "steps"), [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
@pytest.mark.parametrize("tail", ["", '{"step": 4, "lo', '{"step": 4'])
def test_steps_that_will_be_made_again_are_forgotten(run: RunFolder, keep: int, steps: list[int], tail: str) -> None:
    run.path.mkdir()
    for step in (1, 2, 3):
        run.log_step({"step": step, "loss": 0.5})
    with (run.path / "train.jsonl").open("a") as stream:
        stream.write(tail)
    run.forget_steps_after(keep)
    run.log_step({"step": 10, "loss": 0.25})
    assert [json.loads(line)["step"] for line in (run.path / "train.jsonl").read_text().splitlines()] == [*steps, 10]


def test_nothing_to_forget(run: RunFolder) -> None:
    run.forget_steps_after(3)
    assert not (run.path / "train.jsonl").exists()


# -- which run ------------------------------------------------------------------------------------------------------


def test_runs_are_numbered_by_day(tmp_path: Path) -> None:
    names = [new_run(tmp_path / "out", "charts", recipe()).path.name for _ in range(3)]
    assert names == [f"charts-{date.today().isoformat()}-{n}" for n in (1, 2, 3)]
    assert load_recipe(tmp_path / "out" / names[0] / "recipe.yaml") == recipe()


@pytest.mark.parametrize("out", ["taken", "taken/below"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunError, match="--out, to another folder") as caught:
        new_run(tmp_path / out, "charts", recipe())
    assert "\n" not in str(caught.value)


def started(out: Path, name: str, *, day: int, status: str = "running", kind: str = "finetune", **train: Any) -> RunFolder:
    run = new_run(out, name, recipe(**train))
    run.update_info(kind=kind, status=status, name=name, started=f"2026-01-{day:02d}T00:00:00.000000+00:00")
    return run


def test_the_newest_unfinished_run_is_gone_on_with(tmp_path: Path) -> None:
    runs = [started(tmp_path, "charts", day=day) for day in (9, 11, 10)]
    started(tmp_path, "charts", day=20, status="finished")
    started(tmp_path, "charts", day=21, kind="evaluate")
    assert run_to_resume(tmp_path, "charts", recipe()).path == runs[1].path


@pytest.mark.parametrize("other", ["charts-t4", "charts-2026", "chart"])
def test_runs_of_recipes_with_a_longer_name_are_others(tmp_path: Path, other: str) -> None:
    own = started(tmp_path, "charts", day=1)
    started(tmp_path, other, day=2, steps=5)
    assert run_to_resume(tmp_path, "charts", recipe()).path == own.path


def test_a_name_with_signs_of_a_pattern(tmp_path: Path) -> None:
    own = started(tmp_path, "charts[1]", day=1)
    assert run_to_resume(tmp_path, "charts[1]", recipe()).path == own.path


@pytest.mark.parametrize("state", ["no folder", "empty", "finished", "evaluation", "killed before run.json"])
def test_nothing_to_resume_is_refused(tmp_path: Path, state: str) -> None:
    out = tmp_path / "out"
    if state != "no folder":
        out.mkdir()
    if state == "finished":
        started(out, "charts", day=1, status="finished")
    elif state == "evaluation":
        started(out, "charts", day=1, kind="evaluate")
    elif state == "killed before run.json":
        new_run(out, "charts", recipe())
    with pytest.raises(RunError, match="no unfinished run of 'charts' to resume. Leave --resume out"):
        run_to_resume(out, "charts", recipe())


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    started(tmp_path, "charts", day=1, steps=3)
    with pytest.raises(RunError, match=r"another recipe \(train differ"):
        run_to_resume(tmp_path, "charts", recipe(steps=4))
