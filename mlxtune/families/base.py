"""The shared part of all families: messages to text, text to token ids, and what a family must add."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
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
class KnownModel:
    """A published model that the family's code was written for. image_tokens: of a chart of 850 x 600 pixels, as published."""

    id: str
    parameters: float  # billions
    licence: str
    image_tokens: int


@dataclass(frozen=True)
class Family:
    """Names are canonical: module paths of the model in transformers 5 where it has one, else the published ones; PEFT's
    adapter files use them too.

    model_types: `model_type` of the config files. sites: group -> pattern of the linear layers in it. layer: pattern whose
    group 1 is a text layer's number. renames: (pattern, replacement) from published weight and adapter names to canonical
    ones, first match wins. pictures: how many a row may have, fewest and most (None: as many as fit). sites_of: `sites` of one
    model, for families where the configuration decides which layers run. accepts: tells families of one `model_type` apart.
    left_out: pattern of published weights (canonical names) that are known and not used.
    """

    name: str
    model_types: tuple[str, ...]
    description: str
    known_models: tuple[KnownModel, ...]
    processor: type[Processor]
    sites: Mapping[str, str]
    layer: str
    renames: tuple[tuple[str, str], ...]
    pictures: tuple[int, int | None] = (0, None)
    sites_of: Callable[[ModelConfig], Mapping[str, str]] | None = None
    accepts: Callable[[ModelConfig], bool] | None = None
    left_out: str | None = None

    def canonical(self, name: str) -> str:
        for pattern, replacement in self.renames:
            renamed, count = re.subn(pattern, replacement, name)
            if count:
                return renamed
        return name

    def leaves_out(self, name: str) -> bool:
        """Whether a weight of this canonical name is known and not used."""
        return self.left_out is not None and re.fullmatch(self.left_out, name) is not None

    def group_of(self, site: str) -> str | None:
        """The group that a linear layer belongs to; None for one that no group holds (the output head)."""
        return next((group for group, pattern in self.sites.items() if re.fullmatch(pattern, site)), None)


class Processor(ABC):
    """One model's tokenizer, chat template and picture settings."""

    image_token: str  # the placeholder that the chat template renders once a picture
    settings_file = True  # whether preprocessor_config.json is published
    several_turns = True  # whether a prompt may hold earlier questions and answers
    most_tokens: int | None = None  # of a row and its answer, for models that learned each position by itself
    crossed = False  # whether pictures are looked at through cross-attention, and fill no rows of the language model

    def __init__(self, config: ModelConfig, family: Family, *, min_pixels: int | None, max_pixels: int | None) -> None:
        self.config = config
        self.family = family
        self.settings = read_json(config.folder / "preprocessor_config.json", optional=not self.settings_file)
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels

    # -- what a family adds ---------------------------------------------------------------------------------------

    @abstractmethod
    def grid(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The `Pixels.grid` of a picture of (width, height) pixels."""

    @abstractmethod
    def image_tokens(self, grid: tuple[int, ...]) -> int:
        """How many rows of features a picture of this grid gives; unless `crossed`, as many rows of the language model."""

    @abstractmethod
    def image_text(self, grid: tuple[int, ...]) -> str:
        """What stands in the prompt for one picture; holds `image_token` exactly `image_tokens` times, or never if `crossed`."""

    @abstractmethod
    def pixel_values(self, image: ImageRef) -> np.ndarray:
        """The picture as float32 in the form of `Pixels.values`."""

    def positions(self, input_ids: np.ndarray, grids: Sequence[tuple[int, ...]]) -> np.ndarray:
        """[A, S] int32; plain counting where a family has no positions of its own."""
        return np.arange(len(input_ids), dtype=np.int32)[None]

    def prefix(self, input_ids: np.ndarray) -> int:
        """How many tokens at the start see each other both ways."""
        return 0

    def default_template(self) -> str | None:
        """The chat template where the folder has none; None: such a folder is refused."""
        return None

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
            or self.default_template()
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
        text = [{"type": "text", "text": "x"}]
        end = self._tokenize(self._reply([{"role": "user", "content": text}], text))[-1]
        return frozenset([*(published if isinstance(published, list) else [published]), int(self.tokenizer.eos_token_id), end])

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode([i for i in ids if i not in self.stop_ids], skip_special_tokens=True).strip()

    def rendered(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt as the chat template writes it, each picture as one placeholder."""
        return self._render(messages, prompt=True)

    def prompt_text(self, example: Example) -> str:
        """The rendered prompt, each picture's placeholder written out to its full length."""
        parts = self._expand(self._prompt(example.messages), example, self._grids(example))
        return "".join(text for text, _ in parts)

    def encode(self, example: Example, *, max_tokens: int | None, answer: bool) -> Encoded:
        """Token ids of the prompt, followed by the answer and its end token if `answer`.

        Prompt and answers (earlier turns' too) are tokenized apart, so that training sees the ids that generation starts from.
        Errors: DataError where the row has more or fewer placeholders than pictures, or more than `max_tokens` tokens.
        """
        self._check_shape(example)
        grids = self._grids(example)
        parts = self._prompt(example.messages)
        parts += [(self._reply(example.messages, [{"type": "text", "text": example.target}]), True)] if answer else []
        parts = self._expand(parts, example, grids)
        ids = self._pieces([text for text, _ in parts])
        lengths, learned = [len(part) for part in ids], [float(is_learned and answer) for _, is_learned in parts]
        if max_tokens is not None and sum(lengths) > max_tokens:
            images = 0 if self.crossed else sum(map(self.image_tokens, grids))
            raise self._too_long(example, lengths, images=images, limit=max_tokens)
        input_ids = np.array(sum(ids, []), np.int32)
        return Encoded(
            id=example.id,
            input_ids=input_ids,
            weights=np.repeat(np.array(learned, np.float32), lengths),
            positions=self.positions(input_ids, grids),
            image_rows=np.flatnonzero(input_ids == self.image_token_id).astype(np.int32),
            images=example.images,
            prefix=self.prefix(input_ids),
            crossed=self.crossed,
        )

    def surely_fits(self, example: Example, *, max_tokens: int) -> bool:
        """Whether `encode` cannot refuse the example, told without tokenizing: a token is never less than a byte of text."""
        texts = [example.target, *(text for turn in example.messages for text in _texts(turn))]
        if any(self.image_token in text for text in texts):
            return False
        shape = tuple((turn["role"], _pictures(turn)) for turn in example.messages)
        if sum(pictures for _, pictures in shape) != len(example.images) or not self._takes(len(example.images)):
            return False
        if not self.several_turns and len(shape) > 1:
            return False
        words = sum(len(text.encode()) for text in texts)
        return words + self._frame_bytes(shape) + sum(map(self._picture_bytes, self._grids(example))) <= max_tokens

    def pixels(self, image: ImageRef) -> Pixels:
        grid = self.grid(image.size)
        return Pixels(key=self.pixel_key(image), values=self.pixel_values(image), grid=grid, tokens=self.image_tokens(grid))

    def pixel_key(self, image: ImageRef) -> str:
        return f"{image.identity}@{'x'.join(map(str, self.grid(image.size)))}"

    # -- helpers --------------------------------------------------------------------------------------------------

    def _grids(self, example: Example) -> list[tuple[int, ...]]:
        return [self.grid(image.size) for image in example.images]

    def _render(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            list(messages), chat_template=self.chat_template, tokenize=False, add_generation_prompt=prompt
        )

    def _prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
        """The rendered prompt, cut where answers of earlier turns begin and end: (text, is an answer with its end token)."""
        rendered = self._render(messages, prompt=True)
        parts: list[tuple[str, bool]] = []
        place = 0
        for number, turn in enumerate(messages):
            if turn["role"] == "assistant":
                before, reply = self._render(messages[:number], prompt=True), self._reply(messages[:number], turn["content"])
                self._check_begins(rendered, before + reply)
                parts += [(rendered[place : len(before)], False), (reply, True)]
                place = len(before) + len(reply)
        return [*parts, (rendered[place:], False)]

    def _reply(self, messages: Sequence[Mapping[str, Any]], content: Any) -> str:
        prompt = self._render(messages, prompt=True)
        full = self._render([*messages, {"role": "assistant", "content": content}], prompt=False)
        self._check_begins(full, prompt)
        # Templates put white space behind the end token; nothing generates it, so it is not learned.
        return full[len(prompt) :].rstrip()

    def _check_begins(self, text: str, start: str) -> None:
        if not text.startswith(start):
            raise ModelError(f"{self.config.folder}: the chat template renders a prompt that training text does not begin with")

    def _expand(
        self, parts: Sequence[tuple[str, bool]], example: Example, grids: Sequence[tuple[int, ...]]
    ) -> list[tuple[str, bool]]:
        placeholders = sum(text.count(self.image_token) for text, learned in parts if not learned)
        if any(learned and self.image_token in text for text, learned in parts):
            raise DataError(
                f"{example.id}: the answer holds '{self.image_token}', which stands for a picture. Remove it from the row"
            )
        if placeholders != len(grids):
            raise DataError(
                f"{example.id}: {len(grids)} pictures but {placeholders} placeholders in the prompt. "
                f"Give each picture one image part, and no '{self.image_token}' in the text"
            )
        pictures = map(self.image_text, grids)
        # A replacement that is a function is called once a match, from left to right, and its text is taken as it is.
        return [(re.sub(re.escape(self.image_token), lambda _: next(pictures), text), learned) for text, learned in parts]

    def _frame_bytes(self, shape: tuple[tuple[str, int], ...]) -> int:
        """Length in bytes of what the template puts around the texts of a conversation of this shape, and some to spare."""
        if shape not in self._frames:
            turns = [{"role": role, "content": [{"type": "image"}] * n + [{"type": "text", "text": ""}]} for role, n in shape]
            text = self._render([*turns, {"role": "assistant", "content": [{"type": "text", "text": ""}]}], prompt=False)
            self._frames[shape] = len(text.encode()) + 16
        return self._frames[shape]

    @cached_property
    def _frames(self) -> dict[tuple[tuple[str, int], ...], int]:
        return {}

    def _picture_bytes(self, grid: tuple[int, ...]) -> int:
        """Upper bound of a picture's tokens: its own, and a byte each for the marks around them."""
        return self.image_tokens(grid) + len(self.image_text(grid).replace(self.image_token, ""))

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of the texts that make up a row, one list for each."""
        return [self._tokenize(text) for text in texts]

    def _takes(self, pictures: int) -> bool:
        fewest, most = self.family.pictures
        return fewest <= pictures and (most is None or pictures <= most)

    def _check_shape(self, example: Example) -> None:
        fewest, most = self.family.pictures
        if not self._takes(len(example.images)):
            wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise DataError(
                f"{example.id}: {len(example.images)} pictures, but a row of {self.family.name} has {wanted}. "
                "Filter such rows out (data.filter), or choose a model of another family (`mlxtune list models`)"
            )
        if not self.several_turns and len(example.messages) > 1:
            raise DataError(
                f"{example.id}: {len(example.messages)} turns, but {self.family.name} knows one question and its answer. "
                "Keep the last question alone, or choose a model of another family (`mlxtune list models`)"
            )

    def _too_long(self, example: Example, lengths: Sequence[int], *, images: int, limit: int) -> DataError:
        *prompt, reply = lengths
        return DataError(
            f"{example.id}: {sum(lengths)} tokens ({images} of pictures, {sum(prompt) - images} of prompt, {reply} of answer), "
            f"the limit is {limit}. Raise train.max_tokens, {'or lower model.max_pixels, ' if images else ''}or remove the row"
        )


def _texts(turn: Mapping[str, Any]) -> list[str]:
    content = turn["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


def _pictures(turn: Mapping[str, Any]) -> int:
    return sum(part["type"] == "image" for part in turn["content"]) if not isinstance(turn["content"], str) else 0
