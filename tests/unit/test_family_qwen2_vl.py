"""Qwen2-VL's positions, prompts, names and vision tower, against transformers; with the published files where they are there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlxtune.backends import installed
from mlxtune.families import FAMILIES, load_processor, read_config
from mlxtune.families.qwen2_5_vl import mrope_positions, patch_places, picture_segments
from mlxtune.types import Example
from tests.helpers import models
from tests.helpers.families.qwen2_5_vl import PROMPTS, assert_same_prompt
from tests.helpers.families.qwen2_vl import write_files
from tests.helpers.family_checks import asset

NAME = "Qwen2-VL-2B-Instruct"
FAMILY = FAMILIES["qwen2_vl"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen2_vl")
    write_files(path)
    return path


@pytest.mark.parametrize("name", ["tiny", NAME])
@pytest.mark.parametrize("row", PROMPTS.values(), ids=PROMPTS)
def test_prompts_equal_the_published_processors(name: str, row: Example, folder: Path) -> None:
    assert_same_prompt(load_processor(folder if name == "tiny" else asset(name)), row)


@pytest.mark.parametrize(
    "grids", [[(1, 4, 6)], [(1, 20, 4), (1, 2, 30), (1, 6, 6)], [(1, 4, 6), (1, 4, 6)]], ids=["one", "three", "equal ones"]
)
def test_positions_equal_transformers(grids: list[tuple[int, ...]]) -> None:
    torch = pytest.importorskip("torch")
    from transformers import Qwen2VLConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    class Shell:  # get_rope_index needs the configuration alone, not the weights
        config = Qwen2VLConfig()
        get_vision_position_ids = Qwen2VLModel.get_vision_position_ids

    pieces = [[1, 1, *[9] * (h * w // 4), 1] for _, h, w in grids]
    ids = np.array([*sum(pieces, []), 1, 1])
    tokens = torch.from_numpy(ids)[None]
    theirs, _ = Qwen2VLModel.get_rope_index(
        Shell(),
        input_ids=tokens,
        mm_token_type_ids=(tokens == 9).int(),
        image_grid_thw=torch.tensor(grids),
        attention_mask=torch.ones_like(tokens),
    )
    np.testing.assert_array_equal(mrope_positions(ids, grids, image_token_id=9, merge=2), theirs[:, 0].numpy())


@pytest.mark.parametrize("grids", [[(1, 4, 4)], [(1, 2, 34), (1, 16, 6), (1, 2, 2)]], ids=str)
def test_patches_stand_and_see_as_in_transformers(grids: list[tuple[int, ...]]) -> None:
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("transformers.vision_utils")
    theirs = utils.get_vision_position_ids(torch.tensor(grids), 2)
    places, segments = patch_places(grids, merge=2), picture_segments(grids)
    np.testing.assert_array_equal(places, theirs.numpy().reshape(places.shape))
    assert [row[seen].tolist() for row, seen in zip(segments.places, segments.valid, strict=True)] == [
        list(range(end - h * w, end)) for (_, h, w), end in zip(grids, np.cumsum([h * w for _, h, w in grids]), strict=True)
    ]


def test_both_layouts_of_the_published_configuration_read_the_same(tmp_path: Path) -> None:
    """transformers writes the nested one; what it adds must not change what is read."""
    transformers = pytest.importorskip("transformers")
    flat = read_config(asset(NAME))
    transformers.Qwen2VLConfig.from_pretrained(str(flat.folder)).save_pretrained(tmp_path)
    nested = read_config(tmp_path)
    assert "text_config" in nested.top and "text_config" not in flat.top
    assert flat.tied and nested.tied and nested.model_type == flat.model_type == "qwen2_vl"
    assert (nested.text["rope_theta"], nested.text["mrope_section"]) == (1_000_000.0, [16, 24, 24])
    keys = (
        "hidden_size",
        "num_hidden_layers",
        "num_key_value_heads",
        "vocab_size",
        "rope_theta",
        "mrope_section",
        "rms_norm_eps",
    )
    assert {key: nested.text[key] for key in keys} == {key: flat.text[key] for key in keys}
    assert {key: nested.vision[key] for key in flat.vision} == flat.vision


@pytest.mark.parametrize(("tied", "nested"), [(True, False), (False, False), (True, True), (False, True)])
def test_weights_carry_the_published_names(tmp_path: Path, tied: bool, nested: bool) -> None:
    pytest.importorskip("torch", reason="the random models are made with torch")
    from safetensors import safe_open

    models.build("qwen2_vl", tmp_path, tied=tied, nested=nested)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        names = set(file.keys())
    text, tower = ("model.language_model.", "model.visual.") if nested else ("model.", "visual.")
    expected = {"patch_embed.proj.weight", "blocks.2.mlp.fc1.bias", "blocks.0.norm1.bias", "blocks.0.attn.qkv.weight"}
    expected |= {"merger.ln_q.bias", "merger.mlp.0.weight", "merger.mlp.2.bias"}
    assert {tower + name for name in expected} <= names
    assert {text + name for name in ("embed_tokens.weight", "layers.1.self_attn.q_proj.bias", "norm.weight")} <= names
    assert ("lm_head.weight" in names) is not tied
    assert {FAMILY.canonical(name).split(".")[1] for name in names - {"lm_head.weight"}} == {"visual", "language_model"}


@pytest.mark.parametrize(
    ("site", "group"),
    [
        ("model.visual.merger.mlp.0", "projector"),
        ("model.visual.merger.mlp.2", "projector"),
        ("model.visual.merger.mlp.1", None),
        ("model.visual.blocks.1.mlp.fc1", "vision"),
        ("model.visual.blocks.1.mlp.fc2", "vision"),
        ("model.visual.blocks.1.attn.proj", "vision"),
        ("model.visual.blocks.31.attn.qkv", "vision"),
        ("model.visual.patch_embed.proj", None),
        ("model.language_model.layers.1.mlp.up_proj", "mlp"),
        ("model.language_model.layers.27.self_attn.o_proj", "attention"),
        ("lm_head", None),
    ],
)
def test_sites(site: str, group: str | None) -> None:
    assert FAMILY.group_of(site) == group


@pytest.mark.parametrize("model", FAMILY.known_models, ids=lambda model: model.id)
def test_known_models_say_how_many_tokens_a_chart_takes(model: object) -> None:
    processor = load_processor(asset(NAME))
    assert processor.image_tokens(processor.grid((850, 600))) == model.image_tokens


def test_the_size_of_the_published_model(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    config = Qwen2VLConfig.from_pretrained(str(asset(NAME)))
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(config)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(FAMILY.known_models[0].parameters, abs=0.005)


def test_the_mlx_tower_has_the_published_tensors() -> None:
    """Names and shapes at true size: the published configuration through our modules equals it through transformers'."""
    if not installed("mlx"):
        pytest.skip("backend 'mlx' is not installed")
    torch = pytest.importorskip("torch")
    from mlx.utils import tree_flatten
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    from mlxtune.backends.mlx.models.qwen2_vl import VisionTower

    with torch.device("meta"):
        theirs = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_pretrained(str(asset(NAME)))).model.visual
    ours = {name: tuple(value.shape) for name, value in tree_flatten(VisionTower(read_config(asset(NAME))).parameters())}
    shapes = {name: tuple(value.shape) for name, value in theirs.named_parameters()}
    out, channels, *kernel = shapes.pop("patch_embed.proj.weight")
    assert ours.pop("patch_embed.proj.weight") == (out, *kernel, channels)
    assert ours == shapes


def test_the_outline_without_weights_is_of_the_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "qwen2_vl" and load_processor(folder).family is FAMILY
