"""From the command to the end of the first training step: seconds and peak memory of `mlxtune finetune`, by size of the file.

    python scripts/measure_start.py [--sizes 1000 20000] [--forms hub one-group] [--backends torch mlx] [--folder /tmp/measured]

The bundled model, all rows for training, "before" left out. The files are those of measure_data.py. Runs go where they are
thrown away.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from measure_data import FORMS, written

ROOT = Path(__file__).resolve().parents[1]
_SETTINGS = (
    "data.task=qa",
    "data.splits={train: all, validation: null, test: null}",
    "evaluate.limit=0",
    "train.steps=2",
    "train.epochs=null",
)


class Start(NamedTuple):
    first_step_s: float
    peak_bytes: int


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", type=int, nargs="+", default=[1_000, 20_000])
    options.add_argument("--forms", nargs="+", choices=FORMS, default=["hub", "one-group"])
    options.add_argument("--backends", nargs="+", choices=["torch", "mlx"], default=["torch", "mlx"])
    options.add_argument("--folder", type=Path, help="keep the files there for the next time; default: a folder that goes away")
    given = options.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # every start would compile all that it imports once more
    print("| backend | form | rows | first step done after | peak memory |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as gone:
        for backend in given.backends:
            for form in given.forms:
                for rows in given.sizes:
                    start = measured(_written(given.folder or Path(gone), form=form, rows=rows), backend=backend, out=Path(gone))
                    peak = f"{start.peak_bytes / 1e6:.0f} MB"
                    print(f"| {backend} | {form} | {rows:,} | {start.first_step_s:.1f} s | {peak} |", flush=True)


def _written(folder: Path, *, form: str, rows: int) -> Path:
    """In a process of its own: Linux hands a parent's largest resident set on to its children."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(written, folder, form=form, rows=rows).result()


def measured(data: Path, *, backend: str, out: Path) -> Start:
    settings = [f"data.path={data}", *_SETTINGS]
    command = [sys.executable, "-m", "mlxtune", "finetune", "recipes/charts-tiny.yaml", "--backend", backend]
    command += ["--out", str(out / "runs"), *(part for setting in settings for part in ("--set", setting))]
    begin, first = time.perf_counter(), None
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("step 1/"):
                first = first or time.perf_counter() - begin
        _, status, usage = _wait(process)
    if status or first is None:
        sys.exit("".join(lines))
    return Start(first, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def _wait(process: subprocess.Popen[str]) -> tuple[int, int, resource.struct_rusage]:
    """os.wait4 tells this one child's peak; getrusage would tell the largest of all so far."""
    found = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(found[1])
    return found


if __name__ == "__main__":
    main()
