"""TRL's SFTTrainer: prompt and completion apart, the loss in chunks (its default, once called chunked_nll)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.jobs import Job, Record
from benchmarks.sides.processors import load_processor
from benchmarks.sides.transformers_model import arguments, load_model, lora_config, trainable, watch
from benchmarks.works import read


def train(job: Job, record: Record) -> None:
    from datasets import Dataset, Image
    from trl import SFTConfig, SFTTrainer

    record.imported()
    columns = {
        "images": [[row["image"]] for row in read(Path(job.rows))],
        "prompt": [[{"role": "user", "content": row["question"]}] for row in read(Path(job.rows))],
        "completion": [[{"role": "assistant", "content": row["answer"]}] for row in read(Path(job.rows))],
    }
    rows = Dataset.from_dict(columns).cast_column("images", [Image()])
    processor = load_processor(job.model, job.family)
    model = load_model(job)
    record.loaded()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments(job), completion_only_loss=True, max_length=None, loss_type="nll"),
        train_dataset=rows,
        processing_class=processor,
        peft_config=lora_config(),
        callbacks=[watch(record)],
    )
    record.trainable = trainable(trainer.model)
    trainer.train()
    trainer.model.save_pretrained(Path(job.out) / "adapter")
    record.done()
