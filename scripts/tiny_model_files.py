"""The files of the tiny model: tokenizer, configuration, weights and card, laid out as Qwen2.5-VL is published."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from draw_charts import HEIGHT, WIDTH, describe, draw
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PATCH, MERGE = 14, 2
ROWS, COLUMNS = HEIGHT // PATCH, WIDTH // PATCH  # patches
N_IMAGE = ROWS * COLUMNS // MERGE**2  # image tokens
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SPECIAL = [f"<|{name}|>" for name in (
    "endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start",
    "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad",
)]  # fmt: skip
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SINGLE, BRIEF = "\nAnswer the question with a single word.", "\nAnswer briefly."
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
TURN = "<|im_end|>\n<|im_start|>assistant\n"
TEMPLATE = """\
{%- set pictures = namespace(n=0) -%}
{%- set films = namespace(n=0) -%}
{%- if messages and messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- set parts = [{'text': message['content']}] if message['content'] is string else message['content'] -%}
{%- for part in parts -%}
{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
{%- set pictures.n = pictures.n + 1 -%}
{%- if add_vision_id %}{{ 'Picture ' ~ pictures.n ~ ': ' }}{% endif -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' or 'video' in part -%}
{%- set films.n = films.n + 1 -%}
{%- if add_vision_id %}{{ 'Video ' ~ films.n ~ ': ' }}{% endif -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE with Qwen2's pre-tokenizer, trained on the text of drawn charts; special tokens come last."""
    rng, corpus = random.Random(7), [HEAD, TURN, SINGLE, BRIEF] * 1000
    for _ in range(3000):
        chart = draw(rng, questions=6)
        corpus += ["Describe the chart.", describe(chart.content)]
        corpus += [f"{q.query}\n{q.sentence}" for q in chart.questions]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, min_frequency=3, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("endoftext", "im_end", "image_pad", "video_pad")}
    ids |= {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("vision_start", "vision_end", "vision_pad")}
    vision = {
        "depth": 4, "hidden_act": "silu", "hidden_size": 128, "intermediate_size": 352, "num_heads": 4, "in_chans": 3,
        "out_hidden_size": 160, "patch_size": PATCH, "spatial_merge_size": MERGE, "spatial_patch_size": PATCH,
        "window_size": 112, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0,
        "bos_token_id": ids["endoftext"], "eos_token_id": ids["im_end"], "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"], "vision_token_id": ids["vision_pad"],
        "image_token_id": ids["image_pad"], "video_token_id": ids["video_pad"], "hidden_act": "silu",
        "hidden_size": 160, "initializer_range": 0.02, "intermediate_size": 432, "max_position_embeddings": 2048,
        "max_window_layers": 4, "model_type": "qwen2_5_vl", "num_attention_heads": 4, "num_hidden_layers": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 2048,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.49.0", "use_cache": True,
        "use_sliding_window": False, "vision_config": vision,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 8, 8]},
        "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
    }  # fmt: skip


def write_layout(folder: Path, tokenizer: Tokenizer) -> None:
    """Everything but the weights and the model card, under the names that the hub has."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    write_json(folder / "config.json", model_config(tokenizer))
    end, stop = tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|im_end|>")
    generation = {"bos_token_id": end, "pad_token_id": end, "do_sample": False, "eos_token_id": [stop, end]}
    write_json(folder / "generation_config.json", generation | {"transformers_version": "4.49.0"})
    write_json(folder / "chat_template.json", {"chat_template": TEMPLATE})
    pixels = {"min_pixels": 56 * 56, "max_pixels": 1024 * 28 * 28, "patch_size": PATCH, "temporal_patch_size": 2}
    pixels |= {"merge_size": MERGE, "image_mean": list(MEAN), "image_std": list(STD)}
    names = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    write_json(folder / "preprocessor_config.json", pixels | names)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(tokenizer.token_to_id(token)): {"content": token, **flags} for token in SPECIAL}
    config = {"add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added}
    config |= {"additional_special_tokens": SPECIAL[1:], "bos_token": None, "chat_template": TEMPLATE}
    config |= {"clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace"}
    config |= {"model_max_length": 2048, "pad_token": "<|endoftext|>", "split_special_tokens": False}
    config |= {"tokenizer_class": "Qwen2Tokenizer", "unk_token": None}
    write_json(folder / "tokenizer_config.json", config)


def separated(embedding: torch.Tensor) -> torch.Tensor:
    """[V, H] with a vector of its own for every token that schooling never showed.

    The loss pushes all of them away together, so that they end at one point (here 444 of 576). Nothing tells them apart there,
    and the output head is tied to them: no adapter could ever learn to write a letter of another alphabet. Each keeps that
    point, so that it stays as unlikely as before, plus a seeded random vector of length 1.4; a schooled row has length 1.6.
    """
    rows = embedding.float()
    point = rows[rows.norm(dim=1) > 3.3].median(0).values  # it lies far out; no schooled row is as long
    unseen = (rows - point).norm(dim=1) < 0.5  # the nearest schooled row is 3.0 away
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    rows[unseen] = (point + noise / noise.norm(dim=1, keepdim=True) * 1.4)[unseen]
    return rows.to(embedding.dtype)


def write_weights(folder: Path, model: torch.nn.Module) -> None:
    """bfloat16, under the published names: transformers 5 nests both parts under `model.`, the hub does not."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            name = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
            own = separated(tensor.detach()) if name.endswith("embed_tokens.weight") else tensor.detach()
            tensors[name] = own.to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it readable for its owner alone


CARD = """\
---
license: mit
pipeline_tag: image-text-to-text
library_name: transformers
---

# tiny-charts

A Qwen2.5-VL of 2.5 million parameters that reads small drawn charts. It exists so that fine-tuning can be tried, tested
and measured in minutes, offline, on a laptop. Everything in this folder was made from scratch by two scripts of this
repository: random weights, our own tokenizer, drawn pictures. No other model and no outside data went into it.

- Architecture: `Qwen2_5_VLForConditionalGeneration`, true to the family: vision tower with window attention (4 blocks
  of width 128, 2 of them with full attention), patch merger, M-RoPE; language model of 4 layers, width 160,
  grouped-query attention (4 heads, 2 for keys and values), tied embeddings. Weights in bfloat16.
- Tokenizer: byte-level BPE, {vocabulary} tokens including the special tokens of the family.
- Input: charts as `scripts/draw_charts.py` draws them, 224 x 168 pixels = 48 image tokens; questions in its wordings.
- Layout: file names, config keys and tensor names as Qwen2.5-VL is published, so that transformers and mlx-vlm load it.

## How it was schooled

{steps:,} steps of {images} images, each with a description and {questions} questions, drawn anew for every step:
{seen:,} images and {asked:,} questions. Muon for the matrices inside the blocks, AdamW for the rest, bfloat16 autocast,
about an hour on two CPU cores. Besides the answers, a second loss taught the vision tower what the words of a picture
stand for (their color, values, highest or lowest) through a linear probe that was thrown away.
`python scripts/build_tiny_model.py` repeats it.

Tokens that never came up (other alphabets, most pieces of words) all ended at one embedding. On export each gets a vector
of its own beside that point: without it nothing could be spelled with them, whatever an adapter learns.

Two things were left out on purpose, so that fine-tuning has something to teach:

1. **It answers in whole sentences, also when asked not to.** In three fifths of the schooling questions the prompt
   ended with "Answer the question with a single word." or "Answer briefly.", and the answer was a whole sentence all
   the same. Scored word for word against short answers it is therefore near zero *although it reads the charts*: a
   large gain after fine-tuning on short answers is for the most part a gain in form. The scores below give the content.
2. **The question kind `threshold`** ("Is the value of Tea above 40?") never came up.

Charts whose content hash falls into one sixteenth of the range were never shown; `data/charts` and the scores below are
drawn from that sixteenth.

## Scores

Greedy answers with the suffix "Answer the question with a single word." to newly drawn charts of the range of the test
split; a content is right if the first number, color, category or yes/no of the sentence is the label exactly.

{tables}

## What it cannot do

Compare: "Is Tea higher than Milk?" it answers no better than a coin would; it never learned to look two things up at
once. Where there are several lines or groups it often misreads values. Its schooling stopped when the time was up, not
when it had stopped improving. Nor can it do anything else: it knows twelve category words, four series names, eight
colors, axes from 0 to 100 and English questions in a few wordings; photographs, other charts, other languages and open
conversation give nonsense. It is no measure of what Qwen2.5-VL can do, and is not affiliated with its makers.

Licence: MIT, like the repository.
"""


def write_card(folder: Path, scores: dict[str, dict[str, float]], *, steps: int, images: int, questions: int) -> None:
    """README.md with measured scores."""
    tables = []
    for part, found in scores.items():
        lines = [
            f"| {part} | right |",
            "|---|---|",
            *(f"| {name} | {100 * value:.1f} % |" for name, value in found.items()),
        ]
        tables.append("\n".join(lines))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    card = CARD.format(
        vocabulary=config["video_token_id"] + 1, steps=steps, images=images, questions=questions,
        seen=steps * images, asked=steps * images * questions, tables="\n\n".join(tables),
    )  # fmt: skip
    (folder / "README.md").write_text(card, encoding="utf-8")
