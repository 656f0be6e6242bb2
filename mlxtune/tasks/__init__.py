"""Tasks: what a row means, what is asked, and how the answer is scored. A new task is an entry of `TASKS`."""

from __future__ import annotations

import difflib

from mlxtune.errors import RecipeError
from mlxtune.tasks.base import Columns, Task, user_message
from mlxtune.tasks.chartqa import CHARTQA
from mlxtune.tasks.qa import QA

__all__ = ["TASKS", "Columns", "Task", "get_task", "user_message"]

TASKS: dict[str, Task] = {task.name: task for task in (CHARTQA, QA)}


def get_task(name: str) -> Task:
    """The task of that name. Raises RecipeError with the nearest name there is."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(str(name).lower(), TASKS, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    raise RecipeError(f"data.task: no task '{name}'. {hint}There are: {', '.join(sorted(TASKS))}")
