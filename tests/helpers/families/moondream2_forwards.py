"""What others' implementations make of Moondream's weights; see `moondream2` beside this file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.families import Processor
from mlxtune.families.moondream2 import Moondream2Processor
from mlxtune.types import Encoded

Forward = Callable[[Moondream2Processor, Encoded], np.ndarray]  # [S, vocabulary]


def holder(folder: Path, rename: Callable[[str], str], skipped: str) -> Any:
    """The weights as a tree of torch's layers, which has no forward."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file
    from transformers import PretrainedConfig, PreTrainedModel

    class Holder(PreTrainedModel):
        config_class = PretrainedConfig

        def get_output_embeddings(self) -> Any:
            return self.get_submodule("model.text.lm_head")

    weights = {
        rename(name): value for name, value in load_file(folder / "model.safetensors").items() if not name.startswith(skipped)
    }
    root = Holder(PretrainedConfig())
    for name, value in weights.items():
        path, _, leaf = name.rpartition(".")
        parent, _, layer = path.rpartition(".")
        if leaf in ("weight", "bias"):
            if leaf == "weight":
                made = torch.nn.LayerNorm(len(value)) if value.ndim == 1 else torch.nn.Linear(value.shape[1], value.shape[0])
                made.load_state_dict({"weight": value, "bias": weights[f"{path}.bias"]})
                _child(root, parent).add_module(layer, made)
        else:
            _child(root, path).register_parameter(leaf, torch.nn.Parameter(value))
    root.folder = folder
    return root.eval()


def _child(root: Any, path: str) -> Any:
    import torch

    for part in path.split("."):
        if part not in dict(root.named_children()):
            root.add_module(part, torch.nn.Module())
        root = getattr(root, part)
    return root


def effective_weights(model: Any) -> dict[str, Any]:
    """The held weights; with what PEFT adds to them, by PEFT's own arithmetic."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    found = {name.replace(".base_layer.", "."): value.detach() for name, value in base.named_parameters() if ".lora_" not in name}
    for name, module in base.named_modules():
        if hasattr(module, "get_delta_weight") and getattr(module, "lora_A", None):
            found[f"{name}.weight"] = found[f"{name}.weight"] + module.get_delta_weight("default").detach()
    return found


def _logits(make: Callable[[dict[str, Any], Path], Forward]) -> Callable[..., np.ndarray]:
    def logits(model: Any, processor: Processor, rows: Sequence[Encoded]) -> np.ndarray:
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        forward = getattr(model, "kept_forward", None) or make(effective_weights(model), base.folder)
        if base is model:
            model.kept_forward = forward
        assert isinstance(processor, Moondream2Processor)
        found = [forward(processor, row) for row in rows]
        longest = max(map(len, found))
        return np.stack([np.pad(values, ((0, longest - len(values)), (0, 0))) for values in found])

    return logits


@lru_cache(maxsize=1)
def mlx_vlm_moondream2() -> Any:
    """The module; importing it puts its own AutoProcessor.from_pretrained into transformers, which is taken out again."""
    pytest.importorskip("mlx_vlm", reason="mlx-vlm is the independent implementation of the layout of 2025")
    from transformers import AutoProcessor

    own = vars(AutoProcessor)["from_pretrained"]
    try:
        from mlx_vlm.models import moondream2
    finally:
        AutoProcessor.from_pretrained = own
    return moondream2


def mlx_vlm_model(weights: dict[str, Any], folder: Path) -> Any:
    theirs = mlx_vlm_moondream2()
    import mlx.core as mx

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
    text, vision = {"vocab_size": 51200, "n_kv_heads": 4} | config["text"], config["vision"]
    names = {"hidden_size": "dim", "intermediate_size": "ff_dim", "num_hidden_layers": "n_layers", "vocab_size": "vocab_size"}
    names |= {"num_attention_heads": "n_heads", "num_key_value_heads": "n_kv_heads"}
    crops = {key: vision[key] for key in ("crop_size", "max_crops", "overlap_margin", "proj_inner_dim", "proj_out_dim")}
    seen = {"hidden_size": "enc_dim", "intermediate_size": "enc_ff_dim", "num_hidden_layers": "enc_n_layers"}
    seen |= {"num_attention_heads": "enc_n_heads", "patch_size": "enc_patch_size"}
    settings = theirs.ModelConfig(
        text_config=theirs.TextConfig(**{ours: text[key] for ours, key in names.items()}),
        vision_config=theirs.VisionConfig(**{ours: vision[key] for ours, key in seen.items()}, **crops),
    )
    model = theirs.Model(settings)
    # Its MLPs look their sizes up by the names of a text config.
    arrays = {name: mx.array(value.numpy()) for name, value in weights.items()}
    model.load_weights(list(model.sanitize(arrays).items()))
    return model


def _forward_2025(weights: dict[str, Any], folder: Path) -> Forward:
    model = mlx_vlm_model(weights, folder)
    import mlx.core as mx
    import torch

    margin, side = model.config.vision_config.overlap_margin, model.config.vision_config.crop_size // 14

    def pooled(local: list[Any], layout: tuple[int, ...]) -> Any:
        crops = torch.from_numpy(np.array(mx.stack(local))).view(len(local), side, side, -1)
        return mx.array(published_grid(crops, layout, margin).flatten(0, 1).numpy())

    object.__setattr__(model.vision, "_reconstruct_local_features", pooled)

    def forward(processor: Moondream2Processor, row: Encoded) -> np.ndarray:
        pixels = processor.pixels(row.images[0])
        values = mx.array(pixels.values.transpose(0, 2, 3, 1))
        ids = mx.array(row.input_ids[None])
        return np.array(model(ids, pixel_values=values, num_crops=[len(pixels.values)], crop_layouts=[pixels.grid]).logits[0])

    return forward


def _forward_2024(weights: dict[str, Any], folder: Path) -> Forward:
    import torch

    phi, siglip = phi_model(weights), siglip_model(weights)
    weight = {name.removeprefix("model.vision."): value for name, value in weights.items() if ".proj_mlp." in name}
    gelu, linear = torch.nn.functional.gelu, torch.nn.functional.linear

    @torch.no_grad()
    def forward(processor: Moondream2Processor, row: Encoded) -> np.ndarray:
        pixels = processor.pixels(row.images[0])
        seen = siglip(pixel_values=torch.from_numpy(pixels.values)).last_hidden_state
        whole, side = seen[0], int(seen.shape[1] ** 0.5)
        if weight["proj_mlp.fc1.weight"].shape[1] > whole.shape[1]:
            cut = (
                published_grid(seen[1:].view(-1, side, side, seen.shape[-1]), pixels.grid, 0).flatten(0, 1)
                if len(seen) > 1
                else whole
            )
            whole = torch.cat([whole, cut], dim=-1)
        inner = gelu(linear(whole, weight["proj_mlp.fc1.weight"], weight["proj_mlp.fc1.bias"]), approximate="tanh")
        embeds = phi.get_input_embeddings()(torch.from_numpy(row.input_ids[None]).long())
        embeds[0, 1 : 1 + side**2] = linear(inner, weight["proj_mlp.fc2.weight"], weight["proj_mlp.fc2.bias"])
        return phi(inputs_embeds=embeds).logits[0].numpy()

    return forward


def phi_model(weights: dict[str, Any]) -> Any:
    from transformers import PhiConfig, PhiForCausalLM

    layers = sum(name.endswith(".ln.weight") for name in weights)
    vocabulary, hidden = weights["model.text.wte"].shape
    inner = len(weights["model.text.blocks.0.mlp.fc1.weight"])
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
    config = PhiConfig(vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers)
    config.update({"num_attention_heads": 4, "num_key_value_heads": 4, "rope_parameters": rope, "hidden_act": "gelu_new"})
    config.update({"layer_norm_eps": 1e-5, "attn_implementation": "eager", "tie_word_embeddings": False})
    model = PhiForCausalLM(config)
    named = {"model.embed_tokens.weight": weights["model.text.wte"]}
    for kind in ("weight", "bias"):
        named |= {f"lm_head.{kind}": weights[f"model.text.lm_head.{kind}"]}
        named |= {f"model.final_layernorm.{kind}": weights[f"model.text.post_ln.{kind}"]}
        for i in range(layers):
            ours, theirs = f"model.text.blocks.{i}.", f"model.layers.{i}."
            names = {"ln": "input_layernorm", "attn.proj": "self_attn.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
            named |= {f"{theirs}{new}.{kind}": weights[f"{ours}{old}.{kind}"] for old, new in names.items()}
            parts = weights[f"{ours}attn.qkv.{kind}"].chunk(3)
            named |= {f"{theirs}self_attn.{x}_proj.{kind}": part for x, part in zip("qkv", parts, strict=True)}
    model.load_state_dict(named)
    return model.eval()


def siglip_model(weights: dict[str, Any]) -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    vision = {name.removeprefix("model.vision."): value for name, value in weights.items() if name.startswith("model.vision.")}
    layers = sum(name.endswith(".ln1.weight") for name in vision)
    hidden, side = len(vision["post_ln.weight"]), int(vision["pos_emb"].shape[1] ** 0.5)
    sizes = {"hidden_size": hidden, "intermediate_size": len(vision["blocks.0.mlp.fc1.weight"]), "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": 2, "image_size": side * 14, "patch_size": 14, "layer_norm_eps": 1e-5}
    config = SiglipVisionConfig(**sizes, hidden_act="gelu_pytorch_tanh", vision_use_head=False, attn_implementation="eager")
    model = SiglipVisionModel(config)
    named = {"embeddings.patch_embedding.weight": vision["patch_emb.weight"].view(hidden, 3, 14, 14)}
    named |= {
        "embeddings.patch_embedding.bias": vision["patch_emb.bias"],
        "embeddings.position_embedding.weight": vision["pos_emb"][0],
    }
    names = {
        "ln1": "layer_norm1",
        "ln2": "layer_norm2",
        "attn.proj": "self_attn.out_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for kind in ("weight", "bias"):
        named |= {f"post_layernorm.{kind}": vision[f"post_ln.{kind}"]}
        for i in range(layers):
            named |= {f"encoder.layers.{i}.{new}.{kind}": vision[f"blocks.{i}.{old}.{kind}"] for old, new in names.items()}
            parts = vision[f"blocks.{i}.attn.qkv.{kind}"].chunk(3)
            named |= {f"encoder.layers.{i}.self_attn.{x}_proj.{kind}": p for x, p in zip("qkv", parts, strict=True)}
    start = "vision_model." if any(name.startswith("vision_model.") for name in model.state_dict()) else ""
    model.load_state_dict({start + name: value for name, value in named.items()})
    return model.eval()


def answer_by(logits: Callable[..., np.ndarray]) -> Callable[..., tuple[int, ...]]:
    def answer(model: Any, processor: Processor, prompt: Encoded, *, max_new_tokens: int) -> tuple[int, ...]:
        """Greedy, a full forward for each token."""
        row = prompt
        for _ in range(max_new_tokens):
            token = int(logits(model, processor, [row])[0, -1].argmax())
            row = replace(row, input_ids=np.r_[row.input_ids, np.int32(token)])
            if token in processor.stop_ids:
                break
        return tuple(row.input_ids[len(prompt.input_ids) :].tolist())

    return answer


def published_grid(crops: Any, tiling: tuple[int, ...], margin: int) -> Any:
    """The crops' features [N, side, side, width] pasted side by side, and pooled to [side, side, width] by torch."""
    import torch

    side = crops.shape[1]
    step = side - 2 * margin
    whole = torch.zeros(step * tiling[0] + 2 * margin, step * tiling[1] + 2 * margin, crops.shape[-1])
    for number, crop in enumerate(crops):
        row, column = number // tiling[1], number % tiling[1]
        top, left = 0 if row == 0 else margin, 0 if column == 0 else margin
        bottom, right = side if row == tiling[0] - 1 else side - margin, side if column == tiling[1] - 1 else side - margin
        whole[row * step + top : row * step + bottom, column * step + left : column * step + right] = crop[top:bottom, left:right]
    return torch.nn.functional.adaptive_avg_pool2d(whole.permute(2, 0, 1), (side, side)).permute(1, 2, 0)


LOGITS, LOGITS_2024 = _logits(_forward_2025), _logits(_forward_2024)
