"""The narrow waist: what only a framework can do. Everything on the other side of it is shared by all backends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mlxtune.adapters import Adapter
from mlxtune.types import Arrays, Batch, Memory, Pixels, StepResult

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class Loading:
    """How a model is loaded. precision: of the frozen weights. quantize: None, "4bit" or "8bit"."""

    precision: str
    quantize: str | None = None


class Backend(Protocol):
    """One loaded model. Arrays come and go as numpy; states of a generation are opaque."""

    name: str
    device: str
    parameters: int  # of the model, without the adapter
    notes: tuple[str, ...]  # what a user should know about this machine though nothing failed

    def linears(self) -> Mapping[str, tuple[int, int]]:
        """Linear layers that can be adapted, by canonical name, with (out, in)."""

    def attach(self, adapter: Adapter, *, weight_decay: float) -> None:
        """Puts the adapter beside its layers and makes a fresh AdamW for it; at most once."""

    def vision_features(self, pixels: Sequence[Pixels]) -> list[np.ndarray]:
        """For each picture [tokens, hidden] float32, projected to the language model's width."""

    def train_step(self, micro: Sequence[Batch], *, lr: float, clip: float | None, seed: int) -> StepResult:
        """One AdamW update from the gradients of sum(weights * nll) over all batches. seed: of this step's dropout."""

    def loss(self, batch: Batch) -> float:
        """sum(weights * nll) in nats, without dropout."""

    def logits(self, batch: Batch) -> np.ndarray:
        """[N, vocabulary] float32 at `score_rows`."""

    def prefill(self, batch: Batch, *, room: int) -> tuple[Any, np.ndarray]:
        """Reads left-padded prompts. Gives a state with room for `room` more tokens, and the likeliest next ones, [B] int32."""

    def decode(self, state: Any, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Appends a token to each row (tokens [B], positions [A, B]) and gives the next likeliest ones, [B] int32."""

    def adapter(self) -> Arrays: ...

    def set_adapter(self, arrays: Arrays) -> None: ...

    def optimizer(self) -> Arrays:
        """AdamW's state: "<name>.exp_avg", "<name>.exp_avg_sq" for each adapter array, and "step"."""

    def set_optimizer(self, arrays: Arrays) -> None: ...

    def memory(self) -> Memory: ...


@dataclass
class LossScale:
    """What a float16 loss is multiplied with so that small gradients don't vanish. A step that overflows is made again.

    Source: dynamic loss scaling of Micikevicius et al. 2018 (arXiv 1710.03740), without skipping data.
    """

    value: float = 2.0**14
    growth_interval: int = 200
    good_steps: int = 0  # since the scale was last halved

    def to_array(self) -> np.ndarray:
        """[2] float64, for a checkpoint."""
        return np.array([self.value, self.good_steps], np.float64)

    def restore(self, array: np.ndarray) -> None:
        self.value, self.good_steps = float(array[0]), int(array[1])

    def accepts(self, grad_norm: float) -> bool:
        """Whether the gradients can be used; halves or doubles the scale."""
        if math.isfinite(grad_norm) or self.value <= 1.0:
            self.good_steps += 1
            if self.value > 1.0 and self.good_steps % self.growth_interval == 0:
                self.value *= 2
            return True
        self.value /= 2
        self.good_steps = 0
        return False
