"""The shared part of all families: messages to text, text to token ids, and what a family must add."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mlxtune.errors import DataError, ModelError
from mlxtune.families.config import ModelConfig, read_json
from mlxtune.images import ImageRef
from mlxtune.types import Encoded, Example, Pixels

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


@dataclass(frozen=True)
class Family:
    """Names are canonical: module paths of the model in transformers 5, which PEFT's adapter files use too.

    sites: group -> pattern of the linear layers in it. layer: pattern whose group 1 is a text layer's number.
    renames: (pattern, replacement) from published weight and adapter names to canonical ones, first match wins.
    """

    name: str
    description: str
    known_models: tuple[str, ...]
    processor: type[Processor]
    sites: Mapping[str, str]
    layer: str
    renames: tuple[tuple[str, str], ...]

    def canonical(self, name: str) -> str:
        for pattern, replacement in self.renames:
            renamed, count = re.subn(pattern, replacement, name)
            if count:
                return renamed
        return name

    def group_of(self, site: str) -> str | None:
        """The group that a linear layer belongs to; None for one that no group holds (the output head)."""
        return next((group for group, pattern in self.sites.items() if re.fullmatch(pattern, site)), None)


class Processor(ABC):
    """One model's tokenizer, chat template and picture settings."""

    image_token: str  # the placeholder that the chat template renders once a picture

    def __init__(self, config: ModelConfig, *, min_pixels: int | None = None, max_pixels: int | None = None) -> None:
        self.config = config
        self.settings = read_json(config.folder / "preprocessor_config.json")
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels

    # -- what a family adds ---------------------------------------------------------------------------------------

    @abstractmethod
    def grid(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The `Pixels.grid` of a picture of (width, height) pixels."""

    @abstractmethod
    def image_tokens(self, grid: tuple[int, ...]) -> int:
        """How many rows of the language model a picture of this grid fills."""

    @abstractmethod
    def image_text(self, grid: tuple[int, ...]) -> str:
        """What stands in the prompt for one picture; holds `image_token` exactly `image_tokens` times."""

    @abstractmethod
    def pixel_values(self, image: ImageRef) -> np.ndarray:
        """The picture as float32 in the form of `Pixels.values`."""

    def positions(self, input_ids: np.ndarray, grids: Sequence[tuple[int, ...]]) -> np.ndarray:
        """[A, S] int32; plain counting where a family has no positions of its own."""
        return np.arange(len(input_ids), dtype=np.int32)[None]

    # -- text -----------------------------------------------------------------------------------------------------

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        folder = self.config.folder
        # Without them transformers may make a tokenizer that knows the special tokens alone, and drops all text.
        if not any((folder / name).exists() for name in _TOKENIZER_FILES):
            raise ModelError(f"{folder}: no tokenizer file ({', '.join(_TOKENIZER_FILES)}). Download the model again")
        try:
            return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{folder}: the tokenizer cannot be loaded ({reason}). Download the model again") from error

    @cached_property
    def chat_template(self) -> str:
        jinja = self.config.folder / "chat_template.jinja"
        template = (
            jinja.read_text(encoding="utf-8")
            if jinja.exists()
            else read_json(self.config.folder / "chat_template.json", optional=True).get("chat_template")
            or self.tokenizer.chat_template
        )
        if not template:
            raise ModelError(
                f"{self.config.folder}: no chat template (chat_template.json, chat_template.jinja or in tokenizer_config.json)"
            )
        return template

    @cached_property
    def image_token_id(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    @cached_property
    def pad_id(self) -> int:
        """Fills rows up to a common length; never seen by a real token and never learned."""
        return int(self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer: those of generation_config.json, the tokenizer's, and the one training text ends with."""
        published = read_json(self.config.folder / "generation_config.json", optional=True).get("eos_token_id") or []
        turn = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
        end = self._tokenize(self._answer_text(turn, "x", prompt=self._render(turn, prompt=True)))[-1]
        return frozenset([*(published if isinstance(published, list) else [published]), int(self.tokenizer.eos_token_id), end])

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode([i for i in ids if i not in self.stop_ids], skip_special_tokens=True).strip()

    def prompt_text(self, example: Example) -> str:
        """The rendered prompt, each picture's placeholder written out to its full length."""
        return self._expand(self._render(example.messages, prompt=True), example, self._grids(example))

    def encode(self, example: Example, *, max_tokens: int | None, answer: bool) -> Encoded:
        """Token ids of the prompt, followed by the answer and its end token if `answer`.

        Prompt and answer are tokenized apart, so that training sees exactly the ids that generation starts from.
        Errors: DataError where the row has more or fewer placeholders than pictures, or more than `max_tokens` tokens.
        """
        grids = self._grids(example)
        rendered = self._render(example.messages, prompt=True)
        prompt = self._tokenize(self._expand(rendered, example, grids))
        reply = (
            self._tokenize(self._checked(self._answer_text(example.messages, example.target, prompt=rendered), example))
            if answer
            else []
        )
        if max_tokens is not None and len(prompt) + len(reply) > max_tokens:
            raise self._too_long(
                example, prompt=len(prompt), reply=len(reply), images=sum(map(self.image_tokens, grids)), limit=max_tokens
            )
        input_ids = np.array(prompt + reply, np.int32)
        return Encoded(
            id=example.id,
            input_ids=input_ids,
            weights=np.repeat(np.array([0, 1], np.float32), [len(prompt), len(reply)]),
            positions=self.positions(input_ids, grids),
            image_rows=np.flatnonzero(input_ids == self.image_token_id).astype(np.int32),
            images=example.images,
        )

    def pixels(self, image: ImageRef) -> Pixels:
        grid = self.grid(image.size)
        return Pixels(key=self.pixel_key(image), values=self.pixel_values(image), grid=grid, tokens=self.image_tokens(grid))

    def pixel_key(self, image: ImageRef) -> str:
        return f"{image.key}@{'x'.join(map(str, self.grid(image.size)))}"

    # -- helpers --------------------------------------------------------------------------------------------------

    def _grids(self, example: Example) -> list[tuple[int, ...]]:
        return [self.grid(image.size) for image in example.images]

    def _render(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            list(messages), chat_template=self.chat_template, tokenize=False, add_generation_prompt=prompt
        )

    def _answer_text(self, messages: Sequence[Mapping[str, Any]], target: str, *, prompt: str) -> str:
        turn = {"role": "assistant", "content": [{"type": "text", "text": target}]}
        full = self._render([*messages, turn], prompt=False)
        if not full.startswith(prompt):
            raise ModelError(f"{self.config.folder}: the chat template renders a prompt that training text does not begin with")
        # Templates put white space behind the end token; nothing generates it, so it is not learned.
        return full[len(prompt) :].rstrip()

    def _expand(self, text: str, example: Example, grids: Sequence[tuple[int, ...]]) -> str:
        parts = text.split(self.image_token)
        if len(parts) - 1 != len(grids):
            raise DataError(
                f"{example.id}: {len(grids)} pictures but {len(parts) - 1} placeholders in the prompt. "
                f"Give each picture one image part, and no '{self.image_token}' in the text"
            )
        return "".join(part + image for part, image in zip(parts, [*map(self.image_text, grids), ""], strict=True))

    def _checked(self, reply: str, example: Example) -> str:
        if self.image_token in reply:
            raise DataError(
                f"{example.id}: the answer holds '{self.image_token}', which stands for a picture. Remove it from the row"
            )
        return reply

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _too_long(self, example: Example, *, prompt: int, reply: int, images: int, limit: int) -> DataError:
        return DataError(
            f"{example.id}: {prompt + reply} tokens ({images} of pictures, {prompt - images} of prompt, {reply} of answer), "
            f"the limit is {limit}. Raise train.max_tokens, or lower model.max_pixels, or remove the row"
        )
