"""ChartLlama-Dataset: seven JSON files of conversations about charts, pictures in ours.zip under ours/<kind>/png/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mlxtune.tasks.conversation import ConversationTask
from mlxtune.tasks.fields import Columns, Fields
from mlxtune.tasks.qa import QA_METRICS

_KIND = re.compile(r"(?:^|/)ours/([^/]+)/")


@dataclass(frozen=True)
class ChartLlamaTask(ConversationTask):
    def meta_of(self, fields: Fields) -> dict[str, Any]:
        """`meta` with the kind of chart, as the picture's path tells it."""
        meta = super().meta_of(fields)
        name = fields.name("image")
        path = fields.row[name] if name is not None else None
        if "chart" not in meta and isinstance(path, str) and (kind := _KIND.search(path)):
            meta["chart"] = kind[1]
        return meta


CHARTLLAMA = ChartLlamaTask(
    name="chartllama",
    description="conversations about charts of many kinds (ChartLlama-Dataset); set data.image_folder to ours.zip",
    metrics=("relaxed_accuracy", "relaxed_accuracy_strict", *QA_METRICS),
    columns=Columns(image=("image",), question=("conversations",), target=()),
    meta=("chart",),
    text_only="skip",
)
