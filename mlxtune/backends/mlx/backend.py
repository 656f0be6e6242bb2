"""The `Backend` protocol on MLX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten

from mlxtune.adapters import Adapter
from mlxtune.backends.base import BETAS, EPSILON, Loading, LossScale
from mlxtune.backends.mlx import blas, lora
from mlxtune.backends.mlx.cache import KVCache
from mlxtune.backends.mlx.device import describe, memory, pick_dtype
from mlxtune.backends.mlx.loading import load_model
from mlxtune.types import Arrays, Batch, Memory, Pixels, StepResult

_CHUNK = 256  # logits that are summed up at once


@dataclass
class _Generation:
    caches: list[KVCache]
    seen: np.ndarray  # [B, tokens so far] bool; False on padding


@dataclass
class MlxBackend:
    model: Any
    dtype: mx.Dtype
    name: str = "mlx"
    _weights: lora.Weights = field(default_factory=lambda: lora.Weights({}))
    _optimizer: optim.AdamW | None = None
    _scale: LossScale = field(default_factory=LossScale)

    def __post_init__(self) -> None:
        self.device = describe()
        self.notes = blas.notes()
        self.parameters = sum(value.size for _, value in tree_flatten(self.model.parameters()))
        if self.dtype != mx.float16:
            self._scale = LossScale(value=1.0)

    def linears(self) -> Mapping[str, tuple[int, int]]:
        return {
            name: _shape(module)
            for name, module in self.model.named_modules()
            if hasattr(module, "weight") and _is_linear(module)
        }

    def attach(self, adapter: Adapter, *, weight_decay: float) -> None:
        assert not self._weights.arrays, "a model takes one adapter"
        self._weights = lora.attach(self.model, adapter)
        # MLX's AdamW skips bias correction unless told; torch never does.
        self._optimizer = optim.AdamW(0.0, betas=list(BETAS), eps=EPSILON, weight_decay=weight_decay, bias_correction=True)
        self._optimizer.init(self._weights.arrays)

    def vision_features(self, pixels: Sequence[Pixels]) -> list[np.ndarray]:
        features = np.array(self.model.vision(pixels, self.dtype).astype(mx.float32))
        return np.split(features, np.cumsum([p.tokens for p in pixels])[:-1])

    def train_step(self, micro: Sequence[Batch], *, lr: float, clip: float | None, seed: int) -> StepResult:
        assert self._optimizer is not None, "attach an adapter first"
        while True:
            loss, gradients, norm = self._gradients(micro, seed=seed)
            if self._scale.accepts(norm):
                break
        if clip is not None and norm > clip:
            gradients = {name: gradient * (clip / norm) for name, gradient in gradients.items()}
        self._optimizer.learning_rate = lr
        self._weights.arrays = self._optimizer.apply_gradients(gradients, self._weights.arrays)
        mx.eval(self._weights.arrays, self._optimizer.state)
        return StepResult(loss, norm)

    def loss(self, batch: Batch) -> float:
        return self._loss(batch).item()

    def logits(self, batch: Batch) -> np.ndarray:
        return np.array(self._logits(batch))

    def prefill(self, batch: Batch, *, room: int) -> tuple[Any, np.ndarray]:
        width = batch.input_ids.shape[1]
        state = _Generation([KVCache(width + room) for _ in self.model.text.layers], batch.valid)
        hidden = self.model.text(self._embed(batch), mx.array(batch.positions), _prompt_mask(batch.valid), state.caches)
        return state, self._likeliest(hidden[:, -1])

    def decode(self, state: Any, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
        state.seen = np.concatenate([state.seen, np.ones((len(tokens), 1), bool)], axis=1)
        mask = None if state.seen.all() else mx.array(state.seen)[:, None, None]
        embeds = self.model.text.embed_tokens(mx.array(tokens)[:, None])
        hidden = self.model.text(embeds, mx.array(positions)[:, :, None], mask, state.caches)
        return self._likeliest(hidden[:, -1])

    def adapter(self) -> Arrays:
        return {name: np.array(value) for name, value in self._weights.arrays.items()}

    def set_adapter(self, arrays: Arrays) -> None:
        self._weights.arrays = {name: mx.array(arrays[name]) for name in self._weights.arrays}

    def optimizer(self) -> Arrays:
        assert self._optimizer is not None, "attach an adapter first"
        state = self._optimizer.state
        arrays: Arrays = {"step": np.array(state["step"].item(), np.int64), "loss_scale": self._scale.to_array()}
        for name in self._weights.arrays:
            arrays[f"{name}.exp_avg"], arrays[f"{name}.exp_avg_sq"] = np.array(state[name]["m"]), np.array(state[name]["v"])
        return arrays

    def set_optimizer(self, arrays: Arrays) -> None:
        assert self._optimizer is not None, "attach an adapter first"
        self._scale.restore(arrays["loss_scale"])
        self._optimizer.state["step"] = mx.array(int(arrays["step"]), mx.uint64)
        for name in self._weights.arrays:
            moments = {"m": mx.array(arrays[f"{name}.exp_avg"]), "v": mx.array(arrays[f"{name}.exp_avg_sq"])}
            self._optimizer.state[name] = moments

    def memory(self) -> Memory:
        return memory()

    # -- forward --------------------------------------------------------------------------------------------------

    def _gradients(self, micro: Sequence[Batch], *, seed: int) -> tuple[float, dict[str, mx.array], float]:
        """The step's loss, its gradients added up, and their global norm."""
        mx.random.seed(seed)
        own, total = self._weights.arrays, mx.array(0.0)
        gradients: dict[str, mx.array] = {}
        self._weights.training = True
        try:
            for batch in micro:
                loss, grads = mx.value_and_grad(self._scaled_loss)(own, batch)
                gradients = {name: gradients[name] + g for name, g in grads.items()} if gradients else grads
                total = total + loss
                mx.eval(total, gradients)
        finally:
            self._weights.arrays, self._weights.training = own, False
        gradients = {name: gradient / self._scale.value for name, gradient in gradients.items()}
        norm = mx.sqrt(sum(mx.square(gradient).sum() for gradient in gradients.values()))
        return total.item() / self._scale.value, gradients, norm.item()

    def _scaled_loss(self, arrays: dict[str, mx.array], batch: Batch) -> mx.array:
        self._weights.arrays = arrays
        return self._loss(batch) * self._scale.value

    def _loss(self, batch: Batch) -> mx.array:
        return (_nll(self._logits(batch), mx.array(batch.labels)) * mx.array(batch.weights)).sum()

    def _logits(self, batch: Batch) -> mx.array:
        # Padding stands on the right here, so causal attention alone keeps real tokens from seeing it.
        hidden = self.model.text(self._embed(batch), mx.array(batch.positions), "causal")
        return self._head(hidden.reshape(-1, hidden.shape[-1])[mx.array(batch.score_rows)]).astype(mx.float32)

    def _embed(self, batch: Batch) -> mx.array:
        embeds = self.model.text.embed_tokens(mx.array(batch.input_ids))
        if not len(batch.image_rows):
            return embeds
        features = self.model.vision(batch.pixels, self.dtype) if batch.features is None else mx.array(batch.features)
        # Row 0 of the table stands for "no picture here": a gather instead of a scatter, which has no fast gradient.
        source = np.zeros(batch.input_ids.size, np.int32)
        source[batch.image_rows] = batch.feature_rows + 1
        table = mx.concatenate([mx.zeros((1, features.shape[-1]), embeds.dtype), features.astype(embeds.dtype)])
        rows = table[mx.array(source)].reshape(embeds.shape)
        return mx.where(mx.array(source > 0).reshape(*embeds.shape[:2], 1), rows, embeds)

    def _head(self, hidden: mx.array) -> mx.array:
        return self.model.lm_head(hidden) if hasattr(self.model, "lm_head") else self.model.text.embed_tokens.as_linear(hidden)

    def _likeliest(self, hidden: mx.array) -> np.ndarray:
        return np.array(self._head(hidden).argmax(-1).astype(mx.int32))


def _prompt_mask(seen: np.ndarray) -> mx.array | str:
    """[B, 1, S, S] bool for left-padded prompts; "causal" where nothing is padded."""
    if seen.all():
        return "causal"
    width = seen.shape[1]
    # Padding sees itself: a row that sees nothing would be divided by zero.
    return mx.array(np.tril(np.ones((width, width), bool)) & (seen[:, None, None] | np.eye(width, dtype=bool)))


def _nll(logits: mx.array, labels: mx.array) -> mx.array:
    """Cross-entropy in nats, [N], of float32 logits [N, vocabulary].

    In chunks, since MLX's CPU sums a row into one float32: over 150,000 tokens loss and gradient would be off by 1e-4.
    """
    rows, vocabulary = logits.shape
    padded = mx.pad(logits, ((0, 0), (0, -vocabulary % _CHUNK)), constant_values=-mx.inf)
    total = mx.logsumexp(mx.logsumexp(padded.reshape(rows, -1, _CHUNK), axis=-1), axis=-1)
    return total - mx.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.QuantizedLinear))


def _shape(module: nn.Module) -> tuple[int, int]:
    size_out, size_in = module.weight.shape
    return size_out, size_in * 32 // module.bits if isinstance(module, nn.QuantizedLinear) else size_in


def load(folder: Path, loading: Loading) -> MlxBackend:
    return MlxBackend(load_model(folder, loading), pick_dtype(loading.precision))
