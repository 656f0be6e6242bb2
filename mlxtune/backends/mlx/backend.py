"""The `Backend` protocol on MLX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlxtune import blas
from mlxtune.adapters import Adapter
from mlxtune.backends.base import Likeliest, Loading, LossScale
from mlxtune.backends.mlx import lora
from mlxtune.backends.mlx.attention import Visible
from mlxtune.backends.mlx.device import describe, give_way, memory, pick_dtype
from mlxtune.backends.mlx.lanes import lanes, side_by_side
from mlxtune.backends.mlx.loading import forget_vision, load_model
from mlxtune.backends.mlx.models import Inputs, Model
from mlxtune.backends.mlx.optimizer import AdamW, norm
from mlxtune.backends.mlx.step import Step
from mlxtune.batching import own_mask
from mlxtune.types import Arrays, Batch, Memory, Pixels, StepResult
from mlxtune.wanted_rows import WantedRows


@dataclass
class _Generation:
    caches: list[Any]
    seen: np.ndarray  # [B, tokens so far] bool; False on padding


@dataclass
class MlxBackend:
    model: Model
    folder: Path
    dtype: mx.Dtype
    name: str = "mlx"
    _optimizer: AdamW | None = None
    _scale: LossScale = field(default_factory=LossScale)

    def __post_init__(self) -> None:
        self._weights = lora.Weights({})
        self._step = Step(self.model, self.dtype, self._weights)
        self.device = describe()
        self.notes = blas.notes()
        self.vision_lanes = lanes(self.dtype)
        self.precision = str(self.dtype).removeprefix("mlx.core.")
        self.parameters = sum(value.size for _, value in tree_flatten(self.model.parameters()))
        if self.dtype != mx.float16:
            self._scale = LossScale(value=1.0)

    def linears(self) -> Mapping[str, tuple[int, int]]:
        return {name: _shape(module) for name, module in self.model.named_modules() if _is_linear(module)}

    @property
    def gains_by_compiling(self) -> bool:
        # On a CPU each fused operation is a call of g++, and no faster than the parts.
        return mx.default_device().type == mx.DeviceType.gpu

    def attach(self, adapter: Adapter, *, weight_decay: float, checkpointing: bool = False, compiled: bool = False) -> None:
        assert not self._weights.arrays, "a model takes one adapter"
        self._weights = lora.attach(self.model, adapter)
        self._step = Step(self.model, self.dtype, self._weights, checkpointing=checkpointing, compiled=compiled)
        self._optimizer = AdamW(self._weights.arrays, weight_decay=weight_decay)

    def vision_features(self, pixels: Sequence[Pixels]) -> list[np.ndarray]:
        weights = tree_flatten(self.model.parameters())
        mx.eval([value for name, value in weights if self.model.is_vision(name)])  # they may not have been read yet
        each = math.ceil(len(pixels) / self.vision_lanes)
        found = side_by_side(self._features, [pixels[start : start + each] for start in range(0, len(pixels), each)])
        return list(chain.from_iterable(found))

    def rest_vision(self) -> None:
        forget_vision(self.model, self.folder, self.dtype)

    def train_step(self, micro: Sequence[Batch], *, lr: float, clip: float | None, seed: int) -> StepResult:
        assert self._optimizer is not None, "attach an adapter first"
        while True:
            scale = self._scale.value
            total, gradient = self._gradient(self._optimizer, micro, seed=seed)
            loss, length = total / scale, norm(gradient) / scale
            if self._scale.fixed or self._scale.accepts(length.item()):
                break
        # Nothing is asked for before all is handed in: a graphics card would stand still meanwhile.
        times = (mx.array(1.0) if clip is None else mx.minimum(clip / length, 1.0)) / scale
        self._weights.arrays = self._optimizer.updated(self._weights.arrays, gradient, lr=lr, times=times)
        return StepResult(loss.item(), length.item())

    def loss(self, batch: Batch) -> float:
        return self._step.loss(batch).item()

    def logits(self, batch: Batch) -> np.ndarray:
        return np.array(self.model.head(self._step.scored(batch)).astype(mx.float32))

    def prefill(self, batch: Batch, *, room: int, top: int = 1, after: Any = None) -> tuple[Any, Likeliest]:
        inputs, width = self._step.inputs(batch), batch.input_ids.shape[1]
        state = after or _Generation(self.model.new_caches(width + room), batch.valid[:, :0])
        if after is not None:
            before = np.repeat(state.seen[:, None], width, axis=1)
            own = np.broadcast_to(own_mask(batch), (len(before), width, width))
            inputs.mask = Visible.of(np.concatenate([before, own], axis=-1))
        inputs.caches, state.seen = state.caches, np.concatenate([state.seen, batch.valid], axis=1)
        inputs.rows = WantedRows(*map(mx.array, WantedRows.last_of_each(len(batch.input_ids), width)))
        return state, self._likeliest(self.model.hidden(inputs), top)

    def decode(self, state: Any, tokens: np.ndarray, positions: np.ndarray, *, top: int = 1) -> Likeliest:
        state.seen = np.concatenate([state.seen, np.ones((len(tokens), 1), bool)], axis=1)
        mask = None if state.seen.all() else Visible.of(state.seen[:, None])
        inputs = Inputs(mx.array(tokens)[:, None], mx.array(positions)[:, :, None], mask=mask, caches=state.caches)
        return self._likeliest(self.model.hidden(inputs)[:, 0], top)

    def select(self, state: Any, rows: np.ndarray) -> None:
        state.seen = state.seen[rows]
        for cache in state.caches:
            cache.select(mx.array(rows))

    def adapter(self) -> Arrays:
        return {name: np.array(value) for name, value in self._weights.arrays.items()}

    def set_adapter(self, arrays: Arrays) -> None:
        self._weights.arrays = {name: mx.array(arrays[name]) for name in self._weights.arrays}

    def optimizer(self) -> Arrays:
        assert self._optimizer is not None, "attach an adapter first"
        return {**self._optimizer.arrays(), "loss_scale": self._scale.to_array()}

    def set_optimizer(self, arrays: Arrays) -> None:
        assert self._optimizer is not None, "attach an adapter first"
        self._scale.restore(arrays["loss_scale"])
        self._optimizer.restore(arrays)

    def memory(self) -> Memory:
        return memory()

    # -- forward --------------------------------------------------------------------------------------------------

    def _features(self, pixels: Sequence[Pixels]) -> list[np.ndarray]:
        features = np.array(self.model.vision(pixels, self.dtype).astype(mx.float32))
        return np.split(features, np.cumsum([p.tokens for p in pixels])[:-1])

    def _gradient(self, optimizer: AdamW, micro: Sequence[Batch], *, seed: int) -> tuple[mx.array, mx.array]:
        """The step's loss, and its gradient as the optimizer joins it, both times the loss scale. Handed in, not waited for."""
        total, gradient = mx.array(0.0), mx.array(0.0)
        self._weights.training = True
        try:
            for number, batch in enumerate(micro):
                self._weights.draw_keys(seed * 1_009 + number)
                loss, gradients = self._step.gradients(batch, scale=self._scale.value)
                total, gradient = total + loss, gradient + optimizer.joined(gradients)
                mx.async_eval(total, gradient)
        finally:
            self._weights.training = False
        return total, gradient

    def _likeliest(self, hidden: mx.array, top: int) -> Likeliest:
        """hidden: [B, hidden] of each row's last token."""
        logits = self.model.head(hidden).astype(mx.float32)
        ids = logits.argmax(-1, keepdims=True) if top == 1 else mx.argsort(-logits, axis=-1)[:, :top]
        log_probabilities = mx.take_along_axis(logits, ids, axis=-1) - mx.logsumexp(logits, axis=-1, keepdims=True)
        return Likeliest(np.array(ids.astype(mx.int32)), np.array(log_probabilities))


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.QuantizedLinear))


def _shape(module: nn.Module) -> tuple[int, int]:
    size_out, size_in = module.weight.shape
    return size_out, size_in * 32 // module.bits if isinstance(module, nn.QuantizedLinear) else size_in


def load(folder: Path, loading: Loading) -> MlxBackend:
    give_way()
    return MlxBackend(load_model(folder, loading), folder, pick_dtype(loading.precision))
