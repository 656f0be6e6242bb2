"""GQA-ru: questions about pictures that a table of their own holds, joined on `imageId`. Prompt suffix: the data set's card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlxtune.recipe.spec import PicturesSpec, RowsSpec
from mlxtune.tasks.base import Task
from mlxtune.tasks.fields import Columns, Fields
from mlxtune.tasks.qa import QA_METRICS

_ROWS, _PICTURES = "_instructions", "_images"
_KINDS = ("structural", "semantic")  # of GQA's `types`: verify, query, choose …; attribute, relation, object …


@dataclass(frozen=True)
class GQATask(Task):
    def default_images(self, spec: RowsSpec) -> PicturesSpec | None:
        """Configuration "X_instructions" has its pictures in "X_images"."""
        if spec.config is None or not spec.config.endswith(_ROWS):
            return None
        return PicturesSpec(config=spec.config.removesuffix(_ROWS) + _PICTURES)

    def meta_of(self, fields: Fields) -> dict[str, Any]:
        meta = super().meta_of(fields) | {"protocol": self.name}  # exact_match then follows the data set's own rule
        if isinstance(types := fields.row.get("types"), Mapping):
            meta |= {
                kind: fields.checked(types[kind], name=f"types.{kind}") for kind in _KINDS if isinstance(types.get(kind), str)
            }
        return meta


GQA_RU = GQATask(
    name="gqa_ru",
    description="short questions about photographs, in Russian (GQA-ru); set data.config: train_balanced_instructions",
    metrics=QA_METRICS,
    columns=Columns(image=("image", "imageId")),
    suffix="\nОтветь одним словом.",
    text_only="skip",
)
