"""What a family computes without a framework, against transformers' own processors and models as oracles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlxtune.errors import DataError, ModelError
from mlxtune.families import FAMILIES, Processor, family_of, load_processor, read_config
from mlxtune.families.idefics3 import patch_places
from mlxtune.families.qwen2_5_vl import mrope_positions, smart_resize, vision_layout
from mlxtune.images import ImageRef
from tests.helpers.models import ASSETS, ROOT, write_idefics3_files
from tests.helpers.rows import example, picture

TINY = ROOT / "models" / "tiny-charts"
QWEN, SMOL = "Qwen2.5-VL-3B-Instruct", ("SmolVLM-256M-Instruct", "SmolVLM-500M-Instruct", "SmolVLM-Base", "SmolVLM-Instruct")
# width, height: ordinary, tiny, at the borders of rounding, and as narrow as is allowed
SIZES = [(160, 100), (70, 120), (1, 1), (3, 2), (27, 29), (28, 28), (56, 56), (57, 55), (113, 112), (42, 70), (98, 14)]
SIZES += [(400, 2), (2, 399), (600, 4), (5, 700), (850, 600), (601, 849), (1024, 31), (333, 333), (199, 1)]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder without weights for each family."""
    idefics3 = tmp_path_factory.mktemp("idefics3")
    write_idefics3_files(idefics3)
    return {"qwen2_5_vl": TINY, "idefics3": idefics3}


@pytest.fixture(params=list(FAMILIES))
def processor(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Processor:
    return load_processor(folders[request.param])


def asset(name: str) -> Path:
    if not (ASSETS / name).is_dir():
        pytest.skip(f"the published files of {name} are not at {ASSETS}")
    return ASSETS / name


def published(processor: Processor) -> Any:
    """transformers' PIL image processor with the folder's settings."""
    import transformers

    name = {"qwen2_5_vl": "Qwen2VLImageProcessorPil", "idefics3": "Idefics3ImageProcessorPil"}[processor.config.model_type]
    skipped = ("image_processor_type", "processor_class")
    settings = {key: value for key, value in processor.settings.items() if key not in skipped}
    if processor.config.model_type == "qwen2_5_vl" and "size" not in settings:
        settings["size"] = {"shortest_edge": settings.pop("min_pixels"), "longest_edge": settings.pop("max_pixels")}
    return getattr(transformers, name)(**settings)


# -- pixels -----------------------------------------------------------------------------------------------------------


def assert_same_pixels(processor: Processor, image: ImageRef, oracle: Any) -> None:
    ours = processor.pixels(image)
    if processor.config.model_type == "qwen2_5_vl":
        theirs = oracle(images=[image.load()], return_tensors="np")
        values, grid = theirs["pixel_values"], tuple(theirs["image_grid_thw"][0])
    else:
        theirs = oracle(images=[[image.load()]], return_tensors="np", return_row_col_info=True)
        values, grid = theirs["pixel_values"][0], (theirs["rows"][0][0], theirs["cols"][0][0])
        # Tiles that another picture of a batch has more of would be padding; a lone picture has none.
        assert theirs["pixel_attention_mask"].all()
    assert ours.grid == grid
    assert ours.values.dtype == np.float32 and ours.values.shape == values.shape
    assert ours.values.tobytes() == np.ascontiguousarray(values).tobytes()


def narrower_than_allowed(processor: Processor, size: tuple[int, int]) -> bool:
    return processor.config.model_type == "qwen2_5_vl" and max(size) / min(size) > 200


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_equal_the_published_processor_bit_for_bit(processor: Processor, size: tuple[int, int]) -> None:
    pytest.importorskip("transformers")
    assert_same_pixels(processor, picture(sum(size), size), published(processor))


@pytest.mark.parametrize("name", [QWEN, *SMOL])
@pytest.mark.parametrize("size", [(850, 600), (30, 41), (1300, 40), (37, 1100), (512, 512), (2100, 1500)], ids=str)
def test_pixels_with_the_published_settings(name: str, size: tuple[int, int]) -> None:
    processor = load_processor(asset(name))
    assert_same_pixels(processor, picture(1, size), published(processor))


@pytest.mark.parametrize("name", SMOL)
def test_tiles_of_every_shape(name: str) -> None:
    """Grids only, over many sizes: resizing and splitting round on their own terms."""
    processor = load_processor(asset(name))
    oracle = published(processor)
    rng = np.random.default_rng(0)
    sizes = [(int(w), int(h)) for w, h in np.exp(rng.uniform(0, np.log(5000), (400, 2)))]
    for width, height in [*sizes, (4096, 1), (1, 4096), (5000, 4999)]:
        rows, columns = _published_grid(oracle, width=width, height=height)
        assert processor.grid((width, height)) == (rows, columns), (width, height)


def _published_grid(oracle: Any, *, width: int, height: int) -> tuple[int, int]:
    tiles, rows, columns = oracle.get_number_of_image_patches(height, width, {})
    return (0, 0) if tiles == 1 else (rows, columns)


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
    oracle = published(processor)
    for size in ((300, 200), (90, 400), (400, 60), (40, 40)):
        assert_same_pixels(processor, picture(2, size), oracle)
        _, rows, columns = processor.grid(size)
        assert rows * columns * 196 <= value if setting == "max_pixels" else rows * columns * 196 >= value


def test_a_limit_of_pixels_takes_whole_tiles_away(folders: dict[str, Path]) -> None:
    folder = folders["idefics3"]
    grids = {limit: load_processor(folder, max_pixels=limit).grid((400, 300)) for limit in (None, 112**2, 111**2, 56**2, 10)}
    assert grids == {None: (2, 2), 112**2: (2, 2), 111**2: (0, 0), 56**2: (0, 0), 10: (0, 0)}


# -- positions and layout ---------------------------------------------------------------------------------------------


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
    ],
    ids=["no picture", "one", "first thing", "last thing", "two", "three"],
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


@pytest.mark.parametrize("side", [4, 16, 24, 26, 27, 28, 32])
def test_patches_take_the_positions_that_transformers_gives_them(side: int) -> None:
    """384 / 14 = 27 and 512 / 16 = 32 are SmolVLM's, 364 / 14 = 26 is Idefics3's."""
    torch = pytest.importorskip("torch")
    from transformers import Idefics3VisionConfig
    from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionEmbeddings

    config = Idefics3VisionConfig(image_size=side * 2, patch_size=2, hidden_size=1, num_attention_heads=1)
    embeddings = Idefics3VisionEmbeddings(config)
    with torch.no_grad():
        embeddings.patch_embedding.weight.zero_(), embeddings.patch_embedding.bias.zero_()
        embeddings.position_embedding.weight.copy_(torch.arange(side * side)[:, None])
        theirs = embeddings(torch.zeros(1, 3, side * 2, side * 2), torch.ones(1, side, side, dtype=torch.bool))
    np.testing.assert_array_equal(patch_places(side, side), theirs[0, :, 0].int().numpy())


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_training_text_begins_with_what_generation_starts_from(processor: Processor, pictures: int) -> None:
    row = example(2, pictures=pictures)
    prompt = processor.encode(row, max_tokens=None, answer=False)
    whole = processor.encode(row, max_tokens=None, answer=True)
    assert whole.input_ids[: len(prompt.input_ids)].tolist() == prompt.input_ids.tolist()
    assert not prompt.weights.any()
    learned = whole.input_ids[whole.weights == 1]
    assert len(learned) == len(whole.input_ids) - len(prompt.input_ids)
    assert int(learned[-1]) in processor.stop_ids and not set(learned[:-1].tolist()) & processor.stop_ids
    assert processor.decode(learned.tolist()) == row.target
    assert (whole.input_ids[whole.image_rows] == processor.image_token_id).all()
    assert len(whole.image_rows) == sum(processor.pixels(image).tokens for image in row.images)
    assert not whole.weights[whole.image_rows].any()


def rendered_by_transformers(processor: Processor, row: Any) -> str:
    return processor.tokenizer.apply_chat_template(
        list(row.messages), chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize("name", ["tiny", QWEN])
@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_qwen_prompts_equal_the_published_processors(name: str, pictures: int) -> None:
    processor = load_processor(TINY if name == "tiny" else asset(name))
    row = example(1, pictures=pictures, question="Сколько стоит 12.5% of <tea>?\n  «да»")
    text, merged = rendered_by_transformers(processor, row), 4
    if pictures:
        # As Qwen2_5_VLProcessor does: each placeholder in turn becomes t * h * w / merge² of them.
        grids = published(processor)(images=[image.load() for image in row.images], return_tensors="np")["image_grid_thw"]
        for grid in grids:
            text = text.replace("<|image_pad|>", "<|placeholder|>" * int(grid.prod() // merged), 1)
        text = text.replace("<|placeholder|>", "<|image_pad|>")
    assert processor.prompt_text(row) == text
    ids = processor.encode(row, max_tokens=None, answer=False).input_ids
    assert ids.tolist() == processor.tokenizer(text)["input_ids"]


@pytest.mark.parametrize("name", ["tiny", *SMOL])
@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_idefics3_prompts_equal_the_published_processors(name: str, pictures: int, folders: dict[str, Path]) -> None:
    from transformers import Idefics3Processor

    processor = load_processor(folders["idefics3"] if name == "tiny" else asset(name))
    row = example(1, pictures=pictures)
    row = replace(row, images=tuple(picture(i, size) for i, size in enumerate([(90, 60), (40, 41)][:pictures])))
    text = rendered_by_transformers(processor, row)
    shell = object.__new__(Idefics3Processor)  # its constructor wants torchvision; the text needs only these
    settings = json.loads((processor.config.folder / "processor_config.json").read_text())
    vars(shell).update(image_seq_len=settings["image_seq_len"], image_token="<image>")
    vars(shell).update(fake_image_token="<fake_token_around_image>", global_image_tag="<global-img>")
    if pictures:
        images = [[image.load() for image in row.images]]
        found = published(processor)(images=images, return_row_col_info=True)
        for number in range(pictures):
            text = text.replace("<image>", shell.replace_image_token(found, number).replace("<image>", "<\0>"), 1)
        text = text.replace("<\0>", "<image>")
    assert processor.prompt_text(row) == text
    ids = processor.encode(row, max_tokens=None, answer=False).input_ids
    assert ids.tolist() == processor.tokenizer(text)["input_ids"]
    assert processor.config.vision["image_size"] == processor.settings["max_image_size"]["longest_edge"]


@pytest.mark.parametrize("name", [QWEN, *SMOL])
def test_published_files_end_answers_where_training_does(name: str) -> None:
    processor = load_processor(asset(name))
    row = example(3)
    whole = processor.encode(row, max_tokens=None, answer=True)
    end = "<|im_end|>" if name == QWEN else "<|endoftext|>" if name == "SmolVLM-Base" else "<end_of_utterance>"
    assert processor.tokenizer.convert_ids_to_tokens(int(whole.input_ids[-1])) == end
    assert int(whole.input_ids[-1]) in processor.stop_ids
    assert processor.pad_id < 2**31 and processor.image_token_id not in processor.stop_ids


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_row_that_is_too_long_says_what_it_is_made_of(processor: Processor) -> None:
    row = example(0)
    prompt, whole = (processor.encode(row, max_tokens=None, answer=answer) for answer in (False, True))
    length, images = len(whole.input_ids), len(whole.image_rows)
    assert len(processor.encode(row, max_tokens=length, answer=True).input_ids) == length
    with pytest.raises(DataError) as caught:
        processor.encode(row, max_tokens=length - 1, answer=True)
    parts = f"({images} of pictures, {len(prompt.input_ids) - images} of prompt, {length - len(prompt.input_ids)} of answer)"
    assert str(caught.value).startswith(f"row 0: {length} tokens {parts}, the limit is {length - 1}. Raise train.max_tokens")


def test_placeholders_and_pictures_must_agree(processor: Processor) -> None:
    token = processor.image_token
    row = example(0)
    cases = {
        "2 pictures but 1 placeholders": {"images": (*row.images, picture(5))},
        "0 pictures but 1 placeholders": {"images": ()},
        "1 pictures but 2 placeholders": {"messages": example(0, question=f"what is {token}?").messages},
        f"the answer holds '{token}'": {"target": f"it is {token}"},
    }
    for said, change in cases.items():
        with pytest.raises(DataError) as caught:
            processor.encode(replace(row, **change), max_tokens=None, answer=True)
        assert said in str(caught.value) and str(caught.value).startswith("row 0: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ("{}", "names no 'model_type'"),
        ('{"model_type": 3}', "names no 'model_type'"),
        ('{"model_type": "bert"}', "'bert' is no family that mlxtune knows. Use one of: qwen2_5_vl, idefics3"),
    ],
)
def test_configurations_that_cannot_be_used(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        family_of(read_config(tmp_path))
    assert said in str(caught.value) and "config.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "said"), [("preprocessor_config.json", "preprocessor_config.json"), ("tokenizer.json", "tokenizer")]
)
def test_a_folder_that_lacks_a_file(processor: Processor, tmp_path: Path, file: str, said: str) -> None:
    folder = Path(shutil.copytree(processor.config.folder, tmp_path / "model"))
    for name in ("tokenizer.json", "vocab.json", "merges.txt") if file == "tokenizer.json" else (file,):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError) as caught:
        load_processor(folder).encode(example(0), max_tokens=None, answer=True)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_a_chat_template(processor: Processor, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(processor.config.folder, tmp_path / "model"))
    (folder / "chat_template.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "chat_template"}))
    with pytest.raises(ModelError, match="no chat template"):
        load_processor(folder).encode(example(0), max_tokens=None, answer=True)


def test_a_template_in_its_own_file_wins(processor: Processor, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(processor.config.folder, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text("{{ 'mine:' }}{% for m in messages %}{{ m['role'] }}{% endfor %}")
    row = example(0, pictures=0)
    assert load_processor(folder).prompt_text(row) == "mine:user"


# -- names ------------------------------------------------------------------------------------------------------------


def test_both_layouts_of_a_configuration_read_the_same(tmp_path: Path) -> None:
    flat = json.loads((TINY / "config.json").read_text())
    text = {k: v for k, v in flat.items() if k not in ("vision_config", "rope_theta", "rope_scaling", "model_type")}
    rope = {"rope_theta": flat["rope_theta"], "rope_type": "default", "mrope_section": flat["rope_scaling"]["mrope_section"]}
    nested = {"model_type": "qwen2_5_vl", "vision_config": flat["vision_config"], "tie_word_embeddings": True}
    nested["text_config"] = {**text, "model_type": "qwen2_5_vl_text", "rope_parameters": rope}
    (tmp_path / "config.json").write_text(json.dumps(nested))
    ours, theirs = read_config(TINY), read_config(tmp_path)
    assert ours.vision == theirs.vision and ours.tied and theirs.tied
    assert (theirs.text["rope_theta"], theirs.text["mrope_section"]) == (10_000.0, [4, 8, 8])
    keys = ("hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size", "rope_theta", "mrope_section")
    assert {key: ours.text[key] for key in keys} == {key: theirs.text[key] for key in keys}


@pytest.mark.parametrize(
    ("family", "published_name", "name"),
    [
        ("qwen2_5_vl", "visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"),
        ("qwen2_5_vl", "model.layers.3.mlp.up_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight"),
        ("qwen2_5_vl", "model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("qwen2_5_vl", "model.norm.weight", "model.language_model.norm.weight"),
        ("qwen2_5_vl", "lm_head.weight", "lm_head.weight"),
        ("idefics3", "model.text_model.layers.0.mlp.up_proj.weight", "model.text_model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_published_names_have_one_canonical_form(family: str, published_name: str, name: str) -> None:
    assert FAMILIES[family].canonical(published_name) == name
    assert FAMILIES[family].canonical(name) == name


def test_every_site_belongs_to_one_group_and_the_head_to_none() -> None:
    groups = {"attention", "mlp", "projector", "vision"}
    for family in FAMILIES.values():
        assert set(family.sites) == groups
        assert family.group_of("lm_head") is None
    qwen, idefics3 = FAMILIES["qwen2_5_vl"], FAMILIES["idefics3"]
    assert qwen.group_of("model.visual.merger.mlp.2") == "projector"
    assert qwen.group_of("model.visual.blocks.1.mlp.up_proj") == "vision"
    assert qwen.group_of("model.language_model.layers.1.mlp.up_proj") == "mlp"
    assert idefics3.group_of("model.vision_model.encoder.layers.0.self_attn.out_proj") == "vision"
    assert idefics3.group_of("model.connector.modality_projection.proj") == "projector"


def test_pictures_with_transparency_and_grey_ones_are_read_as_color(processor: Processor) -> None:
    from mlxtune.images import image_ref

    grey = image_ref(Image.new("L", (60, 40), 200))
    clear = image_ref(Image.new("RGBA", (60, 40), (0, 0, 0, 0)))
    white = image_ref(Image.new("RGB", (60, 40), (255, 255, 255)))
    assert processor.pixels(grey).values.shape == processor.pixels(white).values.shape
    np.testing.assert_array_equal(processor.pixels(clear).values, processor.pixels(white).values)
