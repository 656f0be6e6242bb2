"""Features that are kept are worth as much as pixels, however little of them is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import current_thread

import numpy as np
import pytest

from mlxtune.engine import Engine
from mlxtune.features import FeatureStore, InMemory
from mlxtune.types import Pixels
from tests.helpers.families import FIXTURES
from tests.helpers.rows import examples, picture
from tests.helpers.training import attach, encode, mean_loss


def counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures went through the tower, call by call."""
    calls: list[int] = []
    own = engine.backend.vision_features

    def features(pixels: Sequence[Pixels]) -> list[np.ndarray]:
        calls.append(len(pixels))
        return own(pixels)

    monkeypatch.setattr(engine.backend, "vision_features", features)
    return calls


def test_stored_features_give_the_loss_of_fresh_pixels(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = encode(engine, examples(10))
    attach(engine, random_b=True)
    fresh = mean_loss(engine, rows)
    calls = counted(engine, monkeypatch)
    engine.keep_features()
    for _ in range(2):
        assert mean_loss(engine, rows) == pytest.approx(fresh, abs=1e-6)
    assert sum(calls) == len({image.key for row in rows for image in row.images})


def test_features_of_a_picture_do_not_depend_on_its_company(engine: Engine) -> None:
    pixels = [engine.processor.pixels(picture(number)) for number in range(4)]
    together = engine.backend.vision_features(pixels)
    for picture_, features in zip(pixels, together, strict=True):
        assert features.dtype == np.float32 and features.shape == (picture_.tokens, FIXTURES[engine.family.name].width)
        np.testing.assert_allclose(engine.backend.vision_features([picture_])[0], features, atol=1e-5)


def test_lanes_of_mlx_change_no_feature(open_: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlx.core")
    engine = open_("mlx")
    pixels = [engine.processor.pixels(picture(number)) for number in range(5)]
    wanted = [engine.backend.vision_features([one])[0] for one in pixels]
    own, seen = engine.backend._features, []
    monkeypatch.setattr(engine.backend, "_features", lambda some: seen.append((len(some), current_thread().name)) or own(some))
    for lanes, expected in ((2, [2, 3]), (3, [1, 2, 2]), (4, [1, 2, 2])):
        engine.backend.vision_lanes = lanes
        engine.backend.rest_vision()  # the lanes find weights that nobody has read yet
        for one, other in zip(engine.backend.vision_features(pixels), wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        counts, threads = zip(*seen, strict=True)
        assert sorted(counts) == expected and len(set(threads)) == len(threads)
        seen.clear()


def test_every_lane_gets_a_picture(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.features.CHUNK_BYTES", 1)
    monkeypatch.setattr(engine.backend, "vision_lanes", 2)
    calls, store = counted(engine, monkeypatch), FeatureStore(engine.processor, engine.backend, kept=InMemory())
    store.look_at([picture(number) for number in range(5)])
    assert calls == [2, 2, 1]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_store_forgets_beyond_its_limit_and_stays_right(engine: Engine, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    images = [picture(number, (90, 90)) for number in range(3)]
    alone = [engine.backend.vision_features([engine.processor.pixels(image)])[0] for image in images]
    calls = counted(engine, monkeypatch)
    store = FeatureStore(engine.processor, engine.backend, kept=InMemory(max_bytes=kept * alone[0].nbytes))
    order = [[0, 1, 2], [2, 1], [0], [2, 0, 1], [0], [2], [0], [1]]
    for chosen in order:
        pixels, features = store.fill([images[i] for i in chosen])
        assert pixels == ()
        np.testing.assert_allclose(features, np.concatenate([alone[i] for i in chosen]), atol=1e-5)
    assert calls == _least_recent(order, room=max(kept, 1))  # the newest always stays


def _least_recent(order: list[list[int]], *, room: int) -> list[int]:
    """Calls of the tower where the `room` most recently used features are at hand."""
    kept: list[int] = []
    calls = []
    for chosen in order:
        missing = [i for i in chosen if i not in kept]
        calls += [len(missing)] if missing else []
        for i in chosen:
            kept = [k for k in kept if k != i] + [i]
            kept = kept[-room:]
    return calls
