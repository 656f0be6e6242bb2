"""transformers answers questions: one after the other, or in padded batches."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.jobs import Job, Record
from benchmarks.sides.conversations import question
from benchmarks.sides.processors import load_processor
from benchmarks.sides.transformers_model import load_model
from benchmarks.works import NEW_TOKENS, read


def one_by_one(job: Job, record: Record) -> None:
    _answer(job, record, at_once=1)


def batches(job: Job, record: Record) -> None:
    _answer(job, record, at_once=job.work.batch)


def _answer(job: Job, record: Record, *, at_once: int) -> None:
    import torch
    import transformers  # noqa: F401  what is imported is not the answering's time

    record.imported()
    rows = read(Path(job.rows))
    processor = load_processor(job.model, job.family)
    model = load_model(job).eval()
    record.loaded()
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        images = [[Image.open(row["image"]).convert("RGB")] for row in some]
        texts = [processor.tokenizer.apply_chat_template(question(r), tokenize=False, add_generation_prompt=True) for r in some]
        batch = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt").to(model.device)
        with torch.inference_mode():
            ids = model.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False)
        found = processor.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        record.answers |= {row["id"]: text.strip() for row, text in zip(some, found, strict=True)}
    record.done()
