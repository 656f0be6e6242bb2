"""True sizes on a graphics card: Qwen2.5-VL-3B and SmolVLM-2.2B with random bfloat16 weights, beside transformers + PEFT.

    python scripts/bench.py --cuda --folder DIR [--repeats 5]

Pictures of about 512 tokens with four questions each, and with one; LoRA rank 16; bfloat16, and an nf4 base. transformers runs
with SDPA and gradient checkpointing. A profile of mlxtune's steps is left in DIR/profile-*.txt.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import models
from benchmarks.figures import Results
from benchmarks.flops import tokens_of, training_flops
from benchmarks.jobs import Job
from benchmarks.models import config_of
from benchmarks.runner import Runner
from benchmarks.store import Store
from benchmarks.table import table
from benchmarks.works import Work, read, write

# 32 x 16 tokens for Qwen2.5-VL; for SmolVLM 3 x 2 tiles and the whole, 81 tokens each: 567, the nearest there is.
_PICTURE = {"qwen2_5_vl": (896, 448), "smolvlm": (1152, 768)}
_WORKS = (
    Work("512x4", pictures=32, questions=4, answer=4, epochs=1, batch=8),
    Work("512x1", pictures=64, questions=1, answer=4, epochs=1, batch=8),
)
_SIDES = ("mlxtune-torch", "transformers")


def main(folder: Path, *, repeats: int, retry: bool) -> None:
    import torch

    if not torch.cuda.is_available():
        sys.exit("bench --cuda: torch sees no CUDA device. Run it where there is one; until then the table says 'not measured'")
    if torch.cuda.get_device_capability()[0] < 8:
        sys.exit("bench --cuda: this card has no bfloat16 (compute capability below 8)")
    store = Store(folder / "results-cuda.jsonl")
    runner = Runner(folder, store, size="true", device="cuda", precision="bfloat16", retry=retry)
    for repeat in range(repeats):
        runner.run("gemm", _job(runner, "gemm-torch", "qwen2_5_vl", _WORKS[0]), repeat)
        for job in _jobs(runner, turn=repeat):
            runner.run("cuda", job, repeat)
    for family in models.FAMILIES:
        runner.run("profile", _job(runner, "profile-torch", family, _WORKS[0]))
    results = Results(store.lines())
    text = page(results, runner, device=torch.cuda.get_device_name())
    (folder / "cuda.md").write_text(text, encoding="utf-8")
    content = {"device": torch.cuda.get_device_name(), "results": list(results.lines)}
    (folder / "cuda.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}\n{folder / 'cuda.md'}, {folder / 'cuda.json'}")


def _jobs(runner: Runner, *, turn: int) -> list[Job]:
    jobs = [
        _job(runner, side, family, work, quantize=quantize, checkpoint=side == "transformers")
        for family in models.FAMILIES
        for work in _WORKS
        for quantize in (False, True)
        for side in (_SIDES if turn % 2 == 0 else _SIDES[::-1])
    ]
    return jobs


def _job(runner: Runner, side: str, family: str, work: Work, **more: Any) -> Job:
    """As Runner.job, with pictures of the true models' size."""
    model = runner.folder / "models" / f"{family}-true-bfloat16"
    models.build(model, family=family, size="true", dtype="bfloat16")
    rows = write(runner.folder / "rows" / f"{work.name}-{family}", work, size=_PICTURE[family])
    return Job(side, family, work, str(model), str(rows), str(runner.folder / "out" / side), "cuda", "bfloat16", **more)


def page(results: Results, runner: Runner, *, device: str) -> str:
    rate = results.flops("torch")
    rows = []
    for family in models.FAMILIES:
        for work in _WORKS:
            for quantize in (False, True):
                for side in _SIDES:
                    rows.append(_row(results, _job(runner, side, family, work, quantize=quantize), rate))
    heads = ["model", "work", "base", "side", "samples/s", "tokens/s", "share of the GEMM rate", "peak GiB"]
    told = f"{rate / 1e12:.0f} TFLOP/s" if rate else "not measured"
    return f"{device}; bfloat16 matrix product in the same run: {told}.\n\n{table(heads, rows)}\n"


def _row(results: Results, job: Job, rate: float | None) -> list[str]:
    row = [job.family, job.work.name, "nf4" if job.quantize else "bfloat16", job.side]
    keys = {replace(job, checkpoint=flag).key for flag in (False, True)}
    lines = [line for line in results.of("cuda", side=job.side, family=job.family) if line["key"] in keys]
    steps = [seconds for line in lines for seconds in line["steps_s"][1:]]  # the first ones compile
    if not steps:
        return [*row, *["not measured"] * 4]
    seconds = median(steps)
    config, pictures = config_of(Path(job.model)), tokens_of(Path(job.model), read(Path(job.rows)))
    flops = sum(training_flops(config, tokens) for tokens in pictures) / job.work.steps
    count = sum(len(tokens.tails) * tokens.prefix + sum(tokens.tails) for tokens in pictures) / job.work.steps
    peak = median(line["memory"]["peak"] for line in lines)
    share = f"{100 * flops / seconds / rate:.0f} %" if rate else "not measured"
    return [*row, f"{job.work.batch / seconds:.1f}", f"{count / seconds:,.0f}", share, f"{peak / 2**30:.1f}"]
