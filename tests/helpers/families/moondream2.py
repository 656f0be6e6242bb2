"""Moondream 2, small and random, in the layouts of 2025 and of 2024, and independent forwards of both.

2025: mlx-vlm's model, whose own crops and whose pooling of several crops differ from Moondream's published code, so it gets the
crops of that code, pooled as there by torch. 2024: transformers' Phi and SigLIP with the weights under their names.
The model that the tests hold is a bare tree of the weights under canonical names, for PEFT to put its layers into.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlxtune.families import Processor
from mlxtune.families.moondream2 import Moondream2Processor
from mlxtune.images import ImageRef
from tests.helpers.families.base import Fixture, write_json
from tests.helpers.families.moondream2_forwards import LOGITS, LOGITS_2024, answer_by, holder

TEXT = {"dim": 64, "ff_dim": 96, "n_layers": 3, "n_heads": 4}
VISION = {"enc_dim": 32, "enc_ff_dim": 48, "enc_n_layers": 2, "enc_n_heads": 2, "proj_inner_dim": 80, "proj_out_dim": 64}
CROPS = {"enc_patch_size": 14, "crop_size": 56, "max_crops": 6, "overlap_margin": 1}
PUBLISHED_CROPS = {"enc_patch_size": 14, "crop_size": 378, "max_crops": 12, "overlap_margin": 4}
END = "<|endoftext|>"
RESERVED = [f"<|md_reserved_{number}|>" for number in range(10)]
_CORPUS = ["the chart has four bars. yes. no.", "\n\nQuestion: what does it show?\n\nAnswer: tea"] * 20

# -- files ------------------------------------------------------------------------------------------------------------


def write_tokenizer(folder: Path, *, starmie: bool) -> Any:
    """A small byte-level BPE; its special tokens stand behind all others as CodeGen's do, or at 0, 1, 2, … as starmie's."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    special = [END, *RESERVED] if starmie else []
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special or [END]])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def write_files(folder: Path, *, starmie: bool = False) -> None:
    """Tokenizer and configuration as of 2025; needs no framework."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, starmie=starmie)
    write_json(folder / "generation_config.json", {"eos_token_id": 50256, "bos_token_id": 50256})
    before, after = (
        ("<|md_reserved_0|>query<|md_reserved_1|>", "<|md_reserved_2|>") if starmie else ("\n\nQuestion:", "\n\nAnswer:")
    )
    query = {"prefix": tokenizer.encode(before).ids, "suffix": tokenizer.encode(after).ids}
    end = tokenizer.token_to_id(END)
    # Moondream's code reads sizes and prompts from here; the published files leave them all to its defaults.
    sizes = {"vocab_size": tokenizer.get_vocab_size() + (0 if starmie else 3), "n_kv_heads": 2 if starmie else 4}
    config = {"text": TEXT | sizes, "vision": VISION | CROPS}
    config["tokenizer"] = {"bos_id": end, "eos_id": end, "templates": {"query": query}}
    write_json(folder / "config.json", _outline("HfMoondream") | {"config": config})


def write_files_2024(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, starmie=False)
    write_json(folder / "generation_config.json", {"eos_token_id": tokenizer.token_to_id(END)})
    write_json(folder / "config.json", _config_2024(tokenizer.get_vocab_size() + 3, CROPS))


def _config_2024(vocabulary: int, crops: dict[str, int]) -> dict[str, Any]:
    text = {"model_type": "phi", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"patch_size": crops["enc_patch_size"], "image_size": crops["crop_size"]}
    return _outline("Moondream") | {"text_config": text | {"vocab_size": vocabulary}, "vision_config": vision}


def _outline(architecture: str) -> dict[str, Any]:
    code = {name: f"evil_{architecture.lower()}.{architecture}" for name in ("AutoConfig", "AutoModelForCausalLM")}
    return {"architectures": [architecture], "auto_map": code, "model_type": "moondream1", "torch_dtype": "float16"}


def build(folder: Path, *, seed: int, tied: bool, nested: bool, assets: Path | None) -> None:
    """nested: what came after May 2025, another tokenizer and fewer key heads."""
    assert not tied, "Moondream's output head is never the embedding"
    if assets is None:
        write_files(folder, starmie=nested)
    else:
        published = json.loads((assets / "config.json").read_text(encoding="utf-8"))
        write_json(folder / "config.json", published | {"config": {"text": TEXT, "vision": VISION | PUBLISHED_CROPS}})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
    text, vision = {"vocab_size": 51200, "n_kv_heads": 4} | config["text"], config["vision"]
    save(
        folder,
        shapes(text, vision, views=2) | {"model.region.coord_features": (1, 8), "model.region.size_decoder.fc1.bias": (9,)},
        seed=seed,
    )


def build_2024(folder: Path, *, seed: int, tied: bool, nested: bool, assets: Path | None) -> None:
    """nested: the first revisions, whose projector takes the small copy of a picture alone."""
    assert not tied, "Moondream's output head is never the embedding"
    if assets is None:
        write_files_2024(folder)
    else:
        write_json(folder / "config.json", _config_2024(51200, PUBLISHED_CROPS))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    crops = {"crop_size": config["vision_config"]["image_size"], "enc_patch_size": 14}
    text = TEXT | {"vocab_size": config["text_config"]["vocab_size"], "n_kv_heads": 4}
    made = shapes(text, VISION | {"proj_inner_dim": 4 * 64} | crops, views=1 if nested else 2)
    save(
        folder,
        {name_2024(name): shape for name, shape in made.items()} | {"region_model.coordinate_encoder.bias": (7,)},
        seed=seed,
    )


def shapes(text: dict[str, int], vision: dict[str, int], *, views: int) -> dict[str, tuple[int, ...]]:
    """Every weight of the layout of 2025."""
    d, v, side = text["dim"], vision["enc_dim"], vision["crop_size"] // vision["enc_patch_size"]
    qkv = d + 2 * text["n_kv_heads"] * (d // text["n_heads"])
    found: dict[str, tuple[int, ...]] = {"model.text.wte": (text["vocab_size"], d), "model.vision.pos_emb": (1, side**2, v)}
    layers: dict[str, tuple[int, ...]] = {"model.text.post_ln": (d,), "model.text.lm_head": (text["vocab_size"], d)}
    for i in range(text["n_layers"]):
        sizes = {
            "ln": (d,),
            "attn.qkv": (qkv, d),
            "attn.proj": (d, d),
            "mlp.fc1": (text["ff_dim"], d),
            "mlp.fc2": (d, text["ff_dim"]),
        }
        layers |= {f"model.text.blocks.{i}.{name}": shape for name, shape in sizes.items()}
    inner, projector = vision["enc_ff_dim"], vision["proj_inner_dim"]
    layers |= {"model.vision.patch_emb": (v, 3 * vision["enc_patch_size"] ** 2), "model.vision.post_ln": (v,)}
    for i in range(vision["enc_n_layers"]):
        sizes = {
            "ln1": (v,),
            "ln2": (v,),
            "attn.qkv": (3 * v, v),
            "attn.proj": (v, v),
            "mlp.fc1": (inner, v),
            "mlp.fc2": (v, inner),
        }
        layers |= {f"model.vision.blocks.{i}.{name}": shape for name, shape in sizes.items()}
    layers |= {"model.vision.proj_mlp.fc1": (projector, views * v), "model.vision.proj_mlp.fc2": (d, projector)}
    return found | {f"{name}.weight": shape for name, shape in layers.items()} | {f"{n}.bias": s[:1] for n, s in layers.items()}


NAMES_2024 = (  # 2025 -> 2024
    ("model.text.wte", "text_model.transformer.embd.wte.weight"),
    ("model.text.post_ln", "text_model.lm_head.ln"),
    ("model.text.lm_head", "text_model.lm_head.linear"),
    ("model.text.blocks.", "text_model.transformer.h."),
    ("model.vision.patch_emb", "vision_encoder.encoder.model.visual.patch_embed.linear"),
    ("model.vision.pos_emb", "vision_encoder.encoder.model.visual.pos_embed"),
    ("model.vision.post_ln", "vision_encoder.encoder.model.visual.norm"),
    ("model.vision.proj_mlp", "vision_encoder.projection.mlp"),
    ("model.vision.blocks.", "vision_encoder.encoder.model.visual.blocks."),
)


def name_2024(name: str) -> str:
    old, new = next((old, new) for old, new in NAMES_2024 if name.startswith(old))
    name = new + name.removeprefix(old)
    if name.startswith("text_model."):
        return name.replace(".attn.qkv.", ".mixer.Wqkv.").replace(".attn.proj.", ".mixer.out_proj.")
    return name.replace(".ln1.", ".norm1.").replace(".ln2.", ".norm2.")


def save(folder: Path, made: dict[str, tuple[int, ...]], *, seed: int) -> None:
    """Matrices N(0, 2 / fan-in), embeddings N(0, 0.3), biases N(0, 0.1), norms about 1."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in made.items():
        if len(shape) == 1 and name.endswith(".weight"):
            values = rng.uniform(0.7, 1.3, shape)
        else:
            spread = 0.1 if len(shape) == 1 else 0.3 if "wte" in name or "pos_emb" in name else (2.0 / shape[-1]) ** 0.5
            values = rng.standard_normal(shape) * spread
        weights[name] = values.astype(np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# -- pictures, as Moondream's code describes them, crop by crop ---------------------------------------------------------


def reference_pixels(processor: Processor, image: ImageRef) -> tuple[np.ndarray, tuple[int, ...]]:
    assert isinstance(processor, Moondream2Processor)
    s, picture = processor.sizes, image.load()
    margin, window = s.margin * s.patch, s.crop - 2 * s.margin * s.patch
    tiling = published_tiling(picture.height - 2 * margin, picture.width - 2 * margin, window, processor._max_crops())
    height, width = (count * window + 2 * margin for count in tiling)
    large = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    crops = [np.asarray(picture.resize((s.crop, s.crop), Image.Resampling.LANCZOS))]
    for row in range(tiling[0]):
        for column in range(tiling[1]):
            y, x = row * window, column * window
            crops.append(large[y : y + s.crop, x : x + s.crop])
    if tiling == (1, 1):
        np.testing.assert_array_equal(crops[0], crops.pop())
    return _scaled(np.stack(crops)), tiling


def published_tiling(height: int, width: int, window: int, most: int) -> tuple[int, int]:
    """Which crops cover the picture: as few as are needed, or more of them in the picture's shape where there is room."""
    import math

    if min(height, width) <= window:
        return 1, 1
    need_h, need_w = math.ceil(height / window), math.ceil(width / window)
    if need_h * need_w > most:
        shrink = math.sqrt(most / (need_h * need_w))
        return max(1, math.floor(need_h * shrink)), max(1, math.floor(need_w * shrink))
    h, w = math.floor(math.sqrt(most * height / width)), math.floor(math.sqrt(most * width / height))
    h, w = max(h, need_h), max(w, need_w)
    if h * w > most and w > h:
        w = math.floor(most / h)
    elif h * w > most:
        h = math.floor(most / w)
    return max(1, h), max(1, w)


def reference_pixels_2024(processor: Processor, image: ImageRef) -> tuple[np.ndarray, tuple[int, ...]]:
    torch = pytest.importorskip("torch")
    assert isinstance(processor, Moondream2Processor)
    crop, picture = processor.sizes.crop, image.load()
    height, width = crop, crop
    if max(picture.size) >= 512 * crop / 378 and processor.sizes.views == 2:
        supported = [(crop, crop), (crop, 2 * crop), (2 * crop, crop), (2 * crop, 2 * crop)]
        aspect = picture.width / picture.height
        height, width = min(
            supported,
            key=lambda size: (abs(size[1] / size[0] - aspect), abs(size[0] - picture.width) + abs(size[1] - picture.height)),
        )
    values = torch.from_numpy(_scaled(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))[None]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several of them add the four neighbours in another order, and the last bit differs
    crops = [torch.nn.functional.interpolate(values, size=(crop, crop), mode="bilinear")[0]]
    torch.set_num_threads(threads)
    if (height, width) != (crop, crop):
        crops += [values[0, :, y : y + crop, x : x + crop] for y in range(0, height, crop) for x in range(0, width, crop)]
    return torch.stack(crops).numpy(), (height // crop, width // crop)


def _scaled(pictures: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(((pictures.astype(np.float32) / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2))


# -- fixtures ------------------------------------------------------------------------------------------------------------


def load(folder: Path) -> Any:
    return holder(folder, lambda name: name, "model.region.")


def load_2024(folder: Path) -> Any:
    old = {name_2024(name): name for name in shapes({**TEXT, "vocab_size": 1, "n_kv_heads": 4}, VISION | CROPS, views=2)}
    return holder(folder, old.__getitem__, "region_model.")


_NAMES = {"q_proj": "qkv", "v_proj": "proj", "down_proj": "fc2", "o_proj": "proj", "gate_proj": "fc1"}
_NAMES |= {"layers.1.mlp.up_proj": "1.mlp.fc1"}
FIXTURE = Fixture(
    build=build,
    write_files=write_files,
    assets=("moondream2",),
    ends={"moondream2": END},
    reference_pixels=reference_pixels,
    layouts=((False, False), (False, True)),
    names=_NAMES,
    load=load,
    logits=LOGITS,
    answer=answer_by(LOGITS),
)
FIXTURE_2024 = Fixture(
    build=build_2024,
    write_files=write_files_2024,
    assets=(),
    ends={},
    reference_pixels=reference_pixels_2024,
    layouts=((False, False), (False, True)),
    names=_NAMES | {"lm_head": "lm_head.linear"},
    older_name=lambda name: "base_model.model." + name_2024(name.removeprefix("base_model.model.")),
    load=load_2024,
    logits=LOGITS_2024,
    answer=answer_by(LOGITS_2024),
)
