"""Donut, small and random: UniChart's tokens and prompts, a frame that fits neither windows nor halving."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.families import Processor
from mlxtune.images import ImageRef
from mlxtune.types import Encoded
from tests.helpers.families.base import Fixture, patch, random_weights, write_json

ADDED = ("<extract_data_table>", "<chartqa>", "<opencqa>", "<summarize_chart>", "<s_answer>")
_FIRST = ("<s>", "<pad>", "</s>", "<unk>")
_WORDS = ("▁the", "▁is", "▁bar", "▁How", "ing", "est", "▁long", "er", "▁it", "▁chart", "▁No", "▁of")
_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
FRAME = [200, 240]  # width, height: room for a picture of 200:1
SMALL = [72, 96]  # of the random models
# 24 x 18 patches, 12 x 9, 6 x 5: no stage but the first is of whole windows, and the second has an odd side.
ENCODER: dict[str, Any] = {
    "model_type": "donut-swin",
    "image_size": SMALL[::-1],
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 8,
    "depths": [2, 2, 2],
    "num_heads": [1, 2, 4],
    "window_size": 4,
    "mlp_ratio": 2.0,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
}
DECODER: dict[str, Any] = {
    "model_type": "mbart",
    "activation_function": "gelu",
    "add_cross_attention": True,
    "d_model": 64,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "encoder_layers": 2,
    "is_decoder": True,
    "is_encoder_decoder": False,
    "max_position_embeddings": 1024,
    "scale_embedding": True,
    **_IDS,
}


def write_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder, ADDED)
    settings = {"do_align_long_axis": False, "do_normalize": True, "do_pad": True, "do_resize": True, "do_thumbnail": True}
    settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "size": FRAME}
    settings |= {"feature_extractor_type": "DonutFeatureExtractor", "processor_class": "DonutProcessor"}
    write_json(folder / "preprocessor_config.json", settings)
    write_json(folder / "config.json", published({**DECODER, "vocab_size": -(-size // 64) * 64}, ENCODER, tied=True))


def write_tokenizer(folder: Path, added: Sequence[str]) -> int:
    """As XLM-R's, of letters and a few words; gives its size."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = sorted(set(string.printable) - set(string.whitespace))
    pieces = [(token, 0.0) for token in _FIRST] + [("▁", -4.0)]
    pieces += [(word, -5.0) for word in _WORDS] + [(letter, -7.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    spaces = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*_FIRST, *added)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": list(added), **names}
    write_json(folder / "tokenizer_config.json", config)
    return tokenizer.get_vocab_size()


def published(decoder: dict[str, Any], encoder: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    """config.json in the hub's layout: the head is shared though the top level says it is not."""
    return {
        "architectures": ["VisionEncoderDecoderModel"],
        "model_type": "vision-encoder-decoder",
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
        "pad_token_id": 1,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "decoder": {**decoder, "tie_word_embeddings": tied},
        "encoder": encoder,
    }


def build(folder: Path, *, seed: int, tied: bool, nested: bool, assets: Path | None) -> None:
    """With `assets` four stages as published and no layer between encoder and decoder, which then are of one width."""
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    if assets is None:
        write_files(folder)
        patch(folder / "preprocessor_config.json", size=SMALL)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    else:
        config = json.loads((assets / "config.json").read_text(encoding="utf-8"))
        small = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "hidden_size": 64}
        config["encoder"] |= small
        config["decoder"] |= {**DECODER, "vocab_size": config["decoder"]["vocab_size"]}
    config = published(config["decoder"], config["encoder"], tied=tied)
    write_json(folder / "config.json", config)
    model = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_pretrained(folder))
    random_weights(model, seed=seed)
    _sharpen(model)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    if not nested:
        write_json(folder / "config.json", config)
        _store_head(folder)


def _sharpen(model: Any) -> None:
    """Every prompt ends in the same token: without strong attention to what stands before it, all answers would be one."""
    scales = {"q_proj": 3.0, "k_proj": 3.0, "v_proj": 2.0, "out_proj": 2.0, "fc1": 1.5, "fc2": 1.5, "embed_positions": 8.0}
    for name, parameter in model.decoder.named_parameters():
        layer, kind = name.split(".")[-2:]
        if kind == "weight":
            parameter.data.mul_(scales.get(layer, 1.0))


def _store_head(folder: Path) -> None:
    """The hub's files hold a shared head once more."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.setdefault("decoder.lm_head.weight", weights["decoder.model.decoder.embed_tokens.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def image_processor(processor: Processor) -> Any:
    """transformers' PIL image processor with the folder's settings, and the frame that the recipe's pixels make of it."""
    from transformers import DonutImageProcessorPil

    skipped = ("feature_extractor_type", "image_processor_type", "processor_class", "size")
    settings = {key: value for key, value in processor.settings.items() if key not in skipped}
    height, width = processor.frame  # type: ignore[attr-defined]
    return DonutImageProcessorPil(**settings, size={"height": height, "width": width})


def reference_pixels(processor: Processor, image: ImageRef) -> tuple[np.ndarray, tuple[int, ...]]:
    values = image_processor(processor)(images=[image.load()], return_tensors="np")["pixel_values"]
    return values, values.shape[2:]


def inputs(processor: Processor, rows: Sequence[Encoded]) -> dict[str, Any]:
    import torch

    width = max(len(row.input_ids) for row in rows)
    ids = np.stack([np.pad(row.input_ids.astype(np.int64), (0, width - len(row.input_ids))) for row in rows])
    seen = np.stack([np.arange(width) < len(row.input_ids) for row in rows]).astype(np.int64)
    pixels = np.concatenate([processor.pixels(image).values for row in rows for image in row.images])
    tensors = {"decoder_input_ids": ids, "decoder_attention_mask": seen, "pixel_values": pixels}
    return {name: torch.from_numpy(value) for name, value in tensors.items()}


def logits(model: Any, processor: Processor, rows: Sequence[Encoded]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(**inputs(processor, rows)).logits.float().numpy()


def answer(model: Any, processor: Processor, prompt: Encoded, *, max_new_tokens: int, **settings: Any) -> tuple[int, ...]:
    return generated(model, processor, prompt, max_new_tokens=max_new_tokens, **settings)[0]


def generated(
    model: Any, processor: Processor, prompt: Encoded, *, max_new_tokens: int, **settings: Any
) -> tuple[tuple[int, ...], float]:
    """Ids by `generate`, and their score if it is asked for beams."""
    settings |= {"do_sample": False, "max_new_tokens": max_new_tokens, "eos_token_id": sorted(processor.stop_ids)}
    settings |= {"forced_eos_token_id": None, "pad_token_id": processor.pad_id, "use_cache": True}
    out = model.generate(**inputs(processor, [prompt]), **settings, return_dict_in_generate=True, output_scores=True)
    score = float(out.sequences_scores[0]) if settings.get("num_beams", 1) > 1 else 0.0
    return tuple(out.sequences[0, len(prompt.input_ids) :].tolist()), score


_NAMES = {"o_proj": "out_proj", "down_proj": "fc2", "gate_proj": "fc1", "layers.1.mlp.up_proj": "decoder.layers.1.fc1"}
_NAMES |= {"lm_head": "decoder.lm_head"}
_ASSETS = ("unichart-base-960", "donut-base-finetuned-sroie")
FIXTURE = Fixture(
    build=build,
    write_files=write_files,
    assets=_ASSETS,
    ends={name: "</s>" for name in _ASSETS},
    reference_pixels=reference_pixels,
    names=_NAMES,
    logits=logits,
    answer=answer,
)
