"""The process of one job: python -m benchmarks.worker JOB.json RESULT.json"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

_BEGIN = time.monotonic()


def main() -> None:
    from benchmarks.jobs import Job, Record
    from benchmarks.machine import prefer_openblas
    from benchmarks.memory import Meter
    from benchmarks.sides import SIDES

    job = Job.from_dict(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    side = SIDES[job.side]
    if side.framework == "mlx":
        prefer_openblas()
    record = Record(Meter("cuda" if job.device == "cuda" else side.framework))
    Path(job.out).mkdir(parents=True, exist_ok=True)
    side.load()(job, record)
    result = {"begin_at": _BEGIN, **record.to_dict()}
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
