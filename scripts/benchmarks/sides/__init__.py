"""Who does the work. Every side is used through its own public interface, in the fastest of its own settings that runs here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """module: where its `train` or `answer` stands. peers: whom the tables compare it with belong to one framework."""

    title: str
    framework: str  # "mlx" or "torch"
    module: str
    function: str
    ours: bool = False

    def load(self) -> Any:
        return getattr(importlib.import_module(f"benchmarks.sides.{self.module}"), self.function)


SIDES = {
    "mlxtune-mlx": Entry("mlxtune", "mlx", "ours", "train_mlx", ours=True),
    "mlx-vlm": Entry("mlx-vlm Trainer", "mlx", "mlx_vlm_trainer", "train"),
    "unsloth": Entry("Unsloth MLXTrainer", "mlx", "unsloth", "train"),
    "mlxtune-torch": Entry("mlxtune", "torch", "ours", "train_torch", ours=True),
    "transformers": Entry("transformers Trainer + PEFT", "torch", "transformers_trainer", "train"),
    "trl": Entry("TRL SFTTrainer", "torch", "trl_trainer", "train"),
    "mlxtune-mlx-answers": Entry("mlxtune", "mlx", "ours", "answer_mlx", ours=True),
    "mlx-vlm-one": Entry("mlx-vlm, one by one", "mlx", "mlx_vlm_answers", "one_by_one"),
    "mlx-vlm-batch": Entry("mlx-vlm, batches", "mlx", "mlx_vlm_answers", "batches"),
    "mlxtune-torch-answers": Entry("mlxtune", "torch", "ours", "answer_torch", ours=True),
    "transformers-one": Entry("transformers, one by one", "torch", "transformers_answers", "one_by_one"),
    "transformers-batch": Entry("transformers, batches", "torch", "transformers_answers", "batches"),
    "gemm-mlx": Entry("matrix product", "mlx", "probes", "gemm_mlx"),
    "gemm-torch": Entry("matrix product", "torch", "probes", "gemm_torch"),
    "share-mlx": Entry("mlxtune, with products between its steps", "mlx", "probes", "share_mlx"),
    "share-torch": Entry("mlxtune, with products between its steps", "torch", "probes", "share_torch"),
    "leak-mlx-vlm": Entry("mlx-vlm Trainer", "mlx", "probes", "leak_mlx_vlm"),
    "leak-unsloth": Entry("Unsloth MLXTrainer", "mlx", "probes", "leak_unsloth"),
    "profile-torch": Entry("mlxtune, profiled", "torch", "probes", "profile_torch"),
}
TRAINERS = ("mlxtune-mlx", "mlx-vlm", "unsloth", "mlxtune-torch", "transformers", "trl")
ANSWERERS = ("mlxtune-mlx-answers", "mlx-vlm-one", "mlx-vlm-batch", "mlxtune-torch-answers")
ANSWERERS += ("transformers-one", "transformers-batch")
