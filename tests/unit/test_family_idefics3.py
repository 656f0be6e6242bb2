"""Idefics3's tiles, places of patches and prompts, against transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.errors import RecipeError
from mlxtune.families import load_processor
from mlxtune.families.idefics3 import patch_places
from tests.helpers.families.base import TEXT_FILES, copy
from tests.helpers.families.idefics3 import FIXTURE, image_processor, write_files
from tests.helpers.family_checks import asset, rendered_by_transformers
from tests.helpers.layouts import assert_same_layout
from tests.helpers.rows import example, picture

SMOL = FIXTURE.assets


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("idefics3")
    write_files(path)
    return path


@pytest.mark.parametrize("name", SMOL)
def test_tiles_of_every_shape(name: str) -> None:
    """Grids only, over many sizes: resizing and splitting round on their own terms."""
    processor = load_processor(asset(name))
    oracle = image_processor(processor)
    rng = np.random.default_rng(0)
    sizes = [(int(w), int(h)) for w, h in np.exp(rng.uniform(0, np.log(5000), (400, 2)))]
    for width, height in [*sizes, (4096, 1), (1, 4096), (5000, 4999)]:
        rows, columns = _published_grid(oracle, width=width, height=height)
        assert processor.grid((width, height)) == (rows, columns), (width, height)


def _published_grid(oracle: Any, *, width: int, height: int) -> tuple[int, int]:
    tiles, rows, columns = oracle.get_number_of_image_patches(height, width, {})
    return (0, 0) if tiles == 1 else (rows, columns)


def test_a_limit_of_pixels_takes_whole_tiles_away(folder: Path) -> None:
    grids = {limit: load_processor(folder, max_pixels=limit).grid((400, 300)) for limit in (None, 112**2, 111**2, 56**2, 10)}
    assert grids == {None: (2, 2), 112**2: (2, 2), 111**2: (0, 0), 56**2: (0, 0), 10: (0, 0)}


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


@pytest.mark.parametrize("name", ["tiny", *SMOL])
@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_idefics3_prompts_equal_the_published_processors(name: str, pictures: int, folder: Path) -> None:
    from transformers import Idefics3Processor

    processor = load_processor(folder if name == "tiny" else asset(name))
    row = example(1, pictures=pictures)
    row = replace(row, images=tuple(picture(i, size) for i, size in enumerate([(90, 60), (40, 41)][:pictures])))
    text = rendered_by_transformers(processor, row)
    shell = object.__new__(Idefics3Processor)  # its constructor wants torchvision; the text needs only these
    settings = json.loads((processor.config.folder / "processor_config.json").read_text())
    vars(shell).update(image_seq_len=settings["image_seq_len"], image_token="<image>")
    vars(shell).update(fake_image_token="<fake_token_around_image>", global_image_tag="<global-img>")
    if pictures:
        images = [[image.load() for image in row.images]]
        found = image_processor(processor)(images=images, return_row_col_info=True)
        for number in range(pictures):
            text = text.replace("<image>", shell.replace_image_token(found, number).replace("<image>", "<\0>"), 1)
        text = text.replace("<\0>", "<image>")
    assert processor.prompt_text(row) == text
    ids = processor.encode(row, max_tokens=None, answer=False).input_ids
    assert ids.tolist() == processor.tokenizer(text)["input_ids"]
    assert processor.config.vision["image_size"] == processor.settings["max_image_size"]["longest_edge"]


@pytest.mark.parametrize(("name", "end"), [(name, end) for name, end in FIXTURE.ends.items() if "SmolVLM" in name])
def test_where_the_folder_has_no_template_the_familys_is_smolvlms(name: str, end: str, tmp_path: Path) -> None:
    source = asset(name)
    copy(source, tmp_path, "config.json", *(file for file in TEXT_FILES if file != "chat_template.json"))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": None}))
    bare, whole = load_processor(tmp_path), load_processor(source)
    said = [{"role": "user", "content": "And then?"}, {"role": "assistant", "content": [{"type": "text", "text": "that"}]}]
    for pictures in (0, 1, 2):
        row = example(1, pictures=pictures)
        messages = [*row.messages, said[1], {**said[0], "content": [{"type": "text", "text": said[0]["content"]}]}]
        assert bare.rendered(messages) == whole.rendered(messages)
        assert bare.rendered([*messages[:-1], said[0]]) == bare.rendered(messages)
        ids = bare.encode(row, max_tokens=None, answer=True).input_ids
        assert ids.tolist() == whole.encode(row, max_tokens=None, answer=True).input_ids.tolist()
        assert bare.tokenizer.convert_ids_to_tokens(int(ids[-1])) == end


@pytest.mark.parametrize("name", SMOL)
def test_the_published_sizes_are_built_as_transformers_builds_them(name: str) -> None:
    assert_same_layout(asset(name))


def test_a_smallest_area_is_refused_since_every_picture_is_enlarged(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"model.min_pixels: 3000 has no meaning for idefics3.* to 112 pixels.* null"):
        load_processor(folder, min_pixels=3000)
