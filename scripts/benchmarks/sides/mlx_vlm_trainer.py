"""mlx-vlm's Trainer, completions only. Its compiled step fails for these models: their forwards read values out of arrays."""

from __future__ import annotations

from pathlib import Path

from benchmarks.jobs import ALPHA, LEARNING_RATE, RANK, Job, Record
from benchmarks.sides.conversations import answer, question
from benchmarks.works import read


def train(job: Job, record: Record) -> None:
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten
    from mlx_vlm import load
    from mlx_vlm.trainer import Trainer, TrainingCallback, VLMTrainingArgs, prepare_model_for_training

    record.imported()
    rows = [{"image": row["image"], "messages": question(row) + answer(row)} for row in read(Path(job.rows))]
    model, processor = load(job.model)
    record.loaded()
    prepare_model_for_training(model, lora_rank=RANK, lora_alpha=ALPHA, verbose=False)
    record.trainable = sum(array.size for _, array in tree_flatten(model.trainable_parameters()))

    class Watch(TrainingCallback):
        def on_train_loss_report(self, train_info: dict) -> None:
            record.step(train_info["train_loss"])

    # Several rows at once crash its Idefics3 (and one at a time learns without a causal mask).
    size = 1 if job.family == "smolvlm" else job.work.batch
    args = VLMTrainingArgs(
        batch_size=size,
        gradient_accumulation_steps=job.work.batch // size,
        iters=job.work.epochs * len(rows) // size,
        steps_per_report=job.work.batch // size,
        steps_per_eval=None,
        steps_per_save=10**9,
        adapter_file=str(Path(job.out) / "adapters.safetensors"),
        grad_checkpoint=job.checkpoint,
        cache_size=None,  # every row is prepared once
        train_on_completions=True,
    )
    optimizer = optim.AdamW(learning_rate=LEARNING_RATE, weight_decay=0.0, bias_correction=True)
    trainer = Trainer(model, args, train_dataset=rows, processing_class=processor, optimizer=optimizer, training_callback=Watch())
    trainer.train()
    mx.synchronize()
    record.done()
