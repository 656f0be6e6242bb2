"""Every family of the registry on every backend; a family that the helpers cannot build fails here, it is not left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxtune.backends import installed
from mlxtune.engine import Engine, open_engine
from mlxtune.families import FAMILIES
from mlxtune.recipe import ModelSpec
from tests.helpers import models, oracle

BACKENDS = ("mlx", "torch")
Open = Callable[..., Engine]


@pytest.fixture(scope="session", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"backend '{request.param}' is not installed")
    return request.param


@pytest.fixture
def both() -> tuple[str, str]:
    missing = [name for name in BACKENDS if not installed(name)]
    if missing:
        pytest.skip(f"needs both backends; not installed: {', '.join(missing)}")
    return BACKENDS


@pytest.fixture(scope="session")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the family as the hub publishes it, with a head of its own."""
    pytest.importorskip("torch", reason="the random models are made with torch")
    return models.build(family, tmp_path_factory.mktemp(family), tied=False)


@pytest.fixture(scope="session")
def reference(folder: Path) -> Any:
    return oracle.load(folder)


def opened(name: str, at: Path, **settings: Any) -> Engine:
    spec = ModelSpec(path=str(at), **{"precision": "float32", **settings})
    return open_engine(at, spec, backend=name)


@pytest.fixture
def open_at() -> Open:
    """Opens the model of a folder on a backend, in float32 unless told otherwise."""
    pytest.importorskip("torch", reason="the random models are made with torch")
    return opened


@pytest.fixture
def open_(folder: Path) -> Open:
    """Opens the family's model on a backend, in float32 unless told otherwise."""
    return lambda name, at=None, **settings: opened(name, at or folder, **settings)


@pytest.fixture
def engine(open_: Open, backend: str) -> Engine:
    return open_(backend)
