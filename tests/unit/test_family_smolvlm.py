"""SmolVLM2 against transformers: its prompt with pictures, its default template, and layouts that leave sizes out.

Tokenizer and template files of the hub were not at hand; the template is the one that transformers carries for this family.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.errors import RecipeError
from mlxtune.families import Processor, load_processor
from tests.helpers.families import smolvlm
from tests.helpers.families.base import write_json
from tests.helpers.families.idefics3 import image_processor
from tests.helpers.family_checks import assert_same_pixels
from tests.helpers.layouts import assert_same_layout
from tests.helpers.rows import example, picture
from tests.unit.test_families import conversation

# As the hub has them: SmolVLM2-256M/500M name neither the tower's depth nor its inner width, 2.2B no number of heads.
_TEXT = {"model_type": "llama", "head_dim": 64, "vocab_size": 49_280, "rms_norm_eps": 1e-5, "is_llama_config": True}
_BASE = {"hidden_size": 768, "image_size": 512, "model_type": "smolvlm_vision", "num_attention_heads": 12, "patch_size": 16}
_SO400M = {"hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "model_type": "smolvlm_vision"}
_500M = {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "rope_theta": 100_000}
CONFIGS: dict[str, dict[str, Any]] = {
    "500M": {
        "text_config": {**_TEXT, **_500M, "num_attention_heads": 15, "num_key_value_heads": 5},
        "vision_config": _BASE,
        "scale_factor": 4,
        "tile": 512,
    },
    "2.2B": {
        "text_config": {**_TEXT, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "rope_theta": 130_000},
        "vision_config": {**_SO400M, "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14},
        "scale_factor": 3,
        "tile": 384,
    },
}


@pytest.fixture
def processor(tmp_path: Path) -> Processor:
    smolvlm.FIXTURE.write_files(tmp_path)
    return load_processor(tmp_path)


def published(folder: Path, name: str) -> Path:
    smolvlm.FIXTURE.write_files(folder)
    config = dict(CONFIGS[name])
    tile = config.pop("tile")
    config |= {"model_type": "smolvlm", "tie_word_embeddings": False, "image_token_id": 49_190}
    write_json(folder / "config.json", config)
    sizes = {"max_image_size": {"longest_edge": tile}, "size": {"longest_edge": 4 * tile}}
    flags = {"do_resize": True, "do_image_splitting": True, "resample": 1, "image_processor_type": "SmolVLMImageProcessor"}
    write_json(folder / "preprocessor_config.json", {**flags, **sizes, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    (folder / "processor_config.json").unlink()
    return folder


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_prompts_equal_those_of_transformers(processor: Processor, pictures: int) -> None:
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE, SmolVLMProcessor

    sizes = [(90, 60), (40, 41)][:pictures]
    for row in (example(1, pictures=pictures), conversation(pictures=pictures)):
        row = replace(row, images=tuple(picture(i, size) for i, size in enumerate(sizes)))
        settings = {"chat_template": DEFAULT_CHAT_TEMPLATE, "tokenize": False, "add_generation_prompt": True}
        text = processor.tokenizer.apply_chat_template(list(row.messages), **settings)
        shell = object.__new__(SmolVLMProcessor)  # its constructor wants torchvision; the text needs only these
        vars(shell).update(image_seq_len=4, image_token="<image>", fake_image_token="<fake_token_around_image>")
        vars(shell).update(global_image_token="<global-img>")
        if pictures:
            found = image_processor(processor)(images=[[image.load() for image in row.images]], return_row_col_info=True)
            for number in range(pictures):
                text = text.replace("<image>", shell.replace_image_token(found, number).replace("<image>", "<\0>"), 1)
        assert processor.prompt_text(row) == text.replace("<\0>", "<image>")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_chart_takes_as_many_tokens_as_the_list_of_models_says(name: str, tmp_path: Path) -> None:
    """The tokens of a tile are told from the sizes of the model where processor_config.json is not there."""
    processor = load_processor(published(tmp_path, name))
    known = {model.image_tokens for model in processor.family.known_models if name in model.id}
    assert {processor.image_tokens(processor.grid((850, 600)))} == known
    assert type(image_processor(processor)).__name__ == "SmolVLMImageProcessorPil"
    for size in [(850, 600), (30, 41), (1300, 40), (37, 1100)]:
        assert_same_pixels(processor, picture(1, size))


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_that_the_hub_leaves_out_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    assert_same_layout(published(tmp_path, name))


@pytest.mark.parametrize("limit", [1, 10, 3000])
def test_a_smallest_area_is_refused_since_every_picture_is_enlarged(processor: Processor, limit: int) -> None:
    with pytest.raises(RecipeError, match=rf"model.min_pixels: {limit} has no meaning for smolvlm.* to 112 pixels.* null"):
        load_processor(processor.config.folder, min_pixels=limit)


@pytest.mark.parametrize("limit", [None, 112**2, 112**2 - 1, 56**2, 1])
def test_a_largest_area_takes_whole_tiles_away(processor: Processor, limit: int | None) -> None:
    grid = load_processor(processor.config.folder, max_pixels=limit).grid((400, 300))
    assert grid == ((2, 2) if math.isqrt(limit or 10**6) >= 112 else (0, 0))
