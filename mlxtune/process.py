"""What holds for the whole process: settings that libraries read when they are loaded, and what they need not load."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from typing import Any

_own = False


def own_process() -> None:
    """To be called once, where nothing but mlxtune runs in this process: it may then change what other libraries do."""
    global _own
    _own = True
    set_up_libraries()
    # Nearly all that a start makes stays: at Python's 700 the collector takes a fifth of it, going through the same again.
    gc.set_threshold(100_000)
    # At the end it would go through all that torch and transformers have made, for two seconds.
    atexit.register(gc.freeze)


def set_up_libraries() -> None:
    """What they read from the environment when they are loaded; a value that the user has set stays."""
    # torch's threads spin while they wait for each other: beside one other busy process, steps took 40 times as long.
    settings = {"OMP_WAIT_POLICY": "PASSIVE"}
    # What they would print between our lines.
    settings |= {"TRANSFORMERS_VERBOSITY": "error", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if not sys.stderr.isatty():  # on a terminal, a download of gigabytes needs its bar
        settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def spare_imports(backend: str) -> None:
    """transformers loads what it finds installed, for seconds: here it finds no torch where MLX computes, and otherwise neither
    scipy (for the losses of object detection) nor torch's parts for several cards.

    Does nothing where the process is not ours, or where transformers has looked already.
    """
    if not _own or "transformers" in sys.modules:
        return
    if backend == "mlx" and "torch" not in sys.modules:
        sys.modules["torch"] = _MISSING
        from transformers import utils

        del sys.modules["torch"]
    else:
        # torch's compiler, which transformers loads for its decorators, asks for this and does without.
        sys.modules.setdefault("torch.distributed.fsdp", _MISSING)
        from transformers import utils
    for question in ("is_scipy_available", "is_torch_distributed_available"):
        for module in (utils, utils.import_utils):
            setattr(module, question, _no)


_MISSING: Any = None  # how Python marks a module that cannot be imported


def _no() -> bool:
    return False
