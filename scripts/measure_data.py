"""Memory and speed of the loader: the same small rows 1,000, 20,000 and 100,000 times, each size in a process of its own.

    python scripts/measure_data.py [--sizes 1000 20000 100000] [--forms hub one-group jsonl] [--folder /tmp/measured]

hub: Parquet as the hub writes it, 100 rows a row group. one-group: all rows in one row group. jsonl: beside an image folder.
Four rows share a picture. Peak memory is the process's largest resident set: Python, numpy and pyarrow are in it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

FORMS = ("hub", "one-group", "jsonl")
_EACH = 4  # questions a picture
_LOAD = """
import json, random, resource, sys, time
import numpy, PIL.Image, pyarrow.parquet
import mlxtune.data
from mlxtune.recipe.spec import DataSpec

def peak():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux hands a parent's ru_maxrss on to its children.
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

begin, begin_cpu = time.perf_counter(), time.process_time()
data = mlxtune.data.load_data(DataSpec(task="qa", path=sys.argv[1]))
load_s, cpu_s = time.perf_counter() - begin, time.process_time() - begin_cpu
loaded = peak()
begin = time.perf_counter()
train = data.splits["train"]
for place in random.Random(0).sample(range(len(train)), 200):
    train[place].images[0].load()
print(json.dumps({
    "load_s": load_s, "cpu_s": cpu_s, "read_s": (time.perf_counter() - begin) / 200, "loaded": loaded, "peak": peak(),
}))
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", type=int, nargs="+", default=[1_000, 20_000, 100_000])
    options.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    options.add_argument("--folder", type=Path, help="keep the files there for the next time; default: a folder that goes away")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as gone:
        measure(given.folder or Path(gone), sizes=given.sizes, forms=given.forms)


def measure(folder: Path, *, sizes: list[int], forms: list[str]) -> None:
    heads = ("form", "rows", "load", "CPU", "rows/s", "peak when loaded", "above the smallest", "after 200 pictures", "a picture")
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    for form in forms:
        least = None
        for rows in sizes:
            path = written(folder, form=form, rows=rows)
            done = subprocess.run([sys.executable, "-c", _LOAD, str(path)], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{path}: {done.stderr.strip().splitlines()[-1]}")
            seen = json.loads(done.stdout)
            least = least or seen
            cells = [form, f"{rows:,}", f"{seen['load_s']:.2f} s", f"{seen['cpu_s']:.2f} s", f"{rows / seen['load_s']:,.0f}"]
            cells += [f"{seen['loaded'] / 1e6:.0f} MB"]
            cells += [f"{(seen[when] - least[when]) / 1e6:+.0f} MB" for when in ("loaded", "peak")]
            cells += [f"{1000 * seen['read_s']:.1f} ms"]
            print(f"| {' | '.join(cells)} |", flush=True)


def written(folder: Path, *, form: str, rows: int) -> Path:
    """The data set's file; made where it is not there yet."""
    place = folder / f"{form}-{rows}"
    path = place / ("train.jsonl" if form == "jsonl" else "train.parquet")
    if path.exists():
        return path
    place.mkdir(parents=True, exist_ok=True)
    if form == "jsonl":
        _write_jsonl(place, rows)
    else:
        _write_parquet(path, rows, group=100 if form == "hub" else rows)
    return path


def _write_jsonl(place: Path, rows: int) -> None:
    (place / "images").mkdir(exist_ok=True)
    with (place / "part").open("w", encoding="utf-8") as lines:
        for number in range(rows):
            name = f"images/{number // _EACH}.png"
            if number % _EACH == 0:
                (place / name).write_bytes(_png(number // _EACH))
            lines.write(json.dumps(_row(number) | {"image": name}) + "\n")
    (place / "part").rename(place / "train.jsonl")


def _write_parquet(path: Path, rows: int, *, group: int) -> None:
    import pyarrow
    from pyarrow import parquet

    picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [("id", pyarrow.string()), ("question", pyarrow.string()), ("answer", pyarrow.string()), ("image", picture)]
    )
    with parquet.ParquetWriter(path.with_suffix(".part"), schema) as writer:
        for items in _pieces(rows, group):
            writer.write_table(pyarrow.Table.from_pylist(items, schema=schema), row_group_size=group)
    path.with_suffix(".part").rename(path)


def _pieces(rows: int, size: int) -> Iterator[list[dict]]:
    for first in range(0, rows, size):
        yield [
            _row(number) | {"image": {"bytes": _png(number // _EACH), "path": None}}
            for number in range(first, min(rows, first + size))
        ]


def _row(number: int) -> dict[str, str]:
    answer = str(number * 7919 % 1000)
    return {"id": f"row-{number}", "question": f"What is the value of bar {number % 12} in chart {number}?", "answer": answer}


def _png(number: int) -> bytes:
    """Some 6 kB that no compression of a table makes smaller, as in real pictures."""
    import io

    import numpy as np
    from PIL import Image

    stream = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (64, 96), np.uint8)
    Image.fromarray(noise).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


if __name__ == "__main__":
    main()
