"""The values that flow through the program. All of them are plain data in numpy; no framework is known here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mlxtune.images import ImageRef

Arrays = dict[str, np.ndarray]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """One question with its pictures, as a task made it from a row.

    messages: the prompt in the form of chat templates,
      ``[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "…"}]}]``; one ``image`` part per picture.
      Earlier turns may stand before the last one; the answers of ``assistant`` turns among them are learned too.
    question: the question as the data has it, without the task's suffix (for people to read).
    target: the answer to learn. references: every accepted answer; the first is `target`.
    choices: the options of a multiple-choice question, letter to text in their order; `target` is then a letter.
    names: what the pictured thing may be called; recognition looks for one of them in the answer.
    group: rows of one group stay in one split and may be scored together (the rotations of a question); "" = on its own.
    meta: further columns that scores are broken down by (question kind, category, class, …).
    """

    id: str
    messages: Sequence[Mapping[str, Any]]
    question: str
    target: str
    references: tuple[str, ...]
    images: tuple[ImageRef, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pixels:
    """One picture as its family's vision tower takes it."""

    key: str  # identity of picture x processor settings
    values: np.ndarray  # float32; Qwen: [patches, channels * t * h * w]; Idefics3: [tiles, 3, H, W]; see the family
    grid: tuple[int, ...]  # Qwen: (t, h, w) in patches; Idefics3: (rows, columns) of tiles, (0, 0) if not split
    tokens: int  # rows of features that it gives


@dataclass(frozen=True)
class Encoded:
    """One example as token ids: the prompt and, for training, the answer with its end token behind it."""

    id: str
    input_ids: np.ndarray  # [S] int32
    weights: np.ndarray  # [S] float32; 1 where the token is to be learned, 0 elsewhere
    positions: np.ndarray  # [A, S] int32; A = 3 (time, height, width) for M-RoPE, else 1
    image_rows: np.ndarray  # [M] int32; places of `input_ids` that image features fill, in picture order
    images: tuple[ImageRef, ...]
    prefix: int = 0  # tokens at the start that see each other both ways; 0: the row is causal throughout
    crossed: bool = False  # pictures are looked at through cross-attention and fill no places of `input_ids`
    branches: np.ndarray | None = None  # [S] int32; of a packed row: 0 for what all questions see, else the question's number


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass. Everything that decides the loss is fixed here, before a backend sees it."""

    input_ids: np.ndarray  # [B, S] int32
    positions: np.ndarray  # [A, B, S] int32
    valid: np.ndarray  # [B, S] bool; False on padding
    score_rows: np.ndarray  # [N] int32; places of the flattened [B * S] hidden states that predict a learned token
    labels: np.ndarray  # [N] int32; the token to predict there
    weights: np.ndarray  # [N] float32; over an optimizer step they sum to 1
    image_rows: np.ndarray  # [M] int32; places of the flattened [B * S] embeddings that features fill
    feature_rows: np.ndarray  # [M] int32; which row of the concatenated features goes there
    visible: np.ndarray | None = None  # [B, S, S] bool, who (second axis) sees whom (third); None: plainly causal
    crossed_rows: np.ndarray | None = None  # [B, T] int32; the features that cross-attention looks at, where a family has it
    pixels: tuple[Pixels, ...] = ()  # the distinct pictures, empty where `features` are given
    features: np.ndarray | None = None  # [sum of tokens, width] float32; as `Backend.vision_features` gives them


class StepResult(NamedTuple):
    loss: float  # nats per supervised token, mean over the optimizer step
    grad_norm: float  # global L2 norm before clipping


class Memory(NamedTuple):
    peak_bytes: int
    limit_bytes: int | None  # what the device offers; None where it cannot be told
