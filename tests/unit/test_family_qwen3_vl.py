"""Qwen3-VL's pictures, positions, prompts and levels of features, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends import installed, load_backend
from mlxtune.backends.base import Loading
from mlxtune.batching import collate
from mlxtune.errors import ModelError
from mlxtune.families import FAMILIES, load_processor, read_config
from mlxtune.families.qwen2_5_vl import mrope_positions, patch_places
from mlxtune.families.qwen3_vl import stretched_positions
from mlxtune.features import FeatureStore, FreshPixels, InMemory
from tests.helpers import models, oracle
from tests.helpers.families.base import TINY, patch
from tests.helpers.families.qwen2_5_vl import image_processor
from tests.helpers.families.qwen3_vl import LEVELS, SETTINGS, published, true_configs, write_files
from tests.helpers.family_checks import assert_same_pixels, asset, rendered_by_transformers
from tests.helpers.rows import example, picture

WIDTH = 64


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen3_vl")
    write_files(path)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="the random models are made with torch")
    return models.build("qwen3_vl", tmp_path_factory.mktemp("model"), tied=False)


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest, model: Path) -> Any:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return load_backend(request.param, model, Loading("float32"))


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_chart_has_the_tokens_that_the_list_of_models_says(folder: Path) -> None:
    processor = load_processor(folder)
    grid = processor.grid((850, 600))
    assert grid == (1, 38, 54)
    assert {known.image_tokens for known in FAMILIES["qwen3_vl"].known_models} == {processor.image_tokens(grid)} == {513}


@pytest.mark.parametrize(("setting", "value"), [("max_pixels", 32 * 32 * 9), ("min_pixels", 32 * 32 * 600)])
def test_pixel_limits_of_the_recipe_are_kept(folder: Path, setting: str, value: int) -> None:
    processor = load_processor(folder, **{setting: value})
    edge = {"max_pixels": "longest_edge", "min_pixels": "shortest_edge"}[setting]
    # A limit below the published smallest lowers that one as well; the oracle reads both in the settings.
    processor.settings["size"] = {"shortest_edge": min(value, 65_536), "longest_edge": 16_777_216, edge: value}
    for size in ((300, 200), (90, 400), (400, 60), (40, 40)):
        assert_same_pixels(processor, picture(2, size))
        _, rows, columns = processor.grid(size)
        assert rows * columns * 256 <= value if setting == "max_pixels" else rows * columns * 256 >= value


@pytest.mark.parametrize("key", ["patch_size", "merge_size", "temporal_patch_size"])
def test_pictures_are_cut_as_the_tower_takes_them_or_not_at_all(tmp_path: Path, key: str) -> None:
    write_files(tmp_path)
    expected = load_processor(tmp_path).pixels(picture(1))
    settings = {name: value for name, value in SETTINGS.items() if name != key}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    found = load_processor(tmp_path).pixels(picture(1))
    assert found.grid == expected.grid and found.tokens == expected.tokens
    np.testing.assert_array_equal(found.values, expected.values)
    patch(tmp_path / "preprocessor_config.json", **{key: 14})
    with pytest.raises(ModelError, match=rf"{key} is 14, but the vision tower of config.json takes {SETTINGS[key]}\. Download"):
        load_processor(tmp_path)


GRIDS = [[(1, 2, 2)], [(1, 2, 4)], [(1, 48, 48)], [(1, 38, 54)], [(1, 6, 2), (1, 60, 10), (1, 4, 4)], [(1, 2, 300)]]


@pytest.mark.parametrize("side", [3, 6, 48])
@pytest.mark.parametrize("grids", GRIDS, ids=str)
def test_stretched_positions_equal_transformers(grids: list[tuple[int, ...]], side: int) -> None:
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("transformers.vision_utils")
    ours = stretched_positions(grids, merge=2, side=side)
    rows, weights = utils.get_vision_interpolation_indices_and_weights(
        torch.tensor(grids), side, mode="bilinear", align_corners=True, spatial_merge_size=2
    )
    assert ours.rows.dtype == np.int32 and ours.weights.dtype == np.float32
    np.testing.assert_array_equal(ours.rows, rows.numpy())
    np.testing.assert_array_equal(ours.weights, weights.numpy())
    np.testing.assert_allclose(ours.weights.sum(-1), 1, atol=1e-6)
    assert len(ours.rows) == len(patch_places(grids, merge=2))


@pytest.mark.parametrize(
    ("grids", "between"), [([], [7]), ([(1, 4, 6)], [0, 1]), ([(1, 20, 4), (1, 2, 30)], [1, 2, 3])], ids=["none", "one", "two"]
)
def test_positions_equal_transformers(grids: list[tuple[int, ...]], between: list[int]) -> None:
    torch = pytest.importorskip("torch")
    from transformers import Qwen3VLConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

    pieces = [np.full(between[0], 1)]
    for (t, h, w), length in zip(grids, between[1:], strict=True):
        pieces += [np.full(t * h * w // 4, 9), np.full(length, 1)]
    ids = np.concatenate(pieces).astype(np.int64)

    class Shell:  # get_rope_index needs the configuration alone, not the weights
        config = Qwen3VLConfig()
        get_vision_position_ids = Qwen3VLModel.get_vision_position_ids

    tokens = torch.from_numpy(ids)[None]
    theirs, _ = Qwen3VLModel.get_rope_index(
        Shell(),
        input_ids=tokens,
        mm_token_type_ids=(tokens == 9).int(),
        image_grid_thw=torch.tensor(grids) if grids else None,
        attention_mask=torch.ones_like(tokens),
    )
    np.testing.assert_array_equal(mrope_positions(ids, grids, image_token_id=9, merge=2), theirs[:, 0].numpy())


@pytest.mark.parametrize(("frequencies", "section"), [(64, [24, 20, 20]), (12, [6, 3, 3]), (8, [4, 2, 2]), (9, [3, 3, 3])])
def test_axes_take_turns_as_in_transformers(frequencies: int, section: list[int]) -> None:
    torch = pytest.importorskip("torch")
    if not installed("mlx"):
        pytest.skip("backend 'mlx' is not installed")
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

    from mlxtune.backends.mlx.rotary import frequency_axes

    class Shell:
        mrope_section = section

    angles = torch.arange(3)[:, None, None, None].expand(3, 1, 1, frequencies).clone()  # each axis says its number
    theirs = Qwen3VLTextRotaryEmbedding.recomposition_frequencies(Shell(), angles)[0, 0, :frequencies]
    np.testing.assert_array_equal(frequency_axes(frequencies, section, interleaved=True), theirs.numpy())
    blocks = frequency_axes(sum(section), section)
    np.testing.assert_array_equal(blocks, np.repeat(np.arange(3), section))


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_qwen3_prompts_equal_the_published_processors(folder: Path, pictures: int) -> None:
    processor = load_processor(folder)
    row = example(1, pictures=pictures, question="Сколько стоит 12.5% of <tea>?\n  «да»")
    text = rendered_by_transformers(processor, row)
    assert text.startswith("<|im_start|>user\n") and text.endswith("<|im_start|>assistant\n"), "no system prompt of its own"
    if pictures:
        # As Qwen3VLProcessor.replace_image_token does: t * h * w / merge² placeholders for a picture.
        grids = image_processor(processor)(images=[image.load() for image in row.images], return_tensors="np")["image_grid_thw"]
        for grid in grids:
            text = text.replace("<|image_pad|>", "<|placeholder|>" * int(grid.prod() // 4), 1)
        text = text.replace("<|placeholder|>", "<|image_pad|>")
    assert processor.prompt_text(row) == text
    ids = processor.encode(row, max_tokens=None, answer=False).input_ids
    assert ids.tolist() == processor.tokenizer(text)["input_ids"]


def test_a_system_turn_of_the_row_is_kept(folder: Path) -> None:
    processor = load_processor(folder)
    row = example(1)
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert processor.rendered([system, *row.messages]).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")


# -- levels of features -----------------------------------------------------------------------------------------------


def features_of(backend: Any, processor: Any, row: Any) -> np.ndarray:
    return np.concatenate(backend.vision_features([processor.pixels(image) for image in row.images]))


def logits(backend: Any, processor: Any, row: Any, features: np.ndarray) -> np.ndarray:
    """With these features in the place of the pictures' own."""
    encoded = processor.encode(row, max_tokens=None, answer=True)

    class Given(FreshPixels):
        def fill(self, images: Any) -> Any:
            return (), features

    return backend.logits(collate([encoded], pad_id=processor.pad_id, pictures=Given(processor)))


def test_each_level_of_features_changes_the_answer(backend: Any, model: Path) -> None:
    processor, row = load_processor(model), example(8, pictures=2)
    own = features_of(backend, processor, row)
    assert own.shape == (sum(processor.pixels(image).tokens for image in row.images), WIDTH * (1 + len(LEVELS)))
    expected = logits(backend, processor, row, own)
    seen = []
    for level in range(1 + len(LEVELS)):
        changed = own.copy()
        changed[:, level * WIDTH : (level + 1) * WIDTH] = 0
        seen.append(logits(backend, processor, row, changed))
        assert np.abs(seen[-1] - expected).max() > 0.05, level
    levels = own.reshape(len(own), -1, WIDTH)
    swapped = levels[:, [0, *range(len(LEVELS), 0, -1)]].reshape(own.shape)
    assert np.abs(logits(backend, processor, row, swapped) - expected).max() > 0.05, "each level has its own layer"
    assert all(np.abs(a - b).max() > 0.01 for i, a in enumerate(seen) for b in seen[:i])


def test_levels_are_transformers_own(backend: Any, model: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import Qwen3VLForConditionalGeneration

    processor = load_processor(model)
    reference = Qwen3VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    pixels = [processor.pixels(picture(number)) for number in (1, 3)]
    with torch.no_grad():
        values, grids = torch.from_numpy(np.concatenate([p.values for p in pixels])), torch.tensor([p.grid for p in pixels])
        out = reference.model.visual(values, grid_thw=grids)
    expected = [out.pooler_output, *out.deepstack_features]
    assert len(expected) == 1 + len(LEVELS)
    found = np.concatenate(backend.vision_features(pixels))
    for level, theirs in enumerate(expected):
        np.testing.assert_allclose(found[:, level * WIDTH : (level + 1) * WIDTH], theirs.numpy(), atol=2e-5, err_msg=str(level))


def test_the_store_keeps_all_levels(backend: Any, model: Path) -> None:
    processor = load_processor(model)
    pictures = [picture(number) for number in range(2)]
    store = FeatureStore(processor, backend, kept=InMemory())
    store.fill(pictures)
    pixels, features = store.fill(pictures)
    assert pixels == () and features is not None
    fresh = np.concatenate(backend.vision_features([processor.pixels(image) for image in pictures]))
    np.testing.assert_allclose(features, fresh, atol=1e-5)
    assert features.shape[1] == WIDTH * (1 + len(LEVELS))


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ([0, 1, 2, 3, 4], "names 5 levels, the text model has 4 layers to add them to"),
        ([0, 5], r"is \[0, 5\], but must name distinct ones of the vision tower's 5 blocks"),
        ([2, 2], r"is \[2, 2\], but must name distinct ones"),
        ([-1], r"is \[-1\], but must name distinct ones"),
    ],
)
def test_levels_that_would_be_lost_are_refused(tmp_path: Path, levels: list[int], said: str) -> None:
    write_files(tmp_path)
    config = published(TINY, tied=True)
    patch(tmp_path / "config.json", vision_config={**config["vision_config"], "deepstack_visual_indexes": levels})
    with pytest.raises(ModelError, match=f"config.json: deepstack_visual_indexes {said}.*Download"):
        load_processor(tmp_path)


@pytest.mark.parametrize("levels", [[3, 0, 2], [], [4]], ids=str)
def test_levels_in_any_number_and_order(levels: list[int], tmp_path: Path) -> None:
    """Mergers belong to the places in the list; features come in the order of the blocks."""
    pytest.importorskip("torch")
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    from tests.helpers.families.base import save

    models.build("qwen3_vl", tmp_path, tied=False)
    config = published(TINY, tied=False)
    config["vision_config"]["deepstack_visual_indexes"] = levels
    save(Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config)), tmp_path, seed=5)
    assert_logits_of_the_answer(tmp_path)


def assert_logits_of_the_answer(folder: Path, **limits: int) -> None:
    """On both backends, against transformers."""
    processor, reference = load_processor(folder, **limits), oracle.load(folder)
    row = processor.encode(example(0), max_tokens=None, answer=True)
    expected = oracle.logits(reference, processor, [row])[0, np.flatnonzero(row.weights) - 1]
    batch = collate([row], pad_id=processor.pad_id, pictures=FreshPixels(processor))
    for name in filter(installed, ("mlx", "torch")):
        ours = load_backend(name, folder, Loading("float32")).logits(batch)[: len(expected)]
        assert np.ptp(ours) > 1
        np.testing.assert_allclose(ours, expected, atol=1e-4, err_msg=name)


def test_the_whole_vocabulary_and_the_published_picture_limits(tmp_path: Path) -> None:
    """An older Qwen's tokenizer files; Qwen3's keep those ids."""
    files = asset("Qwen2-VL-2B-Instruct")
    pytest.importorskip("torch", reason="the random models are made with torch")
    folder = models.build("qwen3_vl", tmp_path, tied=False, assets=files)
    processor = load_processor(folder)
    row = processor.encode(example(3), max_tokens=None, answer=True)
    assert processor.image_token_id == 151_655 and processor.stop_ids == {151_645, 151_643}
    assert int(row.input_ids[-1]) == 151_645
    assert "system" not in processor.prompt_text(example(6, pictures=0))
    assert_logits_of_the_answer(folder)


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "group"),
    [
        ("model.visual.merger.linear_fc1", "projector"),
        ("model.visual.deepstack_merger_list.2.linear_fc2", "projector"),
        ("model.visual.blocks.26.attn.qkv", "vision"),
        ("model.visual.blocks.0.mlp.linear_fc2", "vision"),
        ("model.language_model.layers.35.self_attn.k_proj", "attention"),
        ("model.language_model.layers.0.mlp.gate_proj", "mlp"),
        ("model.visual.pos_embed", None),
        ("lm_head", None),
    ],
)
def test_sites_and_their_groups(site: str, group: str | None) -> None:
    assert FAMILIES["qwen3_vl"].group_of(site) == group
    assert FAMILIES["qwen3_vl"].canonical(f"{site}.weight") == f"{site}.weight"


def test_the_published_layout_of_a_configuration_reads_as_transformers_saves_it(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("torch")
    models.build("qwen3_vl", tmp_path, tied=False, nested=True)
    hub, saved = read_config(model), read_config(tmp_path)
    assert "rope_parameters" in saved.text and "rope_parameters" not in hub.text
    keys = ("hidden_size", "head_dim", "num_hidden_layers", "num_key_value_heads", "vocab_size", "rope_theta", "mrope_section")
    assert {key: hub.text[key] for key in keys} == {key: saved.text[key] for key in keys}
    assert hub.tied is saved.tied is False


@pytest.mark.parametrize("known", FAMILIES["qwen3_vl"].known_models, ids=lambda known: known.id)
def test_modules_of_the_true_sizes_have_transformers_names_and_shapes(known: Any, tmp_path: Path) -> None:
    """Nothing is computed: torch's weights are on no device, MLX's are never asked for."""
    torch = pytest.importorskip("torch")
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = true_configs()[known.id]
    with torch.device("meta"):
        theirs = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config))
    theirs.tie_weights()
    shapes = {name: tuple(value.shape) for name, value in theirs.named_parameters()}  # a tied head is listed once
    assert sum(map(int, map(np.prod, shapes.values()))) / 1e9 == pytest.approx(known.parameters, abs=0.005)
    if not installed("mlx"):
        pytest.skip("backend 'mlx' is not installed")
    from mlx.utils import tree_flatten

    from mlxtune.backends.mlx.models import MODELS

    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = {name: value.shape for name, value in tree_flatten(MODELS["qwen3_vl"](read_config(tmp_path)).parameters())}
    kernel = shapes["model.visual.patch_embed.proj.weight"]
    shapes["model.visual.patch_embed.proj.weight"] = (kernel[0], *kernel[2:], kernel[1])  # MLX keeps channels last
    assert ours == shapes
    groups = {FAMILIES["qwen3_vl"].group_of(name.removesuffix(".weight")) for name in ours if name.endswith(".weight")}
    assert groups == {"attention", "mlp", "projector", "vision", None}
