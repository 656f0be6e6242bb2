"""Settings that libraries read when they are loaded, so they stand before any test imports one."""

import gc
import os
import tempfile

import pytest

# Waiting threads of torch leave the cores to the tests beside, at once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The models are tiny, and tests run beside each other: one thread each.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# Half a million objects of torch and transformers, and at Python's 700 they are gone through again and again.
gc.set_threshold(100_000)
# Tests need no hub, and must not wait for one.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What runs keep for later runs stays out of the user's cache.
_cache = tempfile.TemporaryDirectory(prefix="mlxtune-cache-")
os.environ["MLXTUNE_CACHE"] = _cache.name


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """For runs that are compared: a report takes longer than a small run, and only reads its folder."""
    monkeypatch.setattr("mlxtune.finetune.write_report", lambda *_, **__: None)
