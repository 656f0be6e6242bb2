"""The parts of the benchmark. Within each, all sides alternate: what disturbs the machine disturbs everybody."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.flops import tokens_of, training_flops, vision_flops
from benchmarks.jobs import Job
from benchmarks.machine import load
from benchmarks.models import config_of
from benchmarks.runner import Runner
from benchmarks.sides import ANSWERERS, SIDES, TRAINERS
from benchmarks.start import seconds_to_first_step
from benchmarks.works import GROWTH, WORKS, read

TOLERANCE = 1e-3  # nats, between first losses
_ORACLE = "transformers"


def check(runner: Runner, families: Sequence[str], sides: Sequence[str]) -> bool:
    """First loss and number of trained weights of every side on the same four rows; whether all that must agree do.

    A peer that disagrees is told, with what the last word of an answer changes before it; the benchmark goes on. mlxtune and
    transformers must agree.
    """
    well = True
    for family in families:
        lines = {}
        for side in TRAINERS:
            if side in (*sides, _ORACLE):
                lines[side] = runner.run("check", runner.job(side, family, WORKS["W2"].limited(1)))
        theirs = lines[_ORACLE]
        if theirs is None or "error" in theirs:
            print(f"check: {_ORACLE} does not run on {family}, so nothing can be compared", file=sys.stderr)
            return False
        for side, line in lines.items():
            wrong = _disagreement(line, theirs)
            if wrong:
                print(f"check: {SIDES[side].title} on {family}: {wrong}", file=sys.stderr)
                well = well and not SIDES[side].ours
        for side in ("mlx-vlm", "unsloth"):
            if side in sides:
                runner.run("leak", runner.job(f"leak-{side}", family, WORKS["W2"].limited(1)))
    return well


def _disagreement(line: dict[str, Any] | None, theirs: dict[str, Any]) -> str | None:
    if line is None or "error" in line:
        return "does not run"
    if line["trainable"] != theirs["trainable"]:
        return f"trains {line['trainable']:,} weights, {_ORACLE} {theirs['trainable']:,}"
    difference = abs(line["losses"][0] - theirs["losses"][0])
    return f"first loss {line['losses'][0]:.5f}, {_ORACLE} {theirs['losses'][0]:.5f}" if difference > TOLERANCE else None


def timings(runner: Runner, families: Sequence[str], works: Sequence[str], sides: Sequence[str], *, repeats: int) -> None:
    for repeat in range(repeats):
        for name in ("gemm-mlx", "gemm-torch"):
            runner.run("gemm", runner.job(name, families[0], WORKS["W2"].limited(1)), repeat)
        for job in _jobs(runner, families, works, sides, turn=repeat):
            runner.run("time", job, repeat)


def _jobs(runner: Runner, families: Sequence[str], works: Sequence[str], sides: Sequence[str], *, turn: int) -> Iterator[Job]:
    """Who begins changes with every turn."""
    for family in families:
        for work in (WORKS[name] for name in works):
            able = [side for side in (TRAINERS if work.epochs else ANSWERERS) if side in sides]
            first = turn % len(able) if able else 0
            yield from (runner.job(side, family, work) for side in able[first:] + able[:first])


def lean(runner: Runner, families: Sequence[str], works: Sequence[str], sides: Sequence[str]) -> None:
    """Every trainer once more with gradient checkpointing, for the leanest it can be."""
    for family in families:
        for work in (WORKS[name] for name in works if WORKS[name].epochs):
            for side in (side for side in TRAINERS if side in sides):
                runner.run("lean", runner.job(side, family, work, checkpoint=True))


def shares(runner: Runner, families: Sequence[str], sides: Sequence[str], *, repeats: int) -> None:
    """Steps of W2, four times as many, in turn with matrix products."""
    for repeat in range(repeats):
        for family in families:
            for framework in ("mlx", "torch"):
                if f"mlxtune-{framework}" in sides:
                    runner.run("share", runner.job(f"share-{framework}", family, replace(WORKS["W2"], epochs=4)), repeat)


def first_steps(runner: Runner, *, repeats: int) -> None:
    for repeat in range(repeats):
        for backend in ("mlx", "torch"):
            if not runner.store.has("start", backend, repeat):
                seconds = seconds_to_first_step(backend, runner.folder / "out" / "start")
                runner.store.add("start", backend, repeat, seconds=seconds, load=load())
                print(f"start    {repeat} {backend:60} {seconds:8.1f} s", flush=True)


def growth(runner: Runner, *, rows: Sequence[int], size: str) -> None:
    for work in (work for work in GROWTH if work.rows in rows):
        for side in ("mlxtune-mlx", "mlxtune-torch"):
            runner.run("growth", runner.job(side, "qwen2_5_vl", work, size=size))


def least_work(runner: Runner, families: Sequence[str]) -> dict[str, dict[str, float]]:
    """FLOPs by family: a training step of W2, and the vision pass of one picture."""
    found = {}
    for family in families:
        job = runner.job("mlxtune-torch", family, WORKS["W2"])
        config = config_of(Path(job.model))
        pictures = tokens_of(Path(job.model), read(Path(job.rows)))
        step = sum(training_flops(config, tokens) for tokens in pictures) / job.work.steps
        found[family] = {"step": step, "picture": vision_flops(config, family)}
    return found
