"""Trackers are told what the terminal is told, and are closed however a run ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mlxtune.errors import RecipeError
from mlxtune.events import Evaluated, Event, Notice, StepDone, Validated
from mlxtune.metrics import Score
from mlxtune.recipe import DataSpec, ModelSpec, Recipe, ReportSpec
from mlxtune.runs import RunFolder
from mlxtune.trackers import check_trackers, tracked

EVENTS: list[Event] = [
    Evaluated("before", {"exact_match": Score(0.0, 2, 0), "bleu": Score(None, 0, 2)}, 1.0),
    StepDone(1, 2, 4.0, 1e-3, 0.5, tokens=100, supervised_tokens=8, samples=4, wall_s=2.0, peak_bytes=7),
    StepDone(2, 2, 3.0, 5e-4, 0.4, tokens=100, supervised_tokens=8, samples=4, wall_s=2.0, peak_bytes=7),
    Validated(2, "loss", 2.5, 2.5, best=True, scores={"exact_match": 0.5, "bleu": None}),
    Notice("nothing that a tracker knows"),
    Evaluated("after/charts", {"exact_match": Score(0.75, 2, 0)}, 1.0),
]
TOLD = {
    ("before/exact_match", 0): 0.0,
    ("train/loss", 1): 4.0,
    ("train/loss", 2): 3.0,
    ("train/learning_rate", 2): 5e-4,
    ("train/tokens_per_s", 1): 50.0,
    ("train/samples_per_s", 2): 2.0,
    ("validation/loss", 2): 2.5,
    ("validation/exact_match", 2): 0.5,
    ("after/charts/exact_match", 2): 0.75,
}


def recipe(*names: str) -> Recipe:
    return Recipe(model=ModelSpec(path="m"), data=DataSpec(path="d"), report=ReportSpec(trackers=list(names)))


class Session:
    """What wandb.init and trackio.init give."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.told, self.finished = settings, {}, False

    def log(self, values: dict[str, float], step: int) -> None:
        self.told |= {(name, step): value for name, value in values.items()}

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    opened: list[Session] = []

    def init(**settings: Any) -> Session:
        opened.append(Session(**settings))
        return opened[-1]

    for name in ("wandb", "trackio"):
        module = ModuleType(name)
        vars(module).update(init=init, __spec__=SimpleNamespace(name=name))
        monkeypatch.setitem(sys.modules, name, module)
    return opened


def test_wandb_and_trackio_hear_every_number(sessions: list[Session], tmp_path: Path) -> None:
    seen: list[Event] = []
    with tracked(seen.append, recipe("wandb", "trackio"), RunFolder(tmp_path / "charts-1")) as told:
        for event in EVENTS:
            told(event)
    assert seen == EVENTS
    for session in sessions:
        assert TOLD.items() <= session.told.items() and session.finished
        assert all(value is not None for value in session.told.values())
        assert session.settings["project"] == "mlxtune" and session.settings["name"] == "charts-1"
        assert session.settings["resume"] == "allow" and session.settings["config"]["model"]["path"] == "m"
    assert len(sessions) == 2 and sessions[0].settings["id"] == "charts-1"


def test_a_tracker_is_closed_by_an_error_too(sessions: list[Session], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), tracked(lambda event: None, recipe("trackio"), RunFolder(tmp_path)):
        raise KeyboardInterrupt
    assert sessions[0].finished


def test_tensorboard_files_hold_every_number(tmp_path: Path) -> None:
    record = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed")
    with tracked(lambda event: None, recipe("tensorboard"), RunFolder(tmp_path)) as told:
        for event in EVENTS:
            told(event)
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = {(value.tag, event.step): value.simple_value for event in read(file, record.Event) for value in event.summary.value}
    assert found.keys() >= TOLD.keys()
    assert all(found[key] == pytest.approx(value) for key, value in TOLD.items())


def read(file: Path, event: Callable[[], Any]) -> list[Any]:
    """Records of a TFRecord file: length (8 bytes), its checksum (4), content, checksum (4)."""
    content, events = file.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        events.append(event())
        events[-1].ParseFromString(content[12 : 12 + length])
        content = content[16 + length :]
    return events


def test_a_tracker_that_is_not_installed_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"report.trackers: wandb is not installed. Run: pip install 'mlxtune\[wandb\]'"):
        check_trackers(["wandb"])
    check_trackers([])
