"""Servers that misbehave, and processes that are killed: every picture gets its caption, and none is paid for twice."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.caption_servers import (
    FAULTS,
    FakeServer,
    annotations,
    describe,
    describe_in_process,
    pictures,
    serving,
    some_faults,
)

COUNT = 500
KILLS = 20
AT_ONCE = 4
KINDS = ("gigachat", "openai")


def by_id(folder: Path) -> list[dict[str, Any]]:
    return sorted(annotations(folder), key=lambda row: row["id"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_over_500_pictures(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, COUNT)
    with serving(monkeypatch, kind, plan=some_faults()) as server:
        outcome = describe(tmp_path, kind)
        rows = annotations(tmp_path)
        assert (outcome.stopped, outcome.tally.failures, outcome.tally.done) == (None, [], COUNT)
        assert len(rows) == len({row["id"] for row in rows}) == len({row["answer"] for row in rows}) == COUNT
        assert not any("flag" in row for row in rows)
        assert set(server.faults) == {*FAULTS, "401"} and server.faults["401"] == 1
        # One reply per picture; the empty ones were paid for too, and had to be asked for again.
        assert server.total == COUNT and max(server.served.values()) == 1
        assert outcome.tally.replies == COUNT + server.faults["empty"]
        assert outcome.tally.prompt_tokens == 100 * outcome.tally.replies
        if kind == "gigachat":
            assert server.tokens >= 2, "the first, which runs out, and a new one"
            assert len(server.deleted) == server.uploaded, "nothing stays in the account's files"
        asked = len(server.asked_at)
        describe(tmp_path, kind)
        assert len(server.asked_at) == asked, "a second run pays for nothing"
        assert annotations(tmp_path) == rows


@pytest.mark.parametrize("kind", KINDS)
def test_20_kills_change_nothing_but_time(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        pictures(folder, COUNT)
    with serving(monkeypatch, kind):
        describe(whole, kind)
    faults = tuple(fault for fault in FAULTS if fault not in ("time-out", "429 date", "empty"))
    with serving(monkeypatch, kind, plan=some_faults(share=0.1, kinds=faults), latency_s=0.004) as server:
        kill_again_and_again(killed, kind, server)
        outcome = describe(killed, kind, concurrency=AT_ONCE)
        served = Counter(server.served)
    assert outcome.tally.failures == []
    assert by_id(killed) == by_id(whole)
    # A kill loses what was in flight: at most one reply of each thread.
    assert sum(served.values()) <= COUNT + KILLS * AT_ONCE
    assert len(served) == COUNT
    review = (killed / "annotations.review.csv").read_text(encoding="utf-8-sig")
    assert len(review.splitlines()) == COUNT + 1


def kill_again_and_again(folder: Path, kind: str, server: FakeServer) -> None:
    """Starts a process, lets it get a random number of replies and a random moment more, and kills it; KILLS times."""
    # Processes of their own, forked from one that has loaded the libraries once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.caption_servers", "openai", "gigachat.client", "filelock"])
    drawn = random.Random(1)
    for _ in range(KILLS):
        arguments = (str(folder), kind, server.environment, {"concurrency": AT_ONCE})
        process = context.Process(target=describe_in_process, args=arguments, daemon=True)
        process.start()
        assert server.wait_for(server.total + drawn.randrange(1, COUNT // (KILLS + 2))), "nothing was served"
        time.sleep(drawn.uniform(0, 0.01))
        process.kill()
        process.join()
        assert process.exitcode == -9
