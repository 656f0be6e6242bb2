"""Runs jobs one after the other, each in a fresh process, and keeps what they tell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.jobs import Job
from benchmarks.machine import load
from benchmarks.store import Store
from benchmarks.works import Work, write

_SCRIPTS = Path(__file__).resolve().parents[1]
_ERROR_LINES = 12


@dataclass
class Runner:
    """folder: of models, rows and results. limit: cut works to this many steps. retry: failed ones again. hours: then stop."""

    folder: Path
    store: Store
    size: str = "50m"
    limit: int | None = None
    retry: bool = False
    device: str = "cpu"
    precision: str = "float32"
    hours: float | None = None

    def __post_init__(self) -> None:
        self._until = time.monotonic() + 3600 * self.hours if self.hours else None

    def job(self, side: str, family: str, work: Work, *, size: str | None = None, **more: Any) -> Job:
        """Its model and rows are made where they are not there yet."""
        work = work.limited(self.limit)
        size = size or self.size
        precision = "" if self.precision == "float32" else f"-{self.precision}"
        model = self.folder / "models" / f"{family}-{size}{precision}"
        models.build(model, family=family, size=size, dtype=self.precision)
        pictures = models.PICTURE[family]
        rows = write(self.folder / "rows" / f"{work.name}-{work.rows}-{pictures}", work, size=(pictures, pictures))
        out = self.folder / "out" / side
        return Job(side, family, work, str(model), str(rows), str(out), self.device, self.precision, **more)

    def run(self, part: str, job: Job, repeat: int = 0) -> dict[str, Any] | None:
        """The result's line, of this run or an earlier one; "error" is in it where the job failed. None when time is up."""
        old = self._done(part, job.key, repeat)
        if old is not None:
            return old
        if self._until is not None and time.monotonic() > self._until:
            return None
        shutil.rmtree(job.out, ignore_errors=True)
        found = self._process(job)
        about = {"side": job.side, "family": job.family, "work": job.work.name, "rows": job.work.rows, "load": load()}
        line = self.store.add(part, job.key, repeat, **about, **found)
        print(f"{part:8} {repeat} {job.key:60} {_told(line)}", flush=True)
        return line

    def _done(self, part: str, key: str, repeat: int) -> dict[str, Any] | None:
        same = (part, key, repeat)
        line = next((line for line in self.store.lines() if (line["part"], line["key"], line["repeat"]) == same), None)
        return None if line is None or ("error" in line and self.retry) else line

    def _process(self, job: Job) -> dict[str, Any]:
        given, told = self.folder / "job.json", self.folder / "result.json"
        given.write_text(json.dumps(job.to_dict()), encoding="utf-8")
        told.unlink(missing_ok=True)
        path = os.pathsep.join([str(_SCRIPTS), os.environ.get("PYTHONPATH", "")])
        settings = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "benchmarks.worker", str(given), str(told)]
        begin = time.monotonic()
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
        wall_s = time.monotonic() - begin
        if done.returncode or not told.exists():
            return {"error": "\n".join((done.stderr or done.stdout).strip().splitlines()[-_ERROR_LINES:]), "wall_s": wall_s}
        return _times(json.loads(told.read_text(encoding="utf-8")), begin=begin) | {"wall_s": wall_s}


def _times(record: dict[str, Any], *, begin: float) -> dict[str, Any]:
    """From the start of the process: import_s, loaded_s, first_step_s, done_s (the adapter or the last answer is there)."""
    steps = record.pop("steps_at")
    times = {f"{name}_s": record.pop(f"{name}_at") for name in ("imported", "loaded", "done")}
    del record["begin_at"]
    return {
        **record,
        **{name: None if value is None else value - begin for name, value in times.items()},
        "first_step_s": steps[0] - begin if steps else None,
        "steps_s": [later - earlier for earlier, later in zip(steps, steps[1:], strict=False)],
    }


def _told(line: dict[str, Any]) -> str:
    if "error" in line:
        return "failed: " + line["error"].splitlines()[-1][:100] if line["error"] else "failed"
    above = (line["memory"] or {}).get("above")
    loss = f"first loss {line['losses'][0]:.5f}  " if line["losses"] else ""
    memory = f"{above / 1e6:.0f} MB above the model" if above else ""
    return f"{line['done_s'] or line['wall_s']:8.1f} s  {loss}{memory}"
