"""What a family adds to the torch backend: its modules, its vision forward, and where the parts of its text model are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from mlxtune.backends.torch.attention import BY_REACH, Mask, in_blocks
from mlxtune.backends.torch.models.layer import Layer
from mlxtune.errors import ModelError
from mlxtune.families import ModelConfig
from mlxtune.types import Pixels
from mlxtune.wanted_rows import WantedRows


@dataclass
class Inputs:
    """One forward of the text model. mask: bool, who sees whom; None: causal. cache: of the tokens read before, if any."""

    input_ids: torch.Tensor  # [B, S] int64
    positions: torch.Tensor  # [A, B, S] int64
    mask: torch.Tensor | None = None  # [B or 1, 1, S, T] bool
    features: torch.Tensor | None = None  # [F, width], as `vision` gives them
    image_rows: torch.Tensor | None = None  # [M] int64; places of the flattened [B * S] embeddings that features fill
    feature_rows: torch.Tensor | None = None  # [M] int64; which row of the features goes there
    crossed_rows: torch.Tensor | None = None  # [B, T] int64; the features that cross-attention looks at
    cache: Any = None
    rows: WantedRows | None = None  # whose hidden states are wanted, int64; None: of all


class TorchModel(ABC):
    """model: the family's module. text: its decoder, with `embed_tokens`, Llama-like `layers`, `norm`, `rotary_emb`.

    Names of `model`'s layers are the family's canonical ones. A family whose text model has another shape writes `hidden`.
    """

    architecture: str  # the class in transformers, for families that have one
    checkpointing = False
    compiled = False

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.device = device
        self._compiled: dict[int, Any] = {}
        if hasattr(self.text, "config"):  # transformers' own
            self.text.config._attn_implementation = BY_REACH

    @classmethod
    def build(cls, config: ModelConfig, *, dtype: torch.dtype, settings: dict[str, Any]) -> nn.Module:
        """The module with every weight filled from safetensors. settings: quantization, for transformers. Errors: ModelError."""
        return from_transformers(config.folder, cls.architecture, dtype=dtype, **settings)

    @property
    @abstractmethod
    def text(self) -> Any: ...

    @abstractmethod
    def vision(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        """[sum of tokens, width]: features of the pictures in order, all that the text model takes of them."""

    def rest_vision(self) -> None:
        """On a graphics card: what lies before the text model waits in the computer's memory."""
        if self.device.type == "cuda":
            self._move_vision(torch.device("cpu"))

    def wake_vision(self) -> None:
        self._move_vision(self.device)

    def _move_vision(self, device: torch.device) -> None:
        for parameter in self.vision_parameters():
            if parameter.device != device:
                parameter.data = parameter.data.to(device)

    def vision_parameters(self) -> Iterator[nn.Parameter]:
        """Those that lie before the text model."""
        others = {id(p) for module in (self.text, self.head) for p in module.parameters()}
        return (parameter for parameter in self.model.parameters() if id(parameter) not in others)

    @property
    def head(self) -> nn.Module:
        return self.model.lm_head

    @property
    def dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    def new_cache(self) -> Any:
        """What `hidden` keeps of the tokens it has read; has `reorder_cache(rows)`."""
        return DynamicCache()

    def hidden(self, inputs: Inputs) -> torch.Tensor:
        """Behind the last norm: [N, hidden] at `inputs.rows`, or [B, S, hidden]."""
        text, hidden = self.text, self.embed(inputs)
        turns, cut = text.rotary_emb(hidden, self.rotary_positions(inputs.positions)), self.cut(inputs.mask, hidden)
        *before, last = self._layers
        for number, layer in enumerate(before):
            hidden = self.through(layer, hidden, turns=turns, mask=cut, cache=inputs.cache)
            hidden = self.deepened(hidden, number, inputs)
        mask = cut if inputs.rows is None else inputs.mask
        return text.norm(self.through(last, hidden, turns=turns, mask=mask, cache=inputs.cache, rows=inputs.rows))

    def cut(self, mask: torch.Tensor | None, hidden: torch.Tensor) -> Mask:
        """The mask as the layers' attention takes it best; what torch compiles has ways of its own."""
        return mask if self.compiled else in_blocks(mask, hidden)

    def deepened(self, hidden: torch.Tensor, number: int, inputs: Inputs) -> torch.Tensor:
        """What comes out of layer `number`, with what the family adds there; nothing is added behind the last one."""
        return hidden

    @cached_property
    def _layers(self) -> list[Layer]:
        return [Layer(layer) for layer in self.text.layers]

    def through(self, layer: nn.Module, hidden: torch.Tensor, /, *more: Any, **settings: Any) -> torch.Tensor:
        """One layer of the text model; in a training step compiled where `compiled` says so.

        Where `checkpointing`, a step keeps the layer's input alone and runs it again on the way back.
        """
        if not torch.is_grad_enabled():
            return layer(hidden, *more, **settings)
        # Layers are alike, so one is compiled for all; the whole model would be compiled for minutes.
        if self.compiled and id(layer) not in self._compiled:
            self._compiled[id(layer)] = torch.compile(layer)
        run = self._compiled[id(layer)] if self.compiled else layer
        if self.checkpointing:
            return checkpoint(run, hidden, *more, use_reentrant=False, **settings)
        return run(hidden, *more, **settings)

    def embed(self, inputs: Inputs) -> torch.Tensor:
        """[B, S, hidden]: the tokens' embeddings, features in the place of pictures."""
        embeds = self.text.embed_tokens(inputs.input_ids)
        if inputs.features is None:
            return embeds
        rows = inputs.features[:, : embeds.shape[-1]].to(embeds.dtype)[inputs.feature_rows]
        return embeds.flatten(0, 1).index_copy(0, inputs.image_rows, rows).view_as(embeds)

    def rotary_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """What the family's `rotary_emb` takes, from [A, B, S]."""
        return positions[0]

    def _values(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([p.values for p in pixels])).to(self.device, self.dtype)


def from_transformers(folder: Path, architecture: str, *, dtype: torch.dtype, **settings: Any) -> nn.Module:
    """transformers' model of that name with the folder's weights; ModelError unless every weight is there and fits."""
    import transformers

    try:
        model, report = getattr(transformers, architecture).from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below
            **{"attn_implementation": "sdpa", **settings},
        )
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}: {str(error).splitlines()[0]}. The folder must hold the model's safetensors files") from error
    wrong = {name for name, *_ in report["mismatched_keys"]}
    check_weights(folder, missing=report["missing_keys"] - wrong, unknown=report["unexpected_keys"], wrong=wrong)
    return model


def check_weights(folder: Path, *, missing: set[str], unknown: set[str], wrong: set[str]) -> None:
    """ModelError that names the weights that do not fit."""
    for what, names in {"missing": missing, "unknown": unknown, "of another shape": wrong}.items():
        if names:
            raise ModelError(
                f"{folder}: {len(names)} weights are {what}: {', '.join(sorted(names)[:3])}. Download the model again"
            )
