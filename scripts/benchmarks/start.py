"""From the command to the first step: `mlxtune finetune` on the default recipe, "before" left out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def seconds_to_first_step(backend: str, out: Path) -> float:
    """Raises RuntimeError with the command's output where it does not come to a step."""
    command = [sys.executable, "-m", "mlxtune", "finetune", "recipes/charts-tiny.yaml", "--backend", backend, "--out", str(out)]
    command += ["--set", "evaluate.limit=0", "--set", "train.steps=1", "--set", "train.epochs=null"]
    shutil.rmtree(out, ignore_errors=True)  # features that an earlier run kept
    begin, lines = time.monotonic(), []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "MLXTUNE_CACHE": str(out / "cache")},
    ) as process:
        assert process.stdout is not None
        first = None
        for line in process.stdout:
            lines.append(line)
            if first is None and line.startswith("step 1/"):
                first = time.monotonic() - begin
    if process.returncode or first is None:
        raise RuntimeError("".join(lines[-20:]))
    return first
