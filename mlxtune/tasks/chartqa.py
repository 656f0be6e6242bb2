"""ChartQA, as on the hub, as in its original JSON files, and data of the same form (PJN_CHARTS, drawn charts).

Prompt suffix: lmms-eval, tasks/chartqa. Labels that look like lists ("[2003, 2004]") stay the text that they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlxtune.tasks.base import Task
from mlxtune.tasks.fields import Columns, Fields
from mlxtune.tasks.qa import QA_METRICS

_ASKED_BY = {0: "human", 1: "machine"}  # the hub's class label


@dataclass(frozen=True)
class ChartQATask(Task):
    def meta_of(self, fields: Fields) -> dict[str, Any]:
        meta = super().meta_of(fields)
        if (asked_by := meta.get("human_or_machine")) in _ASKED_BY:
            meta["human_or_machine"] = _ASKED_BY[asked_by]
        return meta


CHARTQA = ChartQATask(
    name="chartqa",
    description="questions about charts, answered in a word or a number (ChartQA, PJN_CHARTS)",
    metrics=("relaxed_accuracy", "relaxed_accuracy_strict", *QA_METRICS),
    columns=Columns(image=("image", "imgname"), question=("query",), target=("label",)),
    suffix="\nAnswer the question with a single word.",
    meta=("kind", "chart", "source", "human_or_machine"),
    text_only="skip",
)
