"""What a model that lies on this machine makes of the rows: tokens of pictures, prompts and answers. Nothing is downloaded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxtune.errors import DataError, ModelError
from mlxtune.families import Processor, load_processor
from mlxtune.recipe import Recipe
from mlxtune.survey.counting import Spread, spread
from mlxtune.survey.rows import SplitFacts
from mlxtune.types import Example

_RUN = re.compile(r"(<[^<>\s]{1,60}>)\1{3,}")  # the same special token four times or more


@dataclass(frozen=True)
class TokenFacts:
    """Tokens of one split. pictures: of every picture that could be measured. whole, answers: of `rows` sampled rows alone.

    too_long: sampled rows beyond train.max_tokens. unanswerable: sampled answers beyond `answer_limit`, which the model can
    never finish. refused: sampled rows that the model's processor does not take, with the first message.
    """

    pictures: Spread | None
    whole: Spread | None
    answers: Spread | None
    rows: int
    too_long: int
    unanswerable: int
    refused: int
    problem: str


@dataclass(frozen=True)
class ModelFacts:
    """note: why there are no tokens, "" where there are. prompt: the first example's prompt as the model gets it."""

    path: str
    note: str = ""
    prompt: str | None = None
    tokens: Mapping[str, TokenFacts] | None = None


def read_model(recipe: Recipe, splits: Sequence[SplitFacts]) -> ModelFacts:
    """The recipe's model, where its files are here already; reads no weights."""
    spec = recipe.model
    folder = local_folder(spec.path, revision=spec.revision)
    if folder is None:
        return ModelFacts(
            spec.path, note=f"The model '{spec.path}' is not on this machine: tokens are not counted. A run downloads it."
        )
    try:
        processor = load_processor(folder, min_pixels=spec.min_pixels, max_pixels=spec.max_pixels)
        tokens = {split.name: _tokens(split, processor, recipe) for split in splits}
        return ModelFacts(spec.path, prompt=_prompt(processor, splits), tokens=tokens)
    except ModelError as error:
        return ModelFacts(spec.path, note=f"Tokens are not counted: {error}")


def local_folder(path: str, *, revision: str | None = None) -> Path | None:
    """The folder of a model that is here: `path` itself, or the hub's cache on this machine; None where it is not."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(path, "config.json", revision=revision)
    except HFValidationError:  # a path of a machine elsewhere is no hub id
        return None
    return Path(config).parent if isinstance(config, str) else None


def _tokens(split: SplitFacts, processor: Processor, recipe: Recipe) -> TokenFacts:
    pictures: Counter[int] = Counter()
    for size, number in split.pictures.sizes.items():
        try:
            pictures[processor.image_tokens(processor.grid(size))] += number
        except DataError:  # too long and thin for this model; the sampled rows below say it in words
            continue
    whole: Counter[int] = Counter()
    answers: Counter[int] = Counter()
    problems = []
    for sample in split.samples:
        try:
            encoded = processor.encode(sample.example, max_tokens=None, answer=True)
        except DataError as error:
            problems.append(str(error))
            continue
        whole[len(encoded.input_ids)] += 1
        answers[_trailing(encoded.weights)] += 1
    return TokenFacts(
        pictures=spread(pictures),
        whole=spread(whole),
        answers=spread(answers),
        rows=whole.total(),
        too_long=_beyond(whole, limit=recipe.train.max_tokens),
        unanswerable=_beyond(answers, limit=answer_limit(split.name, recipe)),
        refused=len(problems),
        problem=problems[0] if problems else "",
    )


def _beyond(lengths: Counter[int], *, limit: int | None) -> int:
    return sum(number for length, number in lengths.items() if limit is not None and length > limit)


def answer_limit(split: str, recipe: Recipe) -> int | None:
    """Tokens that an answer to this split's questions may have, its end token included; None where nothing is answered."""
    if split == "train" or recipe.evaluate.limit == 0:
        return None
    own = recipe.evaluate.sets.get(split)
    return (own and own.max_new_tokens) or recipe.evaluate.max_new_tokens


def _trailing(weights: Sequence[float]) -> int:
    """Length of the last run of learned tokens: the last answer with its end token, not those of earlier turns."""
    length = 0
    for weight in weights[::-1]:
        if not weight:
            break
        length += 1
    return length


def _prompt(processor: Processor, splits: Sequence[SplitFacts]) -> str | None:
    for sample in (sample for split in splits for sample in split.samples):
        try:
            return shortened(processor.prompt_text(sample.example))
        except DataError:
            continue
    return None


def shortened(prompt: str) -> str:
    """Runs of one special token written as a number: "<|image_pad|> × 256"."""
    return _RUN.sub(lambda run: f"{run[1]} × {len(run[0]) // len(run[1])} ", prompt)


def messages_text(example: Example) -> str:
    """The conversation as it goes to the chat template, for people."""
    lines = []
    for message in example.messages:
        content = message["content"]
        parts = [content] if isinstance(content, str) else [_part(part) for part in content]
        lines.append(f"{message['role']}:\n" + "\n".join(parts))
    return "\n\n".join([*lines, f"assistant (to learn):\n{example.target}"])


def _part(part: Mapping[str, object]) -> str:
    return "[picture]" if part.get("type") == "image" else str(part.get("text", ""))
