"""From a batch to its loss and the adapter's gradients: all at once, compiled, or layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlxtune.backends.mlx.attention import Mask, Visible, reach_of
from mlxtune.backends.mlx.course import Gradients, layerwise_gradients
from mlxtune.backends.mlx.head import weighted_nll
from mlxtune.backends.mlx.lora import Weights
from mlxtune.backends.mlx.models import Inputs, Model
from mlxtune.backends.mlx.untraced import taking_gradient
from mlxtune.rounding import rounded
from mlxtune.types import Batch
from mlxtune.wanted_rows import WantedRows

Arrays = Mapping[str, mx.array]


@dataclass
class Step:
    """checkpointing: keep only the inputs of the text model's layers; such a step is never compiled."""

    model: Model
    dtype: mx.Dtype
    weights: Weights
    checkpointing: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        self._compiled = mx.compile(mx.value_and_grad(self._traced_loss))

    def loss(self, batch: Batch, *, scale: mx.array | float = 1.0) -> mx.array:
        arrays = arrays_of(batch)
        return self._weighted_nll(self.model.hidden(self._scored_inputs(batch, arrays)), arrays, scale)

    def scored(self, batch: Batch) -> mx.array:
        """[N, hidden] at `score_rows`."""
        arrays = arrays_of(batch)
        return self.model.hidden(self._scored_inputs(batch, arrays))

    def gradients(self, batch: Batch, *, scale: float) -> tuple[mx.array, Gradients]:
        """The loss times `scale`, and its gradient for each of the adapter's arrays."""
        own, factor = self.weights.arrays, mx.array(scale)
        try:
            # Layouts of vision towers are made in numpy, from sizes that differ from batch to batch.
            if self.compiled and not self.checkpointing and not batch.pixels:
                return self._compiled(own, self.weights.keys, factor, arrays_of(rounded(batch)))
            with taking_gradient():
                if self.checkpointing:
                    return self._layer_by_layer(batch, factor)

                def loss(arrays: Gradients) -> mx.array:
                    self.weights.arrays = arrays
                    return self.loss(batch, scale=factor)

                return mx.value_and_grad(loss)(own)
        finally:
            self.weights.arrays = own

    def inputs(self, batch: Batch) -> Inputs:
        return self._inputs(batch, arrays_of(batch))

    def _scored_inputs(self, batch: Batch, arrays: Arrays) -> Inputs:
        return replace(self._inputs(batch, arrays), rows=rows_of(arrays))

    def _inputs(self, batch: Batch, arrays: Arrays) -> Inputs:
        mask = "causal" if batch.visible is None else Visible(arrays["visible"], reach_of(batch.visible))
        inputs = inputs_of(arrays, mask=mask)
        return replace(inputs, features=self.model.vision(batch.pixels, self.dtype)) if batch.pixels else inputs

    def _traced_loss(self, own: Gradients, keys: dict[str, mx.array], scale: mx.array, arrays: dict[str, mx.array]) -> mx.array:
        """What is compiled: everything that differs between batches is an argument, the frozen weights are constants."""
        self.weights.arrays, self.weights.keys = own, keys
        inputs = inputs_of(arrays, mask=Visible(arrays["visible"]) if "visible" in arrays else "causal")
        return self._weighted_nll(self.model.hidden(replace(inputs, rows=rows_of(arrays))), arrays, scale)

    def _layer_by_layer(self, batch: Batch, scale: mx.array) -> tuple[mx.array, Gradients]:
        arrays = arrays_of(batch)
        inputs = self._scored_inputs(batch, arrays)
        before = [name for name in self.weights.arrays if self.model.is_vision(name)] if batch.pixels else []
        loss, gradients, d_features = layerwise_gradients(
            self.model.course(inputs),
            inputs.features,
            weights=self.weights,
            loss=lambda hidden: self._weighted_nll(hidden, arrays, scale),
            back_to_features=bool(before),
        )
        own = self.weights.arrays
        if before:

            def features(*traced: mx.array) -> mx.array:
                self.weights.arrays = {**own, **dict(zip(before, traced, strict=True))}
                return self.model.vision(batch.pixels, self.dtype)

            gradients |= dict(zip(before, mx.vjp(features, [own[name] for name in before], [d_features])[1], strict=True))
        return loss, {name: gradients.get(name, mx.zeros_like(array)) for name, array in own.items()}

    def _weighted_nll(self, hidden: mx.array, arrays: Arrays, scale: mx.array | float) -> mx.array:
        # Scaled before anything is differentiated: the head's gradient is taken at once, in the model's own precision.
        weights = arrays["weights"] * scale
        return weighted_nll(self.model.head, hidden, arrays["labels"], weights)


def arrays_of(batch: Batch) -> dict[str, mx.array]:
    """A batch without its pixels."""
    feature_rows = np.zeros(batch.input_ids.size, np.int32)
    feature_rows[batch.image_rows] = batch.feature_rows + 1
    names = ("input_ids", "positions", "labels", "weights", "features", "crossed_rows")
    found = {"feature_rows": feature_rows, **{name: getattr(batch, name) for name in names}}
    found["visible"] = None if batch.visible is None else batch.visible[:, None]
    batch_size, width = batch.input_ids.shape
    rows = WantedRows.of(batch.score_rows, batch=batch_size, width=width)
    return {name: mx.array(array) for name, array in {**found, **rows._asdict()}.items() if array is not None}


def rows_of(arrays: Arrays) -> WantedRows:
    return WantedRows(*(arrays[name] for name in WantedRows._fields))


def inputs_of(arrays: Arrays, *, mask: Mask) -> Inputs:
    given = {name: arrays.get(name) for name in ("features", "feature_rows", "crossed_rows")}
    return Inputs(arrays["input_ids"], arrays["positions"], mask=mask, **given)
