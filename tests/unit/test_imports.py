"""Imports point one way, and no framework comes in through the front door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mlxtune"

# Each layer may import those above it in this table, and nothing of its own line.
LAYERS = (
    ("errors", "text", "cache", "process", "cpu"),
    ("numpy_blas",),
    ("blas",),
    ("images", "entities"),
    ("types",),
    ("recipe",),
    ("tasks", "families", "metrics"),
    ("data", "events", "statistics"),
    ("packing",),
    ("hub", "batching", "schedule", "adapters"),
    ("rounding", "wanted_rows"),
    ("backends",),
    ("features", "feature_files", "vision_weights"),
    ("engine", "beam_search"),
    ("generation", "runs", "survey"),
    ("evaluate", "trackers"),
    ("train", "prepare", "report"),
    ("outcome",),
    ("finetune", "inference"),
    ("caption",),
    ("ui",),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Rows become examples without knowing of models or scores.
APART = {("data", "families"), ("data", "metrics")}
# Where a library may be imported at all; the first folder or file below mlxtune/, "/"-separated.
HOMES = {
    "mlx": "backends/mlx",
    "mlx_vlm": "backends/mlx",
    "mlx_lm": "backends/mlx",
    "torch": "backends/torch",
    "peft": "backends/torch",
}
HEAVY = ("torch", "mlx", "mlx_vlm", "transformers", "peft", "datasets", "sacrebleu", "rouge_score", "pyarrow")
HEAVY += ("scipy", "matplotlib", "rapidfuzz", "nltk", "jinja2", "openai", "gigachat", "tenacity", "httpx")


def imported(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, also inside functions; ``from a import b`` gives "a.b"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def faults(path: str, source: str) -> list[str]:
    """What is wrong with the imports of `source`, which stands at `path` below the package."""
    component = path.split("/")[0].removesuffix(".py")
    if component == "__init__":  # the front door: what it may import at once is tested by running it
        return []
    if component not in LEVEL:
        return [f"{path}: '{component}' has no layer; give it one in LAYERS"]
    return [fault for line, name in imported(source) if (fault := _fault(f"{path}:{line}", path, component, name))]


def _fault(where: str, path: str, component: str, name: str) -> str | None:
    top, *rest = name.split(".")
    if top != "mlxtune":
        home = HOMES.get(top)
        return f"{where}: {top} belongs to {home}" if home and not path.startswith(f"{home}/") else None
    target = rest[0] if rest else "__init__"
    if target not in LEVEL or target == component:  # a name of mlxtune/__init__.py, or the folder's own
        return None
    if (component, target) in APART or LEVEL[target] >= LEVEL[component]:
        return f"{where}: {component} may not import {target}"
    return None


def test_imports_of_the_package_point_one_way() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 20
    found = [fault for file in files for fault in faults(file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("errors.py", "from mlxtune.types import Row", True),
        ("types.py", "from mlxtune.errors import DataError", False),
        ("recipe/load.py", "from mlxtune import tasks", True),
        ("recipe/load.py", "def f():\n    import mlxtune.data.sources", True),
        ("tasks/qa.py", "from mlxtune.families import FAMILIES", True),
        ("metrics/text.py", "from mlxtune.tasks import TASKS", True),
        ("data/sources.py", "from mlxtune.tasks import TASKS", False),
        ("data/sources.py", "from mlxtune.metrics import METRICS", True),
        ("data/sources.py", "from mlxtune.families import FAMILIES", True),
        ("batching.py", "from mlxtune.backends.base import Backend", True),
        ("backends/base.py", "from mlxtune.train import train", True),
        ("train.py", "from mlxtune.backends.base import Backend", False),
        ("train.py", "from mlxtune.ui import watch", True),
        ("ui/live.py", "from mlxtune.cli import main", True),
        ("cli/program.py", "from mlxtune import __version__", False),
        ("train.py", "import torch", True),
        ("train.py", "def f():\n    from mlx.core import array", True),
        ("backends/mlx/lora.py", "import torch", True),
        ("backends/torch/lora.py", "from peft import PeftModel", False),
        ("backends/torch/lora.py", "import mlx_vlm.models", True),
        ("backends/mlx_extra.py", "import mlx.core", True),
        ("novelty.py", "import json", True),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str, wrong: bool) -> None:
    assert bool(faults(path, source)) is wrong


@pytest.mark.parametrize(
    "statement",
    [
        "import mlxtune",
        "import mlxtune.recipe, mlxtune.data, mlxtune.tasks, mlxtune.families, mlxtune.metrics, mlxtune.ui",
        "from mlxtune.cli import main; main(['--help'])",
        "from mlxtune.cli import main; main(['finetune', '--help'])",
        "from mlxtune.cli import main; main(['list', 'tasks'])",
        "from mlxtune.cli import main; main(['list', 'models'])",
        "from mlxtune.cli import main; main(['list', 'metrics'])",
    ],
)
def test_nothing_heavy_is_loaded_by(statement: str) -> None:
    code = f"""
import sys
try:
    {statement}
except SystemExit as end:
    assert not end.code, end.code
print("HEAVY", *(name for name in {HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY", done.stdout


def test_help_loads_not_even_what_recipes_need() -> None:
    code = """
import sys
from mlxtune.cli import main
try:
    main(["--help"])
except SystemExit:
    print("LOADED", *(name for name in ("numpy", "pydantic", "rich") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED", done.stdout


@pytest.mark.parametrize(
    ("backend", "own", "spared"),
    [("mlx", True, {"torch", "scipy"}), ("torch", True, {"scipy"}), ("torch", False, set())],
)
def test_a_process_of_ours_loads_no_more_than_it_needs(backend: str, own: bool, spared: set[str]) -> None:
    """Both backends are installed here; transformers, left alone, loads torch for a tokenizer and scipy for a model."""
    code = f"""
import sys
from pathlib import Path
from mlxtune import process
{own} and process.own_process()
from mlxtune.engine import open_engine
from mlxtune.recipe import ModelSpec
engine = open_engine(Path("models/tiny-charts"), ModelSpec(path="models/tiny-charts"), backend={backend!r})
assert engine.processor.tokenizer.encode("What is shown?")
print("SPARED", *sorted({{"torch", "scipy"}} - set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.splitlines()[-1].split()[1:] == sorted(spared), done.stdout + done.stderr
