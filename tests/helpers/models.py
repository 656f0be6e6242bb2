"""Small models with random weights, in the layout in which the hub publishes their family.

Weights are drawn large enough for logits that differ, and no bias and no norm has the value it starts with: what a forward
leaves out must show. A new family joins by a builder in `BUILDERS`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .tokens import SPECIAL_IDS, write_tokenizer

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT.parent / "shared" / "assets"
_TINY = ROOT / "models" / "tiny-charts"
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.json")
_TEXT_FILES += ("special_tokens_map.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
_TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
_TEXT |= {"max_position_embeddings": 4096, "rms_norm_eps": 1e-6}


def build(
    family: str, folder: Path, *, seed: int = 0, tied: bool = True, nested: bool = False, assets: Path | None = None
) -> Path:
    """Writes a random float32 model of `family` to `folder` and gives `folder`.

    nested: the config as transformers 5 saves it, and tensors named by module path. assets: a folder whose tokenizer, template
    and processor files are taken over; the sizes of the layers stay small, those of the pictures are as published.
    """
    assert family in BUILDERS, f"tests/helpers/models.py has no builder for the family '{family}': add one to BUILDERS"
    folder.mkdir(parents=True, exist_ok=True)
    if assets is not None:
        _copy(assets, folder, *_TEXT_FILES)
    BUILDERS[family](folder, seed=seed, tied=tied, nested=nested, assets=assets)
    return folder


def random_weights(model: Any, *, seed: int) -> None:
    """Matrices N(0, 1.2 / fan-in), embeddings and biases N(0, 0.1), norms about 1."""
    import torch

    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name or "ln_q" in name:
            parameter.data.uniform_(0.7, 1.3)
        elif parameter.ndim > 1 and "embed_tokens" not in name and "position_embedding" not in name:
            parameter.data.normal_(0.0, (1.2 / parameter[0].numel()) ** 0.5)
        else:
            parameter.data.normal_(0.0, 0.3 if parameter.ndim > 1 else 0.1)


def _qwen2_5_vl(folder: Path, *, seed: int, tied: bool, nested: bool, assets: Path | None) -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    source = assets or _TINY
    if assets is None:
        _copy(_TINY, folder, *_TEXT_FILES)
        # The smallest pictures are of one window and two tokens, the largest of two windows each way.
        _patch(folder / "preprocessor_config.json", min_pixels=28 * 56, max_pixels=140 * 140)
    published = json.loads((source / "config.json").read_text(encoding="utf-8"))
    ids = {key: published[key] for key in published if key.endswith("_token_id")}
    rope = {"mrope_section": [2, 3, 3], "rope_type": "default", "rope_theta": 10_000.0}
    text = {**_TEXT, "num_hidden_layers": 2, "vocab_size": published["vocab_size"], "rope_parameters": rope}
    vision = {"depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
    vision |= {"window_size": 112, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied, **ids)
    _save(Qwen2_5_VLForConditionalGeneration(config), folder, seed=seed)
    if nested:
        _rename(folder, (("visual.", "model.visual."), ("model.", "model.language_model.")))
    else:
        _write_json(folder / "config.json", _flat_qwen(published, text=text, vision=vision, tied=tied))


def _flat_qwen(published: dict[str, Any], *, text: dict[str, Any], vision: dict[str, Any], tied: bool) -> dict[str, Any]:
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


def _idefics3(folder: Path, *, seed: int, tied: bool, nested: bool, assets: Path | None) -> None:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    if assets is None:
        write_idefics3_files(folder)
        published = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    else:
        published = json.loads((assets / "config.json").read_text(encoding="utf-8"))
    vocabulary, factor, tiles = published["vocab_size"], published["scale_factor"], published["vision_config"]
    ids = {"image_token_id": published["image_token_id"], "pad_token_id": published["text_config"]["pad_token_id"]}
    text = {**_TEXT, "model_type": "llama", "num_hidden_layers": 3, "vocab_size": vocabulary, "head_dim": 16}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 20_000.0}, "tie_word_embeddings": tied}
    text |= {"pad_token_id": ids["pad_token_id"]}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision |= {"image_size": tiles["image_size"], "patch_size": tiles["patch_size"]}
    config = Idefics3Config(text_config=text, vision_config=vision, scale_factor=factor, tie_word_embeddings=tied, **ids)
    _save(Idefics3ForConditionalGeneration(config), folder, seed=seed)
    if not nested:
        text = {key: value for key, value in text.items() if key != "rope_parameters"} | {"rope_theta": 20_000.0}
        flat = {"architectures": ["Idefics3ForConditionalGeneration"], "model_type": "idefics3", "scale_factor": factor}
        flat |= {"torch_dtype": "float32", "tie_word_embeddings": tied, "vocab_size": vocabulary, "use_cache": True, **ids}
        flat |= {"text_config": text, "vision_config": {"model_type": "idefics3", **vision}}
        _write_json(folder / "config.json", flat)


def write_idefics3_files(folder: Path) -> None:
    """Tokenizer, template, picture settings and the configuration's outline; needs no framework."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder)
    tile, patch, factor = 56, 14, 2
    ids = {key: tokenizer.token_to_id(token) for key, token in SPECIAL_IDS.items()}
    _write_json(folder / "generation_config.json", {key: ids[key] for key in ids if key != "image_token_id"})
    _write_json(folder / "preprocessor_config.json", _tile_settings(tile, longest=2 * tile))
    _write_json(folder / "processor_config.json", {"image_seq_len": (tile // patch // factor) ** 2})
    outline = {"model_type": "idefics3", "scale_factor": factor, "vision_config": {"image_size": tile, "patch_size": patch}}
    outline |= {"text_config": {"pad_token_id": ids["pad_token_id"]}, "image_token_id": ids["image_token_id"]}
    _write_json(folder / "config.json", {**outline, "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64})


def _tile_settings(tile: int, *, longest: int) -> dict[str, Any]:
    flags = ("do_convert_rgb", "do_image_splitting", "do_normalize", "do_pad", "do_rescale", "do_resize")
    settings: dict[str, Any] = {flag: True for flag in flags}
    settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 1, "rescale_factor": 1 / 255}
    settings |= {"max_image_size": {"longest_edge": tile}, "size": {"longest_edge": longest}}
    return settings | {"image_processor_type": "Idefics3ImageProcessor", "processor_class": "Idefics3Processor"}


def _save(model: Any, folder: Path, *, seed: int) -> None:
    random_weights(model, seed=seed)
    # The generation settings come from the tokenizer's folder; transformers would write its own guess over them.
    kept = folder / "generation_config.json"
    text = kept.read_text(encoding="utf-8")
    model.save_pretrained(folder)
    kept.write_text(text, encoding="utf-8")


def _rename(folder: Path, prefixes: tuple[tuple[str, str], ...]) -> None:
    """transformers saves the hub's names; this gives tensors their modules' names instead. The first fitting prefix counts."""
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    renamed = {}
    for name, value in load_file(path).items():
        old, new = next(((old, new) for old, new in prefixes if name.startswith(old)), ("", ""))
        renamed[new + name.removeprefix(old)] = value
    save_file(renamed, path, metadata={"format": "pt"})


def _copy(source: Path, folder: Path, *names: str) -> None:
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def _patch(path: Path, **values: Any) -> None:
    _write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


BUILDERS: dict[str, Callable[..., None]] = {"qwen2_5_vl": _qwen2_5_vl, "idefics3": _idefics3}
