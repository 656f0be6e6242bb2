"""The text files of a small Idefics3 model: a byte-level BPE and a template that renders as SmolVLM's does."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

TILES = 4  # most rows and columns of tiles that have a token of their own
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<image>", "<global-img>"]
SPECIAL += ["<end_of_utterance>"]
SPECIAL += [f"<row_{r}_col_{c}>" for r in range(1, TILES + 1) for c in range(1, TILES + 1)]
SPECIAL_IDS = {"bos_token_id": "<|im_start|>", "eos_token_id": "<end_of_utterance>", "pad_token_id": "<|im_end|>"}
SPECIAL_IDS |= {"image_token_id": "<image>"}
TEMPLATE = """\
{{- '<|im_start|>' -}}
{%- for message in messages -%}
{%- set role = message['role'] | capitalize -%}
{{- role + (':' if message['content'][0]['type'] == 'image' else ': ') -}}
{%- for part in message['content'] -%}
{{- part['text'] if part['type'] == 'text' else '<image>' -}}
{%- endfor -%}
{{- '<end_of_utterance>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""
_CORPUS = ["User: What is the value of the largest bar?", "Assistant: The chart has four bars. Yes. No. 42", "\n\n"] * 20


def write_tokenizer(folder: Path) -> Tokenizer:
    """tokenizer.json, tokenizer_config.json and chat_template.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The special tokens stand first, as in SmolVLM.
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<end_of_utterance>",
        "pad_token": "<|im_end|>",
        "additional_special_tokens": SPECIAL[3:],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}), encoding="utf-8")
    return tokenizer
