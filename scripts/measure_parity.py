"""How near both backends are to an independent implementation, and to each other: the contract tests' rows and steps, in figures.

    python scripts/measure_parity.py [FAMILY …]

Small random models in the published layouts, float32; the largest difference that is seen. Logits: of all places of the rows
of tests/contract/test_forward.py. Training: 30 LoRA steps on text sites with stored features, MLX against torch, as in
test_steps.py. Cut: 8 rows of a step at once against 4 + 4 and one by one, on both backends, three steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mlxtune.recipe import LoraSpec  # noqa: E402
from tests.contract import test_forward, test_steps  # noqa: E402
from tests.contract.conftest import BACKENDS, opened  # noqa: E402
from tests.helpers import models, oracle  # noqa: E402
from tests.helpers.families import FIXTURES  # noqa: E402
from tests.helpers.training import largest_difference  # noqa: E402

LORA = LoraSpec(rank=4, alpha=8)
COLUMNS = ("family", *(f"logits, {name}" for name in BACKENDS), "loss", "gradient norm, relative", "adapter", "cut: loss")


def logits(folder: Path, backend: str, reference: Any) -> float:
    engine, found = opened(backend, folder), []
    for rows in test_forward.CASES.values():
        batch = test_forward.encoded(engine, rows, everywhere=True)
        theirs = oracle.logits(reference, engine.processor, batch)
        for ours, expected in zip(test_forward.all_logits(engine, batch), theirs, strict=True):
            found.append(float(np.abs(ours - expected[: len(ours)]).max()))
    return max(found)


def training(folder: Path) -> tuple[float, float, float]:
    """Loss, gradient norm and adapter of 30 steps."""
    (ours, adapter), (theirs, other) = (
        test_steps.run(opened(name, folder), test_steps.SPEC, LORA, stored=True) for name in BACKENDS
    )
    pairs = list(zip(ours, theirs, strict=True))
    loss, norm = (max(abs(a.loss - b.loss) for a, b in pairs), max(abs(a.grad_norm / b.grad_norm - 1) for a, b in pairs))
    return loss, norm, largest_difference(adapter, other)


def cut(folder: Path, backend: str) -> float:
    spec = test_steps.SPEC.model_copy(update={"steps": 3, "learning_rate": 1e-4})
    sizes = [spec.model_copy(update={"micro_batch_size": size}) for size in (8, 4, 1)]
    whole, *pieces = (test_steps.run(opened(backend, folder), one, LORA, random_b=True)[0] for one in sizes)
    return max(abs(a.loss - b.loss) for results in pieces for a, b in zip(results, whole, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(FIXTURES))
    families = parser.parse_args().families
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for family in families:
        with tempfile.TemporaryDirectory() as work:
            folder = models.build(family, Path(work), tied=False)
            reference = oracle.load(folder)
            figures = [logits(folder, name, reference) for name in BACKENDS]
            figures += [*training(folder), max(cut(folder, name) for name in BACKENDS)]
        print(f"| {family} | {' | '.join(f'{figure:.1e}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    main()
