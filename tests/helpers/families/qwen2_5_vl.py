"""Qwen2.5-VL, small and random."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.families import Processor
from mlxtune.images import ImageRef
from mlxtune.types import Example, Pixels
from tests.helpers.families.base import SMALL_TEXT, TEXT_FILES, TINY, Fixture, copy, patch, rename, save, write_json
from tests.helpers.rows import example, picture

SIZES = ((160, 100), (37, 240), (850, 600))  # width, height


def prompt(pictures: int, *more: dict[str, Any]) -> Example:
    """A question in two scripts about pictures of different shapes; `more` turns follow."""
    row = example(1, pictures=pictures, question="Сколько стоит 12.5% of <tea>?\n  «да»")
    images = tuple(picture(number, SIZES[number % 3]) for number in range(pictures + sum(map(_pictures, more))))
    return replace(row, images=images, messages=[*row.messages, *more])


def _pictures(turn: dict[str, Any]) -> int:
    return sum(part["type"] == "image" for part in turn["content"])


def _turn(role: str, *parts: str | None) -> dict[str, Any]:
    """None stands for a picture."""
    return {"role": role, "content": [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]}


_BETWEEN = _turn("user", "Left ", None, " or right", None)
PROMPTS = {
    **{f"{pictures} pictures": prompt(pictures) for pictures in range(4)},
    "pictures between words": replace(prompt(2), messages=[_BETWEEN]),
    "pictures in a later turn": prompt(2, _turn("assistant", "The second one, да."), _BETWEEN),
    "a system message": replace(prompt(1), messages=[_turn("system", "Be short."), *prompt(1).messages]),
}

# From the hub's names to those of the modules.
BY_MODULE = (("visual.", "model.visual."), ("model.", "model.language_model."))


def write_files(folder: Path) -> None:
    copy(TINY, folder, *TEXT_FILES, "config.json")


def build(folder: Path, *, seed: int, tied: bool, nested: bool, assets: Path | None) -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    published = copy_files(folder, assets)
    text = small_text(published)
    vision = {"depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
    vision |= {"window_size": 112, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied, **token_ids(published))
    save(Qwen2_5_VLForConditionalGeneration(config), folder, seed=seed)
    if nested:
        rename(folder, BY_MODULE)
    else:
        write_json(folder / "config.json", flat_config(published, text=text, vision=vision, tied=tied))


def copy_files(folder: Path, assets: Path | None) -> dict[str, Any]:
    """Gives the configuration that the model is modelled on; without `assets`, the folder has the bundled model's files."""
    if assets is None:
        copy(TINY, folder, *TEXT_FILES)
        # The smallest pictures are of one window and two tokens, the largest of two windows each way.
        patch(folder / "preprocessor_config.json", min_pixels=28 * 56, max_pixels=140 * 140)
    return json.loads(((assets or TINY) / "config.json").read_text(encoding="utf-8"))


def small_text(published: dict[str, Any]) -> dict[str, Any]:
    rope = {"mrope_section": [2, 3, 3], "rope_type": "default", "rope_theta": 10_000.0}
    return {**SMALL_TEXT, "num_hidden_layers": 2, "vocab_size": published["vocab_size"], "rope_parameters": rope}


def token_ids(published: dict[str, Any]) -> dict[str, int]:
    return {key: published[key] for key in published if key.endswith("_token_id")}


def flat_config(published: dict[str, Any], *, text: dict[str, Any], vision: dict[str, Any], tied: bool) -> dict[str, Any]:
    """As the hub has it: the text model's keys at the top level, its rotary settings under their old names."""
    rope = {"rope_theta": 10_000.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    sizes = {key: value for key, value in text.items() if key != "rope_parameters"}
    return {
        **published,
        **sizes,
        **rope,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "max_window_layers": 2,
        "vision_config": {**published["vision_config"], **vision},
    }


def image_processor(processor: Processor) -> Any:
    """transformers' PIL image processor with the folder's settings."""
    from transformers import Qwen2VLImageProcessorPil

    skipped = ("image_processor_type", "processor_class")
    settings = {key: value for key, value in processor.settings.items() if key not in skipped}
    if "size" not in settings:
        settings["size"] = {"shortest_edge": settings.pop("min_pixels"), "longest_edge": settings.pop("max_pixels")}
    return Qwen2VLImageProcessorPil(**settings)


def published_processor(processor: Processor) -> Any:
    """The processor that the folder names, whole but for its part for videos, which needs torchvision."""
    import transformers

    class WithoutVideos(getattr(transformers, processor.settings["processor_class"])):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    return WithoutVideos(image_processor(processor), processor.tokenizer, chat_template=processor.chat_template)


def assert_same_prompt(processor: Processor, row: Example) -> None:
    """Token ids, pixels and grids of the prompt are those of the published processor's own call, from messages to tensors."""
    theirs = published_processor(processor).apply_chat_template(
        with_pictures(row), tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="np"
    )
    ours = processor.encode(row, max_tokens=None, answer=False)
    assert theirs["input_ids"].tolist() == [ours.input_ids.tolist()]
    assert processor.tokenizer(processor.prompt_text(row))["input_ids"] == ours.input_ids.tolist()
    assert ours.image_rows.tolist() == np.flatnonzero(theirs["mm_token_type_ids"][0]).tolist()
    assert ("pixel_values" in theirs) == bool(row.images)
    if row.images:
        pixels = [processor.pixels(image) for image in row.images]
        assert np.concatenate([p.values for p in pixels]).tobytes() == theirs["pixel_values"].tobytes()
        assert [list(p.grid) for p in pixels] == theirs["image_grid_thw"].tolist()


def with_pictures(row: Example) -> list[dict[str, Any]]:
    """The messages with each picture in its part, as transformers takes them."""
    images = iter(row.images)
    return [
        {
            **turn,
            "content": [part | ({"image": next(images).load()} if part["type"] == "image" else {}) for part in turn["content"]],
        }
        for turn in row.messages
    ]


def reference_pixels(processor: Processor, image: ImageRef) -> tuple[np.ndarray, tuple[int, ...]]:
    theirs = image_processor(processor)(images=[image.load()], return_tensors="np")
    return theirs["pixel_values"], tuple(theirs["image_grid_thw"][0])


def forward_pictures(processor: Processor, ids: np.ndarray, pixels: list[list[Pixels]]) -> dict[str, Any]:
    import torch

    pictures = [p for row in pixels for p in row]
    return {
        "pixel_values": torch.from_numpy(np.concatenate([p.values for p in pictures])),
        "image_grid_thw": torch.tensor([p.grid for p in pictures]),
        "mm_token_type_ids": torch.from_numpy((ids == processor.image_token_id).astype(np.int64)),
    }


FIXTURE = Fixture(
    build=build,
    write_files=write_files,
    assets=("Qwen2.5-VL-3B-Instruct",),
    ends={"Qwen2.5-VL-3B-Instruct": "<|im_end|>"},
    reference_pixels=reference_pixels,
    forward_pictures=forward_pictures,
)
