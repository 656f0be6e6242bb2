"""Loading and adapting as a user of transformers and PEFT does it."""

from __future__ import annotations

from typing import Any

from benchmarks.jobs import ALPHA, RANK, Job

_TEXT = r".*(language_model|text_model)\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


def load_model(job: Job) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    options: dict[str, Any] = {"dtype": getattr(torch, job.precision), "attn_implementation": "sdpa"}
    if job.quantize:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, job.precision)
        )
    if job.device == "cuda":
        options["device_map"] = "cuda"
    return AutoModelForImageTextToText.from_pretrained(job.model, **options)


def lora_config() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=_TEXT)


def trainable(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def watch(record: Any) -> Any:
    """A callback that notes each step's loss when it is logged, which is after the step's end."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
            if logs and "loss" in logs:
                record.step(logs["loss"])

    return Watch()


def arguments(job: Job) -> dict[str, Any]:
    """What HF's Trainer and TRL's are told alike."""
    from benchmarks.jobs import LEARNING_RATE

    return {
        "output_dir": job.out,
        "per_device_train_batch_size": job.work.batch,
        "num_train_epochs": job.work.epochs,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "optim": "adamw_torch",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": job.device == "cpu",
        "bf16": job.precision == "bfloat16",
        "gradient_checkpointing": job.checkpoint,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if job.checkpoint else None,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "seed": 0,
    }
