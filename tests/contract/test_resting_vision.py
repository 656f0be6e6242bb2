"""Behind the pass over all pictures the vision tower leaves memory, and comes back when a picture needs it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mlxtune.engine import Engine
from mlxtune.recipe import TrainSpec
from tests.helpers.rows import examples
from tests.helpers.training import attach, encode, train

Open = Callable[..., Engine]
SPEC = TrainSpec(steps=1, batch_size=2, micro_batch_size=2)


def test_features_and_steps_are_the_same_before_and_after(engine: Engine) -> None:
    rows = examples(3)
    pixels = [engine.processor.pixels(image) for row in rows for image in row.images]
    before = engine.backend.vision_features(pixels)
    engine.backend.rest_vision()
    attach(engine, random_b=True)
    first = train(engine, encode(engine, rows), SPEC)
    engine.backend.rest_vision()
    engine.backend.rest_vision()  # twice is as good as once
    for one, other in zip(before, engine.backend.vision_features(pixels), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(first[0].loss)


def test_its_weights_leave_memory(open_: Open) -> None:
    mx = pytest.importorskip("mlx.core")
    from mlx.utils import tree_flatten

    engine = open_("mlx")
    model = engine.backend.model
    size = sum(value.nbytes for name, value in tree_flatten(model.parameters()) if model.is_vision(name))
    engine.keep_features()
    loaded = mx.get_active_memory()
    engine.look_at([image for row in examples(2) for image in row.images], phase="training", observe=lambda event: None)
    assert size > 0 and mx.get_active_memory() <= loaded - 0.9 * size
    engine.backend.vision_features([engine.processor.pixels(examples(1)[0].images[0])])
    assert mx.get_active_memory() > loaded - 0.5 * size


def test_a_text_model_needs_nothing_of_it(engine: Engine) -> None:
    """What is put aside is not read by a step that has its features."""
    engine.keep_features()
    rows = encode(engine, examples(2))
    attach(engine, random_b=True)
    train(engine, rows, SPEC)
    if engine.backend.name == "torch":
        for parameter in engine.backend.model.vision_parameters():
            parameter.data.fill_(np.nan)
    else:
        import mlx.core as mx
        from mlx.utils import tree_flatten

        model = engine.backend.model
        gone = [
            (name, mx.full(v.shape, np.nan, v.dtype)) for name, v in tree_flatten(model.parameters()) if model.is_vision(name)
        ]
        model.load_weights(gone, strict=False)
    assert np.isfinite(train(engine, rows, SPEC)[0].loss)
