"""transformers' processors without their video part, which needs torchvision; pictures go through the PIL image processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.models import config_of


def load_processor(folder: str, family: str) -> Any:
    from transformers import (
        AutoTokenizer,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessorPil,
    )

    class PicturesOnly(Qwen2_5_VLProcessor):
        # The arguments say which parts a processor has.
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
            super(Qwen2_5_VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if family == "qwen2_5_vl":
        pictures = Qwen2VLImageProcessorPil.from_pretrained(folder)
        return PicturesOnly(pictures, tokenizer, chat_template=tokenizer.chat_template)
    config = config_of(Path(folder))
    vision = config["vision_config"]
    length = (vision["image_size"] // vision["patch_size"] // config["scale_factor"]) ** 2
    pictures = Idefics3ImageProcessorPil.from_pretrained(folder)
    return Idefics3Processor(pictures, tokenizer, image_seq_len=length, chat_template=tokenizer.chat_template)
