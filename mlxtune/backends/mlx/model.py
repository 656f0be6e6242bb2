"""What a family adds to the MLX backend: its modules, its vision forward, and its text model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.attention import Mask
from mlxtune.backends.mlx.cache import KVCache
from mlxtune.backends.mlx.course import Course
from mlxtune.families import ModelConfig
from mlxtune.types import Pixels
from mlxtune.wanted_rows import WantedRows


@dataclass
class Inputs:
    """One forward of the text model. caches: of the tokens read before, one a layer, if any."""

    input_ids: mx.array  # [B, S]
    positions: mx.array  # [A, B, S]
    mask: Mask = "causal"
    features: mx.array | None = None  # [F, width], as `vision` gives them
    feature_rows: mx.array | None = None  # [B * S] int32; 1 + the row of the features that stands there, 0 where there is none
    crossed_rows: mx.array | None = None  # [B, T] int32; the features that cross-attention looks at
    caches: list[Any] | None = None
    rows: WantedRows | None = None  # whose hidden states are wanted; None: of all


class Model(nn.Module):
    """A family's parts and the output head, which tied models share with the embedding. A family adds `text` and `vision`.

    Names of the layers are the family's canonical ones. A family whose text model has another shape writes `course`, and
    `head` where the output layer has another name.
    """

    def __init__(self, config: ModelConfig, inner: nn.Module) -> None:
        super().__init__()
        self.model = inner
        if not config.tied:
            self.lm_head = nn.Linear(config.text["hidden_size"], config.text["vocab_size"], bias=False)

    def takes(self, name: str) -> bool:
        """Whether a published weight is one of the modules'; a head that is shared may be stored beside the embedding."""
        return name != "lm_head.weight" or "lm_head" in self

    def is_vision(self, name: str) -> bool:
        """Whether a weight lies before the text model."""
        return not name.startswith(f"{self._text_path}.") and "lm_head" not in name.split(".")

    @cached_property
    def _text_path(self) -> str:
        return next(path for path, module in self.named_modules() if module is self.text)

    @property
    def text(self) -> Any:
        """The text model: what is quantised. A `Decoder`, unless the family writes its own `course`."""
        raise NotImplementedError

    def vision(self, pixels: Sequence[Pixels], dtype: mx.Dtype) -> mx.array:
        """[sum of tokens, width]: features of the pictures in order, all that the text model takes of them."""
        raise NotImplementedError

    def head(self, hidden: mx.array) -> mx.array:
        """[…, hidden] -> […, vocabulary]."""
        return self.lm_head(hidden) if "lm_head" in self else self.text.embed_tokens.as_linear(hidden)

    def new_caches(self, room: int) -> list[Any]:
        """One for each layer, for `room` tokens in all; each has `select(rows)`."""
        return [KVCache(room) for _ in self.text.layers]

    def hidden(self, inputs: Inputs) -> mx.array:
        """Behind the last norm: [N, hidden] of `inputs.rows`, or [B, S, hidden]."""
        return self.course(inputs).run(inputs.features)

    def course(self, inputs: Inputs) -> Course:
        """The batch's way through the text model; features are its argument, not those of `inputs`.

        Nobody looks at what the last layer makes of another token: it asks and ends for `inputs.rows` alone.
        """
        legs = self.text.legs(inputs.positions, inputs.mask, inputs.caches, inputs.rows)
        return Course(lambda features: self.embed(inputs, features), legs, self.text.norm)

    def embed(self, inputs: Inputs, features: mx.array | None) -> mx.array:
        """[B, S, hidden]: the tokens' embeddings, features in the place of pictures."""
        embeds = self.text.embed_tokens(inputs.input_ids)
        if features is None:
            return embeds
        rows, filled = placed(inputs, features, width=embeds.shape[-1])
        return mx.where(filled, rows.astype(embeds.dtype), embeds)


def placed(inputs: Inputs, features: mx.array, *, width: int, level: int = 0) -> tuple[mx.array, mx.array]:
    """Features where they belong, [B, S, width], zero elsewhere; and where that is, [B, S, 1] bool.

    level: which `width` columns of the features, for families that feed several levels into the text model.
    """
    features = features[:, level * width : (level + 1) * width]
    # Row 0 of the table stands for "no picture here": a gather instead of a scatter, which has no fast gradient.
    table = mx.concatenate([mx.zeros((1, width), features.dtype), features])
    shape = inputs.input_ids.shape
    return table[inputs.feature_rows].reshape(*shape, width), (inputs.feature_rows > 0).reshape(*shape, 1)
