"""A model that mlxtune runs itself: nothing leaves the machine, and nothing is paid."""

from __future__ import annotations

from mlxtune.caption.base import Reply
from mlxtune.errors import MlxtuneError

_LONGEST = 512  # tokens of an answer


class LocalCaptioner:
    name = "local"
    inline = True  # the frameworks keep state by thread
    concurrency = 1

    def __init__(self, model: str | None, *, base_url: str | None, timeout_s: float) -> None:
        if not model:
            raise MlxtuneError("--with local needs --model: a model folder or hub id, see `mlxtune list models`")
        from mlxtune import inference

        self.model = model
        self._runner = inference.load(model)

    def describe(self, image: bytes, prompt: str) -> Reply:
        return Reply(self._runner.ask(image, prompt, max_new_tokens=_LONGEST))

    def forget(self, image: bytes) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held open."""
