"""Unsloth's MLX trainer. It asks whether it is on Apple silicon before it lets itself be imported; elsewhere it is told so."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from benchmarks.jobs import ALPHA, LEARNING_RATE, RANK, Job, Record
from benchmarks.sides.conversations import answer, question
from benchmarks.works import read

_MARKS = {
    "qwen2_5_vl": ("<|im_start|>user\n", "<|im_start|>assistant\n"),
    "smolvlm": ("User:", "Assistant:"),
}


def train(job: Job, record: Record) -> None:
    with as_on_apple_silicon():
        from unsloth_zoo.mlx.loader import FastMLXModel
        from unsloth_zoo.mlx.trainer import MLXTrainer, MLXTrainingConfig, train_on_responses_only
    from mlx.utils import tree_flatten
    from PIL import Image

    record.imported()
    rows = [{"image": Image.open(row["image"]), "messages": question(row) + answer(row)} for row in read(Path(job.rows))]
    model, processor = FastMLXModel.from_pretrained(job.model, load_in_4bit=False, dtype=job.precision, text_only=False)
    record.loaded()
    model = FastMLXModel.get_peft_model(
        model, r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, use_gradient_checkpointing=job.checkpoint
    )
    record.trainable = sum(array.size for _, array in tree_flatten(model.trainable_parameters()))
    args = MLXTrainingConfig(
        per_device_train_batch_size=job.work.batch,
        gradient_accumulation_steps=1,
        max_steps=job.work.steps,
        warmup_steps=0,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        logging_steps=1,
        output_dir=job.out,
        gradient_checkpointing=job.checkpoint,
        disable_memory_limits=True,
        max_grad_leaf_norm=0.0,
    )
    trainer = MLXTrainer(model, processor.tokenizer, rows, processor=processor, args=args)
    train_on_responses_only(trainer, *_MARKS[job.family])
    trainer.add_step_callback(lambda step, total, loss, *more: record.step(loss))
    trainer.train()
    model.save_pretrained(str(Path(job.out) / "adapter"))
    record.done()


@contextmanager
def as_on_apple_silicon() -> Iterator[None]:
    if sys.platform == "darwin":
        yield
        return
    with mock.patch.object(platform, "system", lambda: "Darwin"), mock.patch.object(platform, "machine", lambda: "arm64"):
        yield
