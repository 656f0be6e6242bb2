"""docs/add-a-task.md shows a task as it is, and names what there is."""

import re
from pathlib import Path

from mlxtune.tasks import Fields, Task

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/add-a-task.md").read_text(encoding="utf-8")


def test_the_example_is_the_task_itself():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    source = (ROOT / "mlxtune/tasks/gqa_ru.py").read_text(encoding="utf-8").splitlines()
    assert [line for line in block.splitlines() if line not in source] == []


def test_the_names_are_there():
    for name in re.findall(r"`fields\.(\w+)\(", PAGE):
        assert hasattr(Fields, name), name
    hooks = PAGE.split("is left is\na method of `Task`")[1].split("`mmbench_ru.py`")[0]
    names = re.findall(r"`(\w+)`", hooks)
    assert len(names) >= 8 and all(hasattr(Task, name) for name in names if name not in ("prompt", "meta"))
    for path in re.findall(r"`((?:tests|mlxtune)/[\w/]+\.py)`", PAGE):
        assert (ROOT / path).is_file(), path
