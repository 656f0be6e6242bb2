"""The narrow waist: what only a framework can do. Everything on the other side of it is shared by all backends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from mlxtune.adapters import Adapter
from mlxtune.types import Arrays, Batch, Memory, Pixels, StepResult

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Likeliest(NamedTuple):
    """The likeliest next tokens of each row of a batch, likeliest first."""

    ids: np.ndarray  # [B, top] int32
    log_probabilities: np.ndarray  # [B, top] float32, nats


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
    precision: str  # of the frozen weights: "float32", "bfloat16" or "float16"
    notes: tuple[str, ...]  # what a user should know about this machine though nothing failed
    vision_lanes: int  # pictures, or piles of them, that `vision_features` works on side by side
    gains_by_compiling: bool  # whether a compiled step is known to be worth its start on this device

    def linears(self) -> Mapping[str, tuple[int, int]]:
        """Linear layers that can be adapted, by canonical name, with (out, in)."""

    def attach(self, adapter: Adapter, *, weight_decay: float, checkpointing: bool = False, compiled: bool = False) -> None:
        """Puts the adapter beside its layers and makes a fresh AdamW for it; at most once.

        checkpointing: a step keeps only the inputs of the text model's layers, and runs each again on the way back.
        Source: Chen et al. 2016 (arXiv 1604.06174). compiled: by the framework, once for each size of its arrays.
        """

    def vision_features(self, pixels: Sequence[Pixels]) -> list[np.ndarray]:
        """For each picture [tokens, width] float32: all that the language model takes of it. Width is that of the language
        model, times as many levels as a family feeds into it."""

    def rest_vision(self) -> None:
        """Lets the weights before the text model leave the device's memory; they come back when pixels come again."""

    def train_step(self, micro: Sequence[Batch], *, lr: float, clip: float | None, seed: int) -> StepResult:
        """One AdamW update from the gradients of sum(weights * nll) over all batches. seed: of this step's dropout."""

    def loss(self, batch: Batch) -> float:
        """sum(weights * nll) in nats, without dropout."""

    def logits(self, batch: Batch) -> np.ndarray:
        """[N, vocabulary] float32 at `score_rows`."""

    def prefill(self, batch: Batch, *, room: int, top: int = 1, after: Any = None) -> tuple[Any, Likeliest]:
        """Reads left-padded prompts. Gives a state with room for `room` more tokens, and the `top` likeliest next ones.

        after: the state of what each row has read before, which is used up; it must have had room for these prompts and `room`.
        """

    def decode(self, state: Any, tokens: np.ndarray, positions: np.ndarray, *, top: int = 1) -> Likeliest:
        """Appends a token to each row (tokens [B], positions [A, B]) and gives the `top` likeliest next ones."""

    def select(self, state: Any, rows: np.ndarray) -> None:
        """From now on the state's rows are these of its rows, [B'] int; a row may be left out or repeated."""

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

    @property
    def fixed(self) -> bool:
        """Whether gradients are used whatever they are, so that nobody need look at them first."""
        return self.value <= 1.0

    def to_array(self) -> np.ndarray:
        """[2] float64, for a checkpoint."""
        return np.array([self.value, self.good_steps], np.float64)

    def restore(self, array: np.ndarray) -> None:
        self.value, self.good_steps = float(array[0]), int(array[1])

    def accepts(self, grad_norm: float) -> bool:
        """Whether the gradients can be used; halves or doubles the scale."""
        if math.isfinite(grad_norm) or self.fixed:
            self.good_steps += 1
            if not self.fixed and self.good_steps % self.growth_interval == 0:
                self.value *= 2
            return True
        self.value /= 2
        self.good_steps = 0
        return False
