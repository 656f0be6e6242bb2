"""Fine-tunes vision-language models with LoRA, on MLX or PyTorch, from one recipe; and runs what it made.

>>> import mlxtune
>>> runner = mlxtune.load("models/tiny-charts", adapter="runs/charts-tiny/adapter")  # doctest: +SKIP
>>> runner.ask("chart.png", "Which bar is the highest?")  # doctest: +SKIP
'Milk'
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxtune.inference import Runner

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(model: str | Path, *, adapter: str | Path | None = None, backend: str = "auto", precision: str | None = None) -> Runner:
    """A model folder or hub id, with or without an adapter, ready to answer.

    backend: "mlx", "torch" or "auto". precision: "float32", "bfloat16" or "float16"; None chooses what the device is good at.
    Raises a MlxtuneError (ModelError, AdapterError, BackendError) that says what to change.
    """
    from mlxtune import inference

    return inference.load(model, adapter=adapter, backend=backend, precision=precision)
