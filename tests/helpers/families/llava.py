"""LLaVA, small and random: the files of LLaVA-1.5 (a SentencePiece-like tokenizer whose template ends no answer)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mlxtune.families import Processor
from mlxtune.images import ImageRef
from mlxtune.types import Pixels
from tests.helpers.families.base import SMALL_TEXT, Fixture, rename, save, write_json

SIDE, PATCH = 56, 14
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
# What it renders is what the hub's template of llava-hf/llava-1.5-7b-hf does.
TEMPLATE = """\
{%- for turn in messages -%}
{{- '' if turn['role'] == 'system' else turn['role'] | upper + ': ' -}}
{%- for part in turn['content'] if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endfor -%}
{%- for part in turn['content'] if part['type'] == 'text' -%}{{- part['text'] + ' ' -}}{%- endfor -%}
{%- endfor -%}
{{- 'ASSISTANT:' if add_generation_prompt -}}
"""
_CORPUS = ["USER: What is the value of the largest bar? ASSISTANT: The chart has four bars.", "yes, no, 42", "A B C D"] * 20


def build(folder: Path, *, seed: int, tied: bool, nested: bool, assets: Path | None) -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    if assets is None:
        write_files(folder)
    published = json.loads(((assets or folder) / "config.json").read_text(encoding="utf-8"))
    text = {**SMALL_TEXT, "model_type": "llama", "num_hidden_layers": 3, "head_dim": 16, "rms_norm_eps": 1e-5}
    text |= {"vocab_size": published["text_config"]["vocab_size"], "tie_word_embeddings": tied}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 20_000.0}}
    sizes = {key: published["vision_config"][key] for key in ("image_size", "patch_size")}
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, **sizes}
    vision |= {"num_hidden_layers": 3, "projection_dim": 16, "vocab_size": 32_000}
    index = {"image_token_index": published["image_token_index"]}
    config = LlavaConfig(text_config={**text, **rope}, vision_config=vision, tie_word_embeddings=tied, **index)
    save(LlavaForConditionalGeneration(config), folder, seed=seed)
    if nested:
        rename(folder, BY_MODULE)
        return
    rename(folder, (("vision_tower.", "vision_tower.vision_model."),))
    flat = {"architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "model_type": "llava", **index}
    flat |= {"projector_hidden_act": "gelu", "torch_dtype": "float16", "tie_word_embeddings": tied}
    flat |= {"vision_feature_layer": -2, "vision_feature_select_strategy": "default", "vision_config": vision}
    write_json(folder / "config.json", {**flat, "text_config": {**text, "rope_theta": 20_000.0}})


# From the names under which transformers saves to those of its modules.
BY_MODULE = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)


def write_files(folder: Path) -> None:
    """Tokenizer, template, picture settings and the configuration's outline; needs no framework."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder)
    image, pad = (tokenizer.token_to_id(token) for token in ("<image>", "<pad>"))
    write_json(folder / "chat_template.json", {"chat_template": TEMPLATE})
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": pad})
    write_json(folder / "preprocessor_config.json", clip_settings(SIDE))
    write_json(folder / "processor_config.json", {"processor_class": "LlavaProcessor"})
    text = {"model_type": "llama", "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64}
    vision = {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": PATCH, "num_hidden_layers": 3}
    outline = {"model_type": "llava", "image_token_index": image, "text_config": text, "vision_config": vision}
    write_json(folder / "config.json", outline)


def clip_settings(side: int) -> dict[str, Any]:
    flags = ("do_center_crop", "do_convert_rgb", "do_normalize", "do_rescale", "do_resize")
    settings: dict[str, Any] = {flag: True for flag in flags}
    settings |= {"image_mean": MEAN, "image_std": STD, "resample": 3, "rescale_factor": 1 / 255}
    settings |= {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    return settings | {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"}


def write_tokenizer(folder: Path, *, legacy: bool = True) -> Tokenizer:
    """tokenizer.json and tokenizer_config.json: a BPE over spaces written as "▁", with bytes for what it does not know.

    legacy: a space is put before every text between special tokens, else before the first alone.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    found = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [name for name, _ in sorted(found["vocab"].items(), key=lambda entry: entry[1])]
    vocabulary = {name: number for number, name in enumerate(names)}
    merges = [tuple(merge) for merge in found["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    special = [AddedToken(name, special=True, normalized=False) for name in (*names[:3], "<image>", "<pad>")]
    tokenizer.add_special_tokens(special)
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    text = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(text)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config |= {"pad_token": "<pad>", "legacy": legacy, "clean_up_tokenization_spaces": False, "padding_side": "left"}
    write_json(folder / "tokenizer_config.json", {**config, "processor_class": "LlavaProcessor"})
    return tokenizer


def image_processor(processor: Processor) -> Any:
    """transformers' PIL image processor with the folder's settings."""
    import transformers

    skipped = ("image_processor_type", "processor_class")
    theirs = getattr(transformers, f"{processor.settings['image_processor_type']}Pil")
    return theirs(**{key: value for key, value in processor.settings.items() if key not in skipped})


def reference_pixels(processor: Processor, image: ImageRef) -> tuple[np.ndarray, tuple[int, ...]]:
    values = np.asarray(image_processor(processor)(images=[image.load()], return_tensors="np")["pixel_values"])
    patch = processor.config.vision["patch_size"]
    return values, (values.shape[2] // patch, values.shape[3] // patch)


def forward_pictures(processor: Processor, ids: np.ndarray, pixels: list[list[Pixels]]) -> dict[str, Any]:
    import torch

    return {"pixel_values": torch.from_numpy(np.concatenate([p.values for row in pixels for p in row]))}


def older_name(name: str) -> str:
    name = name.replace(".model.language_model.", ".language_model.model.")
    name = name.replace(".model.vision_tower.", ".vision_tower.vision_model.")
    return name.replace(".model.multi_modal_projector.", ".multi_modal_projector.")


FIXTURE = Fixture(
    older_name=older_name,
    build=build,
    write_files=write_files,
    assets=("llava-saiga-8b",),
    ends={"llava-saiga-8b": "<|eot_id|>"},
    reference_pixels=reference_pixels,
    forward_pictures=forward_pictures,
)
