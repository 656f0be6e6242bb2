"""transformers' Trainer with PEFT, and a collator as its guides for vision-language models write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.jobs import Job, Record
from benchmarks.sides.conversations import Row, answer, question
from benchmarks.sides.processors import load_processor
from benchmarks.sides.transformers_model import arguments, load_model, lora_config, trainable, watch
from benchmarks.works import read


def train(job: Job, record: Record) -> None:
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments

    record.imported()
    rows = read(Path(job.rows))
    processor = load_processor(job.model, job.family)
    model = load_model(job)
    record.loaded()
    if job.checkpoint:
        model.enable_input_require_grads()
    model = get_peft_model(model, lora_config())
    record.trainable = trainable(model)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments(job), label_names=["labels"]),
        train_dataset=rows,
        data_collator=Collator(processor),
        callbacks=[watch(record)],
    )
    trainer.train()
    model.save_pretrained(Path(job.out) / "adapter")
    record.done()


@dataclass
class Collator:
    """Rows to a padded batch whose labels are the answers and their end tokens."""

    processor: Any

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        images = [[Image.open(row["image"]).convert("RGB")] for row in rows]
        prompts = [self._text(question(row), prompt=True) for row in rows]
        whole = [self._text(question(row) + answer(row), prompt=False) for row in rows]
        batch = self.processor(text=whole, images=images, padding=True, padding_side="right", return_tensors="pt")
        labels = batch["input_ids"].clone()
        labels[batch["attention_mask"] == 0] = -100
        for label, prompt, text, mask in zip(labels, prompts, whole, batch["attention_mask"], strict=True):
            # Prompt and answer meet at a token's border, so that the answer alone tells how long the prompt is.
            learned = len(self.processor.tokenizer(text[len(prompt) :], add_special_tokens=False)["input_ids"])
            label[: int(mask.sum()) - learned] = -100
        return {**batch, "labels": labels}

    def _text(self, messages: list[dict[str, Any]], *, prompt: bool) -> str:
        return self.processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
