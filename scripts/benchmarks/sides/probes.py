"""Small measurements that explain the large ones: the machine's matrix product, and whether a peer reads the answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job, Record
from benchmarks.machine import gemm_rate, products
from benchmarks.sides.conversations import answer, question
from benchmarks.works import read


def gemm_mlx(job: Job, record: Record) -> None:
    record.figures["flops"] = gemm_rate("mlx", precision=job.precision, device=job.device)
    record.done()


def gemm_torch(job: Job, record: Record) -> None:
    record.figures["flops"] = gemm_rate("torch", precision=job.precision, device=job.device)
    record.done()


def share_mlx(job: Job, record: Record) -> None:
    _share(job, record, "mlx")


def share_torch(job: Job, record: Record) -> None:
    _share(job, record, "torch")


def _share(job: Job, record: Record, backend: str) -> None:
    """Steps of mlxtune and matrix products in turn: a machine that others use too is now faster and now slower, and the limit of
    a step is what the machine did right before and after it."""
    from benchmarks.sides.ours import train

    ways = products(backend, (2048, 2048, 2048), precision=job.precision, device=job.device)
    product = max(ways, key=lambda way: max(way() for _ in range(5)))
    begin: list[float] = []

    def between() -> None:
        if begin:
            record.alone_s.append(time.monotonic() - begin[-1])
        record.rates.append(product())
        begin.append(time.monotonic())

    train(job, record, backend, between=between)


def leak_mlx_vlm(job: Job, record: Record) -> None:
    """A row forward as mlx-vlm's trainer does it, twice: with its last token, and with another there. A causal model gives the
    same logits at all places before; `change` is the largest difference, `largest` the largest logit."""
    from mlx_vlm import load

    _leak(*load(job.model), job, record)


def leak_unsloth(job: Job, record: Record) -> None:
    """The same with the model as Unsloth loads it."""
    from benchmarks.sides.unsloth import as_on_apple_silicon

    with as_on_apple_silicon():
        from unsloth_zoo.mlx.loader import FastMLXModel
    _leak(*FastMLXModel.from_pretrained(job.model, load_in_4bit=False, dtype=job.precision, text_only=False), job, record)


def _leak(model: Any, processor: Any, job: Job, record: Record) -> None:
    import mlx.core as mx
    from mlx_vlm.trainer.vlm.sft.dataset import VisionDataset
    from mlx_vlm.trainer.vlm.sft.runtime import collate_vlm_batch, forward_vlm_logits

    row = read(Path(job.rows))[0]
    rows = VisionDataset([{"image": row["image"], "messages": question(row) + answer(row)}], model.config, processor)
    batch = collate_vlm_batch([rows[0]], 4096, pad_to_multiple=1)
    ids = batch["input_ids"]
    other = mx.concatenate([ids[:, :-1], (ids[:, -1:] + 1) % 1000], axis=1)
    first, second = (forward_vlm_logits(model, some, batch["attention_mask"], batch)[:, :-1] for some in (ids, other))
    record.figures["change"] = float(mx.abs(first - second).max())
    record.figures["largest"] = float(mx.abs(first).max())
    record.done()


def profile_torch(job: Job, record: Record) -> None:
    """Where mlxtune's steps spend their time: the operators, longest first, in profile-FAMILY.txt beside the results."""
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.sides.ours import train_torch

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if job.device == "cuda" else [])]
    with profile(activities=kinds) as seen:
        train_torch(job, record)
    by = "self_cuda_time_total" if job.device == "cuda" else "self_cpu_time_total"
    text = seen.key_averages().table(sort_by=by, row_limit=40)
    (Path(job.out).parents[1] / f"profile-{job.family}.txt").write_text(text, encoding="utf-8")
