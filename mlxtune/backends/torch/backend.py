"""The `Backend` protocol on PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from mlxtune.adapters import Adapter
from mlxtune.backends.base import BETAS, EPSILON, Loading, LossScale
from mlxtune.backends.torch import lora
from mlxtune.backends.torch.device import describe, memory, pick_device
from mlxtune.backends.torch.models import TorchModel, load_model
from mlxtune.types import Arrays, Batch, Memory, Pixels, StepResult


@dataclass
class _Generation:
    cache: DynamicCache
    seen: torch.Tensor  # [B, tokens so far] bool; False on padding


@dataclass
class TorchBackend:
    model: TorchModel
    name: str = "torch"
    _adapter: dict[str, nn.Parameter] = field(default_factory=dict)
    _optimizer: torch.optim.AdamW | None = None
    _scale: LossScale = field(default_factory=LossScale)

    def __post_init__(self) -> None:
        self.device = describe(self.model.device)
        self.notes: tuple[str, ...] = ()
        self.parameters = sum(p.numel() for p in self.model.model.parameters())
        if self.model.model.dtype != torch.float16:
            self._scale = LossScale(value=1.0)

    def linears(self) -> Mapping[str, tuple[int, int]]:
        modules = self.model.model.named_modules()
        return {name: (m.out_features, m.in_features) for name, m in modules if isinstance(m, nn.Linear)}

    def attach(self, adapter: Adapter, *, weight_decay: float) -> None:
        assert not self._adapter, "a model takes one adapter"
        self._adapter = lora.attach(self.model.model, adapter, device=self.model.device)
        self._optimizer = torch.optim.AdamW(self._adapter.values(), lr=0.0, betas=BETAS, eps=EPSILON, weight_decay=weight_decay)
        self.model.model.eval()

    @torch.inference_mode()
    def vision_features(self, pixels: Sequence[Pixels]) -> list[np.ndarray]:
        features = self.model.vision(pixels).float().cpu().numpy()
        return np.split(features, np.cumsum([p.tokens for p in pixels])[:-1])

    def train_step(self, micro: Sequence[Batch], *, lr: float, clip: float | None, seed: int) -> StepResult:
        assert self._optimizer is not None, "attach an adapter first"
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        while True:
            loss, norm = self._gradients(micro, seed=seed)
            if self._scale.accepts(norm):
                break
        if clip is not None and norm > clip:
            for parameter in self._adapter.values():
                parameter.grad.mul_(clip / norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return StepResult(loss, norm)

    @torch.no_grad()
    def loss(self, batch: Batch) -> float:
        return float(self._loss(batch))

    @torch.no_grad()
    def logits(self, batch: Batch) -> np.ndarray:
        return self._logits(batch).cpu().numpy()

    @torch.inference_mode()
    def prefill(self, batch: Batch, *, room: int) -> tuple[Any, np.ndarray]:
        state = _Generation(cache=DynamicCache(), seen=self._tensor(batch.valid))
        hidden = self._decoder(self._embed(batch), batch.positions, mask=_prompt_mask(state.seen), cache=state.cache)
        return state, self._likeliest(hidden[:, -1])

    @torch.inference_mode()
    def decode(self, state: Any, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
        fresh = torch.ones((len(tokens), 1), dtype=torch.bool, device=self.model.device)
        state.seen = torch.cat([state.seen, fresh], dim=1)
        embeds = self.model.text.embed_tokens(self._tensor(tokens).long()[:, None])
        hidden = self._decoder(embeds, positions[:, :, None], mask=state.seen[:, None, None], cache=state.cache)
        return self._likeliest(hidden[:, -1])

    def adapter(self) -> Arrays:
        return {name: p.detach().cpu().numpy().copy() for name, p in self._adapter.items()}

    @torch.no_grad()
    def set_adapter(self, arrays: Arrays) -> None:
        for name, parameter in self._adapter.items():
            parameter.copy_(torch.from_numpy(arrays[name]))

    def optimizer(self) -> Arrays:
        assert self._optimizer is not None, "attach an adapter first"
        arrays: Arrays = {"step": np.array(0, np.int64), "loss_scale": self._scale.to_array()}
        for name, parameter in self._adapter.items():
            state = self._optimizer.state.get(parameter) or {}
            for key in ("exp_avg", "exp_avg_sq"):
                value = state.get(key, torch.zeros_like(parameter))
                arrays[f"{name}.{key}"] = value.detach().cpu().numpy().copy()
            arrays["step"] = np.array(int(state.get("step", 0)), np.int64)
        return arrays

    def set_optimizer(self, arrays: Arrays) -> None:
        assert self._optimizer is not None, "attach an adapter first"
        self._scale.restore(arrays["loss_scale"])
        for name, parameter in self._adapter.items():
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(arrays["step"])),
                **{key: self._tensor(arrays[f"{name}.{key}"]) for key in ("exp_avg", "exp_avg_sq")},
            }

    def memory(self) -> Memory:
        return memory(self.model.device)

    # -- forward --------------------------------------------------------------------------------------------------

    def _gradients(self, micro: Sequence[Batch], *, seed: int) -> tuple[float, float]:
        """Adds up the step's gradients; gives the loss and the gradients' global norm."""
        torch.manual_seed(seed)
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self.model.device)
        self._dropout(True)
        for batch in micro:
            loss = self._loss(batch)
            (loss * self._scale.value).backward()
            total += loss.detach()
        self._dropout(False)
        for parameter in self._adapter.values():
            if parameter.grad is None:  # an adapted vision tower in a step without pictures
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.div_(self._scale.value)
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in self._adapter.values()]))
        return float(total), float(norm)

    def _dropout(self, on: bool) -> None:
        for module in self.model.model.modules():
            if isinstance(module, lora.LoraLinear):
                module.train(on)

    def _loss(self, batch: Batch) -> torch.Tensor:
        nll = nn.functional.cross_entropy(self._logits(batch), self._tensor(batch.labels).long(), reduction="none")
        return (nll * self._tensor(batch.weights)).sum()

    def _logits(self, batch: Batch) -> torch.Tensor:
        # Padding stands on the right here, so causal attention alone keeps real tokens from seeing it.
        hidden = self._decoder(self._embed(batch), batch.positions, mask=None, cache=None)
        return self.model.head(hidden.flatten(0, 1)[self._tensor(batch.score_rows).long()]).float()

    def _embed(self, batch: Batch) -> torch.Tensor:
        embeds = self.model.text.embed_tokens(self._tensor(batch.input_ids).long())
        if not len(batch.image_rows):
            return embeds
        features = self.model.vision(batch.pixels) if batch.features is None else self._tensor(batch.features)
        rows = features.to(embeds.dtype)[self._tensor(batch.feature_rows).long()]
        return embeds.flatten(0, 1).index_copy(0, self._tensor(batch.image_rows).long(), rows).view_as(embeds)

    def _decoder(
        self, hidden: torch.Tensor, positions: np.ndarray, *, mask: torch.Tensor | None, cache: DynamicCache | None
    ) -> torch.Tensor:
        text = self.model.text
        rotary = text.rotary_emb(hidden, self.model.rotary_positions(self._tensor(positions).long()))
        for layer in text.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=cache)
        return text.norm(hidden)

    def _likeliest(self, hidden: torch.Tensor) -> np.ndarray:
        return self.model.head(hidden).argmax(-1).to(torch.int32).cpu().numpy()

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.model.device, non_blocking=True)


def _prompt_mask(seen: torch.Tensor) -> torch.Tensor | None:
    """[B, 1, S, S] bool for left-padded prompts; None, which means causal, where nothing is padded."""
    if bool(seen.all()):
        return None
    width = seen.shape[1]
    causal = torch.ones((width, width), dtype=torch.bool, device=seen.device).tril()
    # Padding sees itself: a row that sees nothing would be divided by zero.
    itself = torch.eye(width, dtype=torch.bool, device=seen.device)
    return (causal & (seen[:, None, None] | itself)).expand(-1, 1, -1, -1)


def load(folder: Path, loading: Loading) -> TorchBackend:
    return TorchBackend(load_model(folder, loading, pick_device()))
