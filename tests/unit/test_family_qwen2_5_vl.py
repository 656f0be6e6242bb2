"""Qwen2.5-VL's picture sizes, positions and prompts, against transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.errors import DataError, ModelError
from mlxtune.families import load_processor
from mlxtune.families.qwen2_5_vl import mrope_positions, smart_resize, vision_layout
from mlxtune.types import Example
from tests.helpers.families import FIXTURES
from tests.helpers.families.base import TINY, patch
from tests.helpers.families.qwen2_5_vl import PROMPTS, assert_same_prompt
from tests.helpers.family_checks import assert_same_pixels, asset
from tests.helpers.rows import picture


def test_smart_resize_equals_the_published_one() -> None:
    pytest.importorskip("transformers")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as theirs

    rng = np.random.default_rng(0)
    for height, width in np.exp(rng.uniform(0, np.log(6000), (2000, 2))).astype(int).tolist():
        if max(height, width) / min(height, width) > 200:
            continue
        for smallest, largest in ((56 * 56, 28 * 28 * 1280), (28 * 28, 100_000), (3136, 602_112), (200_000, 200_000)):
            limits = {"factor": 28, "min_pixels": smallest, "max_pixels": largest}
            assert smart_resize(height, width, **limits) == theirs(height, width, **limits), (height, width, limits)


def test_a_picture_that_is_too_narrow_is_refused() -> None:
    with pytest.raises(DataError, match="2010 x 10 pixels is too narrow.*Crop it"):
        smart_resize(10, 2010, factor=28, min_pixels=56, max_pixels=10**6)


@pytest.mark.parametrize(
    ("setting", "value"), [("max_pixels", 28 * 28 * 9), ("max_pixels", 28 * 28 * 40), ("min_pixels", 28 * 28 * 60)]
)
def test_pixel_limits_of_the_recipe_are_kept(setting: str, value: int) -> None:
    processor = load_processor(TINY, **{setting: value})
    processor.settings[setting] = value  # the oracle reads it there
    for size in ((300, 200), (90, 400), (400, 60), (40, 40)):
        assert_same_pixels(processor, picture(2, size))
        _, rows, columns = processor.grid(size)
        assert rows * columns * 196 <= value if setting == "max_pixels" else rows * columns * 196 >= value


def ids_with_pictures(grids: Sequence[tuple[int, ...]], *, image_id: int, between: Sequence[int]) -> np.ndarray:
    """Text of the lengths `between` around the pictures."""
    pieces = [np.full(between[0], 1)]
    for (t, h, w), length in zip(grids, between[1:], strict=True):
        pieces += [np.full(t * h * w // 4, image_id), np.full(length, 1)]
    return np.concatenate(pieces).astype(np.int64)


@pytest.mark.parametrize(
    ("grids", "between"),
    [
        ([], [7]),
        ([(1, 4, 6)], [5, 3]),
        ([(1, 4, 6)], [0, 1]),
        ([(1, 2, 2)], [3, 0]),
        ([(1, 4, 10), (1, 8, 2)], [2, 4, 9]),
        ([(1, 20, 4), (1, 2, 30), (1, 6, 6)], [1, 1, 2, 3]),
        ([(1, 4, 6), (1, 4, 6), (1, 30, 2), (1, 4, 6)], [5, 2, 40, 2, 7]),
    ],
    ids=["no picture", "one", "first thing", "last thing", "two", "three", "equal ones, and one turns later"],
)
def test_positions_equal_transformers(grids: list[tuple[int, ...]], between: list[int]) -> None:
    torch = pytest.importorskip("torch")
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    ids = ids_with_pictures(grids, image_id=9, between=between)
    ours = mrope_positions(ids, grids, image_token_id=9, merge=2)
    assert ours.dtype == np.int32 and ours.shape == (3, len(ids))

    class Shell:  # get_rope_index needs the configuration alone, not the weights
        config = Qwen2_5_VLConfig()
        get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids

    tokens = torch.from_numpy(ids)[None]
    theirs, _ = Qwen2_5_VLModel.get_rope_index(
        Shell(),
        input_ids=tokens,
        mm_token_type_ids=(tokens == 9).int(),
        image_grid_thw=torch.tensor(grids) if grids else None,
        attention_mask=torch.ones_like(tokens),
    )
    np.testing.assert_array_equal(ours, theirs[:, 0].numpy())


@pytest.mark.parametrize(
    "grids",
    [[(1, 4, 4)], [(1, 8, 8)], [(1, 2, 2)], [(1, 10, 18)], [(1, 2, 34), (1, 16, 6)], [(1, 12, 16), (1, 4, 6), (1, 24, 10)]],
    ids=str,
)
def test_the_vision_layout_equals_transformers(grids: list[tuple[int, ...]]) -> None:
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("transformers.vision_utils")
    layout = vision_layout(grids, merge=2, window=4)
    order, window_ends = utils.get_vision_window_index(torch.tensor(grids), 2, 112, 14)
    np.testing.assert_array_equal(layout.order, order.numpy())
    picture_ends = np.cumsum([0, *(h * w for _, h, w in grids)])
    for segments, ends in ((layout.windows, np.unique(window_ends.numpy())), (layout.pictures, picture_ends)):
        expected = [np.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]
        found = [places[valid] for places, valid in zip(segments.places, segments.valid, strict=True)]
        assert [list(f) for f in found] == [list(e) for e in expected]
        np.testing.assert_array_equal(segments.places.reshape(-1)[segments.back], np.arange(picture_ends[-1]))
    theirs = utils.get_vision_position_ids(torch.tensor(grids), 2)
    np.testing.assert_array_equal(layout.places_2d, theirs.numpy().reshape(layout.places_2d.shape))


@pytest.mark.parametrize("name", ["tiny", "Qwen2.5-VL-3B-Instruct"])
@pytest.mark.parametrize("row", PROMPTS.values(), ids=PROMPTS)
def test_qwen_prompts_equal_the_published_processors(name: str, row: Example) -> None:
    assert_same_prompt(load_processor(TINY if name == "tiny" else asset(name)), row)


REFUSED = {
    "yarn": ({"rope_scaling": {"type": "yarn", "factor": 4, "mrope_section": [4, 8, 8]}}, "type 'yarn' are not supported"),
    "yarn, by its newer name": ({"rope_scaling": {"rope_type": "yarn", "mrope_section": [4, 8, 8]}}, "type 'yarn'"),
    "no sections": ({"rope_scaling": {"type": "mrope"}}, "names no 'mrope_section'"),
    "no scaling at all": ({"rope_scaling": None}, "names no 'mrope_section'"),
    "windows": ({"use_sliding_window": True, "max_window_layers": 2}, "Set use_sliding_window to false"),
    "windows, as transformers 5 lists them": ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
}


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_text_models_that_would_be_computed_wrongly_are_refused(
    kind: str, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    FIXTURES[kind].write_files(tmp_path)
    patch(tmp_path / "config.json", use_sliding_window=True)  # no layer is beyond max_window_layers
    load_processor(tmp_path)
    patch(tmp_path / "config.json", **change)
    with pytest.raises(ModelError) as caught:
        load_processor(tmp_path)
    assert said in str(caught.value) and "config.json: " in str(caught.value) and "\n" not in str(caught.value)
