"""Time and peak memory of one LoRA step for each family, on narrow random models with true vocabularies and true pictures.

    python scripts/measure_families.py [--backends torch mlx] [--steps 5] [--threads 1] [--assets ../shared/assets]

The layers are two to four and 64 wide (towers: 32; Donut's: 8 to 64), so the figures say what a family's picture and vocabulary
cost here, and nothing about a model of true size. One chart of 850 x 600 pixels, one question, the published picture settings,
float32, rank 16 on attention and mlp, features from the store. Vision: the picture's pixels through the frozen tower. Of several
times the shortest counts. Each measurement is a process of its own; memory is what the steps add to the loaded process's peak, on
torch as the system counts it, on MLX as MLX does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.memory import Meter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Of these no published files are at hand; what lends them tokenizer and picture settings has the same or nearly so.
STAND_INS = {"qwen3_vl": "Qwen2.5-VL-3B-Instruct", "smolvlm": "SmolVLM-256M-Instruct", "moondream2_phi": "moondream2"}


def one(folder: Path, backend: str, *, steps: int) -> dict[str, Any]:
    """Measured in this process."""
    import numpy as np
    from PIL import Image

    from mlxtune.adapters import new_adapter
    from mlxtune.batching import micro_batches
    from mlxtune.engine import open_engine
    from mlxtune.images import image_ref
    from mlxtune.recipe import LoraSpec, ModelSpec
    from mlxtune.types import Example

    engine = open_engine(folder, ModelSpec(path=str(folder), precision="float32"), backend=backend)
    noise = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    image = image_ref(Image.fromarray(noise).resize((850, 600)))
    content = [{"type": "image"}, {"type": "text", "text": "How tall is the first bar?"}]
    row = Example("0", [{"role": "user", "content": content}], "", "forty two", ("forty two",), (image,))
    pixels = [engine.processor.pixels(image)]
    vision_s = fastest(lambda: engine.backend.vision_features(pixels), times=3)
    engine.keep_features()
    adapter = new_adapter(engine.backend.linears(), engine.family, LoraSpec(rank=16, alpha=32), seed=0)
    engine.backend.attach(adapter, weight_decay=0.0)
    encoded = engine.processor.encode(row, max_tokens=None, answer=True)
    batches = list(micro_batches([encoded], size=1, pad_id=engine.processor.pad_id, pictures=engine.pictures))
    meter = Meter(backend)
    meter.start()
    step_s = fastest(lambda: engine.backend.train_step(batches, lr=1e-4, clip=1.0, seed=0), times=steps)
    tokens, added = pixels[0].tokens, meter.result()["above"]
    return {"tokens": tokens, "row": len(encoded.input_ids), "vision_s": vision_s, "step_s": step_s, "bytes": added}


def fastest(call: Callable[[], Any], *, times: int) -> float:
    """Seconds."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["torch", "mlx"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch and OpenBLAS; more than one wait for other work")
    parser.add_argument("--assets", type=Path, default=ROOT.parent / "shared" / "assets")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(Path(given.one[0]), given.one[1], steps=given.steps)))
        return
    from tests.helpers import models
    from tests.helpers.families import FIXTURES

    print("| family | files of | backend | picture tokens | row | vision pass, s | step, s | memory of the step, MB |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        for family, fixture in FIXTURES.items():
            names = (*fixture.assets, STAND_INS.get(family, "none"))
            source = next((given.assets / name for name in names if (given.assets / name).is_dir()), None)
            folder = models.build(family, Path(work) / family, tied=fixture.layouts[0][0], assets=source)
            for backend in given.backends:
                call = [sys.executable, __file__, "--one", str(folder), backend, "--steps", str(given.steps)]
                threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(given.threads))
                ended = subprocess.run(call, capture_output=True, text=True, check=False, env={**os.environ, **threads})
                if ended.returncode:
                    raise SystemExit(f"{family} on {backend}:\n{ended.stderr}")
                told = json.loads(ended.stdout.splitlines()[-1])
                named = source.name if source else "a small tokenizer"
                print(
                    f"| {family} | {named} | {backend} | {told['tokens']} | {told['row']} | {told['vision_s']:.2f} "
                    f"| {told['step_s']:.2f} | {told['bytes'] / 1e6:,.0f} |"
                )


if __name__ == "__main__":
    main()
