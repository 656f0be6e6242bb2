"""The inference runner: a model, with or without an adapter, that answers questions about pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.adapters import load_adapter
from mlxtune.backends import choose_backend
from mlxtune.engine import Engine, open_engine
from mlxtune.generation import tokens
from mlxtune.hub import model_folder
from mlxtune.images import image_ref
from mlxtune.recipe import ModelSpec
from mlxtune.types import Example


@dataclass(frozen=True)
class Runner:
    engine: Engine

    def ask(self, image: Any, question: str, *, max_new_tokens: int = 256) -> str:
        """The whole answer. image: a path, encoded bytes or a PIL image; None for a question without a picture."""
        return "".join(self.stream(image, question, max_new_tokens=max_new_tokens)).strip()

    def stream(self, image: Any, question: str, *, max_new_tokens: int = 256) -> Iterator[str]:
        """The answer's text, piece by piece as it is made."""
        processor = self.engine.processor
        prompt = processor.encode(_example(image, question), max_tokens=None, answer=False)
        ids: list[int] = []
        shown = ""
        for following in tokens(self.engine, [prompt], max_new_tokens=max_new_tokens):
            if int(following[0]) in processor.stop_ids:
                break
            ids.append(int(following[0]))
            text = processor.decode(ids)
            # Half of a multi-byte character decodes to the replacement sign until its other half is there.
            if not text.endswith("\ufffd") and text.startswith(shown):
                yield text[len(shown) :]
                shown = text
        # What was held back and never became whole, as the evaluation has it.
        yield processor.decode(ids)[len(shown) :]


def _example(image: Any, question: str) -> Example:
    images = () if image is None else (image_ref(image),)
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    return Example(
        id="question", messages=[{"role": "user", "content": content}], question=question, target="", references=(), images=images
    )


def load(model: str | Path, *, adapter: str | Path | None = None, backend: str = "auto", precision: str | None = None) -> Runner:
    """Loads a model folder or hub id, and an adapter that mlxtune or PEFT wrote.

    precision: float32, bfloat16 or float16; None takes what suits the device. Errors: MlxtuneError.
    """
    folder = model_folder(str(model))
    spec = ModelSpec(path=str(model), precision=precision or "auto")
    engine = open_engine(folder, spec, backend=choose_backend(backend).name)
    if adapter is not None:
        loaded = load_adapter(Path(adapter), engine.backend.linears(), engine.family)
        engine.backend.attach(loaded, weight_decay=0.0)
    return Runner(engine)
