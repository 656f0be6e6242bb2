"""A byte-level BPE of made-up words: every word is one token, so that questions and answers have the length they are meant to."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

VOCABULARY = 32_000  # each of them a token that can be written: a random model answers with any
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwyz", "aeiou"
_SYLLABLES = [c + v for c in _CONSONANTS for v in _VOWELS]
# Nothing stands behind the end token: some sides learn what a template writes there, others do not.
_QWEN = """\
{%- for message in messages -%}
{{- '' if loop.first else '\\n' -}}{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string else message['content'] -%}
{%- for part in parts -%}
{{- part['text'] if part['type'] == 'text' else '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\n<|im_start|>assistant\\n' -}}{%- endif -%}
"""
_SMOLVLM = """\
{{- '<|im_start|>' -}}
{%- for message in messages -%}
{{- '' if loop.first else '\\n' -}}{{- message['role'] | capitalize + ':' -}}
{%- set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string else message['content'] -%}
{%- for part in parts -%}
{{- ' ' + part['text'] if part['type'] == 'text' else '<image>' -}}
{%- endfor -%}
{{- '<end_of_utterance>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\nAssistant:' -}}{%- endif -%}
"""
_QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
_QWEN_SPECIAL += ["<|video_pad|>"]
_SMOLVLM_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<image>", "<global-img>"]
_SMOLVLM_SPECIAL += ["<end_of_utterance>", *(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7))]


def words(count: int, rng: random.Random) -> str:
    """`count` words of two syllables; each is one token, but for the first, which has no space before it and is two."""
    return " ".join(rng.choice(_SYLLABLES) + rng.choice(_SYLLABLES) for _ in range(count))


def write_tokenizer(folder: Path, family: str) -> dict[str, int]:
    """tokenizer.json, tokenizer_config.json, chat_template.json; gives the ids of the special tokens."""
    special, template, end = {
        "qwen2_5_vl": (_QWEN_SPECIAL, _QWEN, "<|im_end|>"),
        "smolvlm": (_SMOLVLM_SPECIAL, _SMOLVLM, "<end_of_utterance>"),
    }[family]
    tokenizer = _tokenizer(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192, "bos_token": None}
    config |= {"eos_token": end, "pad_token": "<|endoftext|>", "clean_up_tokenization_spaces": False}
    config |= {"additional_special_tokens": special[1:], "chat_template": template}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "chat_template.json", {"chat_template": template})
    ids = {token: tokenizer.token_to_id(token) for token in special}
    stop = sorted({ids[end], ids["<|endoftext|>"]})
    write_json(
        folder / "generation_config.json", {"pad_token_id": ids["<|endoftext|>"], "eos_token_id": stop, "do_sample": False}
    )
    return ids


def _tokenizer(special: list[str]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    space = "Ġ"
    merges = [tuple(syllable) for syllable in _SYLLABLES]
    merges += [(space, syllable) for syllable in _SYLLABLES]
    merges += [(space + first, second) for first in _SYLLABLES for second in _SYLLABLES]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    longer = ((space + first + second, third) for first in _SYLLABLES for second in _SYLLABLES for third in _SYLLABLES)
    merges += islice(longer, VOCABULARY - len(alphabet) - len(merges) - len(special))
    tokens = [*alphabet, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
