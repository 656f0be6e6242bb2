"""The `Backend` protocol on PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import get_total_norm

from mlxtune.adapters import Adapter
from mlxtune.backends.base import Likeliest, Loading, LossScale
from mlxtune.backends.heap import give_back_freed_memory
from mlxtune.backends.torch import lora
from mlxtune.backends.torch.device import describe, memory, pick_device
from mlxtune.backends.torch.head import weighted_nll
from mlxtune.backends.torch.loading import load_model
from mlxtune.backends.torch.models import Inputs, TorchModel
from mlxtune.backends.torch.optimizer import AdamW
from mlxtune.backends.torch.products import pack
from mlxtune.batching import own_mask
from mlxtune.rounding import rounded
from mlxtune.types import Arrays, Batch, Memory, Pixels, StepResult
from mlxtune.wanted_rows import WantedRows

_PACKED = 16  # packed copies of weights may take one part in so many of the computer's memory


@dataclass
class _Generation:
    cache: Any
    seen: torch.Tensor  # [B, tokens so far] bool; False on padding


@dataclass
class TorchBackend:
    model: TorchModel
    name: str = "torch"
    vision_lanes: int = 1
    # Nobody has measured compiled steps on a graphics card yet; on a CPU they start late and gain little.
    gains_by_compiling: bool = False
    _adapter: dict[str, nn.Parameter] = field(default_factory=dict)
    _adapted: list[lora.LoraLinear] = field(default_factory=list)
    _optimizer: AdamW | None = None
    _to_pack: bool = False
    _scale: LossScale = field(default_factory=LossScale)

    def __post_init__(self) -> None:
        self.device = describe(self.model.device)
        self.precision = str(self.model.dtype).removeprefix("torch.")
        self.notes: tuple[str, ...] = ()
        self.parameters = sum(p.numel() for p in self.model.model.parameters())
        if self.model.dtype != torch.float16:
            self._scale = LossScale(value=1.0)

    def linears(self) -> Mapping[str, tuple[int, int]]:
        modules = self.model.model.named_modules()
        return {name: (m.out_features, m.in_features) for name, m in modules if isinstance(m, nn.Linear)}

    def attach(self, adapter: Adapter, *, weight_decay: float, checkpointing: bool = False, compiled: bool = False) -> None:
        assert not self._adapter, "a model takes one adapter"
        self.model.checkpointing, self.model.compiled = checkpointing, compiled
        self._adapter = lora.attach(self.model.model, adapter, device=self.model.device)
        self._optimizer = AdamW(self._adapter, weight_decay=weight_decay)
        self.model.model.eval()
        self._adapted = [module for module in self.model.model.modules() if isinstance(module, lora.LoraLinear)]
        # The one asks for the least memory, the other multiplies in its own way.
        self._to_pack = not checkpointing and not compiled

    def vision_features(self, pixels: Sequence[Pixels]) -> list[np.ndarray]:
        self.model.wake_vision()  # outside: weights that move in inference mode could never be trained beside again
        with torch.inference_mode():
            features = self.model.vision(pixels).float().cpu().numpy()
        return np.split(features, np.cumsum([p.tokens for p in pixels])[:-1])

    def rest_vision(self) -> None:
        self.model.rest_vision()

    def train_step(self, micro: Sequence[Batch], *, lr: float, clip: float | None, seed: int) -> StepResult:
        assert self._optimizer is not None, "attach an adapter first"
        if self.model.checkpointing:
            give_back_freed_memory()  # not before: the vision pass holds little, and is faster with what it keeps
        if self._to_pack:  # not before: who only asks has no use for what serves the way back
            pack((self.model.text, self.model.head), most_bytes=(self.memory().limit_bytes or 0) // _PACKED)
            self._to_pack = False
        while True:
            scale = self._scale.value
            loss, norm = self._gradients(micro, seed=seed)
            if self._scale.fixed or self._scale.accepts(norm.item()):
                break
        # Nothing is asked for before all is handed in: a graphics card would stand still meanwhile.
        if clip is not None or scale != 1.0:
            times = (norm.new_ones(()) if clip is None else (clip / norm).clamp(max=1.0)) / scale
            for parameter in self._adapter.values():
                parameter.grad.mul_(times)
        self._optimizer.step(lr=lr)
        self._forget_gradients()
        return StepResult(loss.item(), norm.item())

    @torch.no_grad()
    def loss(self, batch: Batch) -> float:
        return float(self._loss(batch))

    @torch.no_grad()
    def logits(self, batch: Batch) -> np.ndarray:
        return self.model.head(self._scored(batch)).float().cpu().numpy()

    @torch.inference_mode()
    def prefill(self, batch: Batch, *, room: int, top: int = 1, after: Any = None) -> tuple[Any, Likeliest]:
        inputs, valid = self._inputs(batch), self._tensor(batch.valid)
        state = after or _Generation(cache=self.model.new_cache(), seen=valid[:, :0])
        if after is not None:
            own = self._tensor(own_mask(batch))
            before = state.seen[:, None].expand(-1, own.shape[1], -1)
            inputs.mask = torch.cat([before, own.expand(len(before), -1, -1)], dim=-1)[:, None]
        inputs.cache, state.seen = state.cache, torch.cat([state.seen, valid], dim=1)
        inputs.rows = self._rows(WantedRows.last_of_each(*batch.input_ids.shape))
        return state, self._likeliest(self.model.hidden(inputs), top)

    @torch.inference_mode()
    def decode(self, state: Any, tokens: np.ndarray, positions: np.ndarray, *, top: int = 1) -> Likeliest:
        fresh = torch.ones((len(tokens), 1), dtype=torch.bool, device=self.model.device)
        state.seen = torch.cat([state.seen, fresh], dim=1)
        ids, places = self._tensor(tokens).long()[:, None], self._tensor(positions).long()[:, :, None]
        inputs = Inputs(ids, places, mask=state.seen[:, None, None], cache=state.cache)
        return self._likeliest(self.model.hidden(inputs)[:, 0], top)

    @torch.inference_mode()
    def select(self, state: Any, rows: np.ndarray) -> None:
        chosen = self._tensor(rows).long()
        state.seen = state.seen[chosen]
        state.cache.reorder_cache(chosen)

    def adapter(self) -> Arrays:
        return {name: p.detach().cpu().numpy().copy() for name, p in self._adapter.items()}

    @torch.no_grad()
    def set_adapter(self, arrays: Arrays) -> None:
        for name, parameter in self._adapter.items():
            parameter.copy_(torch.from_numpy(arrays[name]))

    def optimizer(self) -> Arrays:
        assert self._optimizer is not None, "attach an adapter first"
        return {**self._optimizer.arrays(), "loss_scale": self._scale.to_array()}

    def set_optimizer(self, arrays: Arrays) -> None:
        assert self._optimizer is not None, "attach an adapter first"
        self._scale.restore(arrays["loss_scale"])
        self._optimizer.restore(arrays)

    def memory(self) -> Memory:
        return memory(self.model.device)

    # -- forward --------------------------------------------------------------------------------------------------

    def _gradients(self, micro: Sequence[Batch], *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds up the step's gradients, times the loss scale; gives the loss and the gradients' global norm without it."""
        torch.manual_seed(seed)
        self._forget_gradients()
        total = torch.zeros((), device=self.model.device)
        self._dropout(True)
        for batch in map(rounded, micro) if self.model.compiled else micro:
            loss = self._loss(batch, scale=self._scale.value)
            loss.backward()
            total += loss.detach() / self._scale.value
        self._dropout(False)
        for parameter in self._adapter.values():
            if parameter.grad is None:  # an adapted vision tower in a step without pictures
                parameter.grad = torch.zeros_like(parameter)
        return total, get_total_norm([p.grad for p in self._adapter.values()]) / self._scale.value

    def _forget_gradients(self) -> None:
        for parameter in self._adapter.values():
            parameter.grad = None

    def _dropout(self, on: bool) -> None:
        for layer in self._adapted:
            layer.train(on)

    def _loss(self, batch: Batch, *, scale: float = 1.0) -> torch.Tensor:
        # Scaled before anything is differentiated: the head's gradient is taken at once, in the model's own precision.
        labels, weights = self._tensor(batch.labels).long(), self._tensor(batch.weights) * scale
        return weighted_nll(self.model.head, self._scored(batch), labels, weights)

    def _scored(self, batch: Batch) -> torch.Tensor:
        """[N, hidden] at `score_rows`."""
        inputs = self._inputs(batch)
        rows, width = batch.input_ids.shape
        inputs.rows = self._rows(WantedRows.of(batch.score_rows, batch=rows, width=width))
        return self.model.hidden(inputs)

    def _inputs(self, batch: Batch) -> Inputs:
        inputs = Inputs(self._tensor(batch.input_ids).long(), self._tensor(batch.positions).long())
        if batch.visible is not None:
            inputs.mask = self._tensor(batch.visible)[:, None]
        if batch.features is not None:
            inputs.features = self._tensor(batch.features)
        elif batch.pixels:
            self.model.wake_vision()
            inputs.features = self.model.vision(batch.pixels)
        inputs.image_rows, inputs.feature_rows = self._tensor(batch.image_rows).long(), self._tensor(batch.feature_rows).long()
        if batch.crossed_rows is not None:
            inputs.crossed_rows = self._tensor(batch.crossed_rows).long()
        return inputs

    def _rows(self, rows: WantedRows) -> WantedRows:
        return WantedRows(*(self._tensor(array).long() for array in rows))

    def _likeliest(self, hidden: torch.Tensor, top: int) -> Likeliest:
        """hidden: [B, hidden] of each row's last token."""
        logits = self.model.head(hidden).float()
        found = logits.topk(top)
        log_probabilities = found.values - logits.logsumexp(-1, keepdim=True)
        return Likeliest(found.indices.to(torch.int32).cpu().numpy(), log_probabilities.cpu().numpy())

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.model.device, non_blocking=True)


def load(folder: Path, loading: Loading) -> TorchBackend:
    return TorchBackend(load_model(folder, loading, pick_device()))
