"""Settings of the process that libraries read when they are loaded."""

from __future__ import annotations

import os

import pytest

from mlxtune.process import set_up_libraries

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own, without a word about waiting threads."""
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name not in WAITING})


def test_threads_of_torch_wait_awake_for_a_moment() -> None:
    set_up_libraries()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE" and 0 < int(os.environ["GOMP_SPINCOUNT"]) < 300_000


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("TRANSFORMERS_VERBOSITY", "info")])
def test_what_the_user_has_set_stays(name: str, value: str) -> None:
    os.environ[name] = value
    set_up_libraries()
    assert os.environ[name] == value
    assert ("GOMP_SPINCOUNT" in os.environ) == (name != "OMP_WAIT_POLICY")
