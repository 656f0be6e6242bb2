"""mlx-vlm answers questions: one after the other, or with its own batches."""

from __future__ import annotations

from pathlib import Path

from benchmarks.jobs import Job, Record
from benchmarks.works import NEW_TOKENS, read

_AT_ONCE = 40  # given to batch_generate in one call; it cuts them up itself


def one_by_one(job: Job, record: Record) -> None:
    from mlx_vlm import generate, load
    from mlx_vlm.prompt_utils import apply_chat_template

    record.imported()
    rows = read(Path(job.rows))
    model, processor = load(job.model)
    record.loaded()
    for row in rows:
        prompt = apply_chat_template(processor, model.config, row["question"], num_images=1)
        found = generate(model, processor, prompt, image=[row["image"]], max_tokens=NEW_TOKENS, temperature=0.0)
        record.answers[row["id"]] = found.text.strip()
    record.done()


def batches(job: Job, record: Record) -> None:
    from mlx_vlm import load
    from mlx_vlm.generate import batch_generate

    record.imported()
    rows = read(Path(job.rows))
    model, processor = load(job.model)
    record.loaded()
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        prompts, images = [row["question"] for row in some], [row["image"] for row in some]  # it applies the template itself
        found = batch_generate(model, processor, images=images, prompts=prompts, max_tokens=NEW_TOKENS)  # greedy
        record.answers |= {row["id"]: text.strip() for row, text in zip(some, found.texts, strict=True)}
    record.done()
