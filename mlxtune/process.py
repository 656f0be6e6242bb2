"""What holds for the whole process: settings that libraries read when they are loaded, and what they need not load."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec, module_from_spec
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
    # What they would print between our lines.
    settings = {"TRANSFORMERS_VERBOSITY": "error", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if not sys.stderr.isatty():  # on a terminal, a download of gigabytes needs its bar
        settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    if "OMP_WAIT_POLICY" not in os.environ:
        # torch's threads wait for each other thousands of times a step. Where they spin for long, a step takes 40 times as long
        # beside one other busy process; where they sleep at once, waking them is a third of it. The count goes before the policy.
        settings |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)


@contextmanager
def spared_imports(backend: str) -> Iterator[None]:
    """transformers loads what it finds installed, for seconds: here it finds no torch where MLX computes, and otherwise neither
    scipy (for the losses of object detection), nor torch's parts for several cards, nor its compiler.

    Does nothing where the process is not ours, or where transformers has looked already.
    """
    if not _own or "transformers" in sys.modules:
        yield
        return
    hide = backend == "mlx" and "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]  # how Python marks a module that cannot be imported
    from transformers import utils

    if hide:
        del sys.modules["torch"]
    for question in ("is_scipy_available", "is_torch_distributed_available"):
        for module in (utils, utils.import_utils):
            setattr(module, question, _no)
    with _without_compiler() if backend == "torch" else nullcontext():
        yield


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Inside, `torch._dynamo` is nothing but decorators that do nothing, and its submodules.

    They tell the compiler what to leave alone. What is loaded here never meets it: only a model's layers are compiled, later.
    """
    spec = find_spec("torch._dynamo")  # loads torch
    torch = sys.modules["torch"]
    if "torch._dynamo" in sys.modules or spec is None or torch.cuda.is_available():  # bitsandbytes compiles when it is loaded
        yield
        return
    stand_in = module_from_spec(spec)
    for name in ("disable", "allow_in_graph", "assume_constant_result"):
        setattr(stand_in, name, _undecorated)
    sys.modules["torch._dynamo"] = torch._dynamo = stand_in
    try:
        yield
    finally:
        del sys.modules["torch._dynamo"], torch._dynamo


def _undecorated(function: Any = None, *_: Any, **__: Any) -> Any:
    return _undecorated if function is None else function


def _no() -> bool:
    return False
