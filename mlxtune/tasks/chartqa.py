"""ChartQA, as on the hub, as in its original JSON files, and data of the same form (PJN_CHARTS, drawn charts).

Prompt suffix: lmms-eval, tasks/chartqa. Labels that look like lists ("[2003, 2004]") stay the text that they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlxtune.tasks.base import Columns, Task
from mlxtune.tasks.qa import QA_METRICS
from mlxtune.types import Example, Row

_ASKED_BY = {0: "human", 1: "machine"}  # the hub's class label


@dataclass(frozen=True)
class ChartQATask(Task):
    def example(self, row: Row, *, where: str, spec: Any, folder: Path | None = None) -> Example:
        example = super().example(row, where=where, spec=spec, folder=folder)
        if (asked_by := example.meta.get("human_or_machine")) not in _ASKED_BY:
            return example
        return replace(example, meta={**example.meta, "human_or_machine": _ASKED_BY[asked_by]})


CHARTQA = ChartQATask(
    name="chartqa",
    description="questions about charts, answered in a word or a number (ChartQA)",
    metrics=("relaxed_accuracy", *QA_METRICS),
    columns=Columns(image=("image", "imgname"), question=("query",), target=("label",)),
    suffix="\nAnswer the question with a single word.",
    meta=("kind", "chart", "source", "human_or_machine"),
    needs_image=True,
)
