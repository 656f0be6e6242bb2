"""Speed and memory beside the other trainers, on the same rows, with the same result; all sides alternate in one run.

    python scripts/bench.py [--repeats 5] [--families qwen2_5_vl smolvlm] [--works W1 W2 W3 G1] [--sides …] [--folder DIR]
    python scripts/bench.py --size tiny --limit 2 --repeats 1        try the script out
    python scripts/bench.py --only growth                            a part alone: check time share lean start growth table
    python scripts/bench.py --cuda                                   true sizes in bfloat16, on a CUDA machine

Every run is a process of its own, and every result a line of DIR/results.jsonl as soon as it is there: started again, the
benchmark goes on where it was. DIR/bench.json and DIR/bench.md are the results. Needs the packages of
scripts/benchmarks/requirements.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks import cuda, machine, parts
from benchmarks.figures import Results
from benchmarks.models import FAMILIES, SIZES
from benchmarks.runner import Runner
from benchmarks.sides import ANSWERERS, TRAINERS
from benchmarks.store import Store
from benchmarks.table import page
from benchmarks.works import GROWTH, WORKS

ROOT = Path(__file__).resolve().parents[1]
_PARTS = ("check", "time", "share", "lean", "start", "growth", "table")


def main() -> None:
    given = _options().parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # every run would compile all that it imports once more
    if given.threads:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(given.threads)
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if given.cuda:
        cuda.main(folder, repeats=given.repeats, retry=given.retry)
        return
    store = Store(folder / ("results.jsonl" if not given.limit else f"results-cut-{given.limit}-{given.size}.jsonl"))
    runner = Runner(folder, store, size=given.size, limit=given.limit, retry=given.retry, hours=given.hours)
    about = machine.describe()
    wanted = given.only or _PARTS
    if "check" in wanted and not parts.check(runner, given.families, given.sides):
        sys.exit("bench: the sides do not learn the same, so that their times say nothing")
    if "time" in wanted:
        parts.timings(runner, given.families, given.works, given.sides, repeats=given.repeats)
    if "share" in wanted:
        parts.shares(runner, given.families, given.sides, repeats=given.repeats)
    if "lean" in wanted:
        parts.lean(runner, given.families, [work for work in given.works if work in ("W2", "W3")], given.sides)
    if "start" in wanted:
        parts.first_steps(runner, repeats=given.repeats)
    if "growth" in wanted:
        parts.growth(runner, rows=given.rows, size=given.growth_size)
    least = parts.least_work(runner, given.families)
    _write(folder, Results(store.lines()), about, given, least)


def _write(folder: Path, results: Results, about: dict, given: argparse.Namespace, least: dict) -> None:
    text = page(results, machine=about, families=given.families, least=least, cut=given.limit is not None)
    content = {"machine": about, "least_flops": least, "results": list(results.lines)}
    (folder / "bench.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "bench.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{folder / 'bench.md'}, {folder / 'bench.json'}")


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=5, help="runs of every side and work; medians are told")
    options.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    options.add_argument("--sides", nargs="+", choices=[*TRAINERS, *ANSWERERS], default=[*TRAINERS, *ANSWERERS])
    options.add_argument("--only", nargs="+", choices=_PARTS, help="parts to run; default: all")
    options.add_argument("--size", choices=SIZES[:2], default="50m", help="of the models")
    options.add_argument("--limit", type=int, help="cut every work to this many steps; its results are kept apart")
    options.add_argument("--rows", type=int, nargs="+", default=[work.rows for work in GROWTH], help="sizes of the growth part")
    options.add_argument("--growth-size", choices=SIZES[:2], default="tiny", help="of the growth part's model")
    options.add_argument("--threads", type=int, help="threads of every side; default: as each library takes")
    options.add_argument("--hours", type=float, help="start no further run after this time")
    options.add_argument("--retry", action="store_true", help="try again what failed before")
    options.add_argument("--folder", type=Path, default=ROOT / "runs" / "bench", help="models, rows and results")
    options.add_argument("--cuda", action="store_true", help="true sizes on a graphics card instead")
    return options


if __name__ == "__main__":
    main()
