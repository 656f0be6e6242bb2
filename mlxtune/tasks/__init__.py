"""Tasks: what a row means, what is asked, and how the answer is scored. A new task is a file and an entry of `TASKS`."""

from __future__ import annotations

import difflib

from mlxtune.errors import RecipeError
from mlxtune.tasks.base import Task
from mlxtune.tasks.captions import CAPTIONS
from mlxtune.tasks.characters import CHARACTERS
from mlxtune.tasks.chartllama import CHARTLLAMA
from mlxtune.tasks.chartqa import CHARTQA
from mlxtune.tasks.fields import Columns, Fields
from mlxtune.tasks.gqa_ru import GQA_RU
from mlxtune.tasks.llava import LLAVA
from mlxtune.tasks.messages import MESSAGES
from mlxtune.tasks.mmbench_ru import MMBENCH_RU
from mlxtune.tasks.pictures import without_images
from mlxtune.tasks.prompts import user_message
from mlxtune.tasks.qa import QA

__all__ = ["TASKS", "Columns", "Fields", "Task", "get_task", "user_message", "without_images"]

_ALL = (
    CHARTQA,
    CHARTLLAMA,
    LLAVA,
    GQA_RU,
    MMBENCH_RU,
    CAPTIONS,
    CHARACTERS,
    MESSAGES,
    QA,
)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def get_task(name: str, *, key: str = "data.task") -> Task:
    """The task of that name. Raises RecipeError with the nearest name there is; key: what the message blames."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(str(name).lower(), TASKS, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    raise RecipeError(f"{key}: no task '{name}'. {hint}There are: {', '.join(sorted(TASKS))}")
