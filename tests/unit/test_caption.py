"""`mlxtune caption` as a whole, against servers of our own."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from rich.console import Console

from mlxtune.caption import registry
from mlxtune.caption.retry import RetryPolicy
from mlxtune.caption.view import CaptionView
from mlxtune.cli.run_caption import caption as command
from mlxtune.errors import DataError, MlxtuneError
from tests.helpers.caption_servers import NAMES, FakeServer, annotations, describe, fitting, pictures, serving

ROOT = Path(__file__).parents[2]
KINDS = ("gigachat", "openai")


@pytest.mark.parametrize("kind", KINDS)
def test_captions_and_questions_in_the_promised_form(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 6)
    with serving(monkeypatch, kind) as server:
        outcome = describe(tmp_path, kind, captions=2, questions=3, concurrency=2)
        rows = annotations(tmp_path)
        assert len(rows) == 6 * 5 and len({row["id"] for row in rows}) == len(rows)
        assert server.total == outcome.tally.requests == outcome.plan.requests == 6 * 3
        if kind == "gigachat":
            assert server.uploaded == len(server.deleted) == 6, "one upload serves all requests about a picture"
            assert server.most_kept <= 2, "an upload goes when its picture is done"
    (row,) = [row for row in rows if row["id"] == [r for r in rows if r["class"] == "baba"][0]["id"]]
    assert {key: row[key] for key in ("class", "kind", "captioner", "model")} == {
        "class": "baba",
        "kind": "caption",
        "captioner": kind,
        "model": "fake",
    }
    assert row["names"] == ["Баба-Яга", "Яга", "Бабу-Ягу", "Бабой-Ягой"]
    assert (tmp_path / row["image"]).is_file() and re.fullmatch("[0-9a-f]{64}", row["image_sha256"])
    for row in rows:
        names = row["names"]
        assert row["question"] and not any(name.lower() in row["question"].lower() for name in names)
        assert names[0] in row["answer"]
    assert all("{" not in prompt.replace('{"question"', "") for prompt in server.prompts), "a placeholder was sent"
    counts = {item.name: (item.pictures, item.complete, item.captions, item.questions) for item in outcome.classes}
    assert counts == {name: (2, 2, 4, 6) for name in NAMES}


def test_only_new_pictures_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path, 6)
    with serving(monkeypatch, "openai") as server:
        describe(tmp_path, "openai")
        before = annotations(tmp_path)
        (folder / "baba/000.png").rename(folder / "baba/renamed.png")
        Image.new("RGB", (9, 9)).save(folder / "baba/new.png")
        describe(tmp_path, "openai")
        assert server.total == 7
        after = annotations(tmp_path)
        assert [row["id"] for row in after][:6] == [row["id"] for row in before]
        assert {row["image"] for row in after} == {path.relative_to(tmp_path).as_posix() for path in folder.glob("*/*.png")}


def test_more_of_a_picture_costs_only_the_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 3)
    with serving(monkeypatch, "openai", answer=numbered()) as server:
        describe(tmp_path, "openai", captions=1, questions=2)
        assert server.total == 6
        describe(tmp_path, "openai", captions=2, questions=5)
        assert server.total == 12
        rows = annotations(tmp_path)
        assert len(rows) == 3 * 7 and len({(row["image"], row["question"], row["id"]) for row in rows}) == 21
        further = [prompt for prompt in server.prompts if "ровно 3" in prompt]
        assert len(further) == 3 and all("не повторяй" in prompt and "Вопрос" in prompt for prompt in further)
        describe(tmp_path, "openai", captions=1, questions=1)
        assert server.total == 12 and len(annotations(tmp_path)) == 21


def numbered():
    """Questions that go on counting, so that no two are alike."""
    lock, number = threading.Lock(), [0]

    def answer(digest: str, prompt: str) -> str:
        text = fitting(digest, prompt)
        if text.startswith("["):
            pairs = json.loads(text)
            with lock:
                for pair in pairs:
                    number[0] += 1
                    pair["question"] = f"Вопрос {number[0]}?"
            return json.dumps(pairs, ensure_ascii=False)
        return text

    return answer


def test_a_caption_without_the_name_is_asked_for_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 6)

    def forgetful(digest: str, prompt: str) -> str:
        if "Кощей" in prompt:
            return f"Это кто-то, {digest[:9]}"
        return fitting(digest, prompt) if "прошлом ответе" in prompt else f"Это старуха, {digest[:9]}"

    with serving(monkeypatch, "openai", answer=forgetful) as server:
        outcome = describe(tmp_path, "openai")
        rows = annotations(tmp_path)
        assert server.total == 12 and len(rows) == 6
        assert {row["class"] for row in rows if row.get("flag") == "no name"} == {"koshei"}
        assert (outcome.tally.flagged, {item.name: item.flagged for item in outcome.classes}) == (
            2,
            {"baba": 0, "koshei": 2, "vasilisa": 0},
        )
        describe(tmp_path, "openai")
        assert server.total == 12, "what was asked twice is not asked again"


def test_flagged_captions_may_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 3)
    with serving(monkeypatch, "openai", answer=lambda digest, _: f"someone {digest[:9]}") as server:
        describe(tmp_path, "openai", retry_flagged=False)
        assert server.total == 3 and all(row["flag"] == "no name" for row in annotations(tmp_path))
        describe(tmp_path, "openai")  # now they stand in the review file: a person's
        assert server.total == 3


@pytest.mark.parametrize("kind", KINDS)
def test_bad_json_is_asked_for_again_and_counted(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 6)
    seen: dict[str, int] = {}
    bad = ["Конечно! Вот вопросы:", '[{"question": "Кто это?", "answer": null}]']

    def stumbling(digest: str, prompt: str) -> str:
        seen[digest] = seen.get(digest, 0) + 1
        stubborn = "Василиса" in prompt
        return bad[(seen[digest] - 1) % 2] if stubborn or seen[digest] <= 2 else fitting(digest, prompt)

    with serving(monkeypatch, kind, answer=stumbling):
        outcome = describe(tmp_path, kind, captions=0, questions=2, concurrency=1)
    assert outcome.tally.retries == {"bad JSON": 6, "JSON of another form": 6}
    assert [failure.reason for failure in outcome.tally.failures] == ["bad JSON"] * 2
    assert len(annotations(tmp_path)) == 4 * 2
    failed = [json.loads(line) for line in outcome.failed.read_text(encoding="utf-8").splitlines()]
    assert [(line["class"], line["reason"]) for line in failed] == [("vasilisa", "bad JSON")] * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fault", "reason"), [("400", "bad request"), ("413", "picture too large"), ("content filter", None)])
def test_a_refused_picture_does_not_stop_the_others(
    kind: str, fault: str, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path, 9)
    (tmp_path / "images/baba/broken.png").write_bytes(b"no picture")
    with serving(monkeypatch, kind, plan=lambda number: fault if number in (1, 3, 4) else None) as server:
        outcome = describe(tmp_path, kind, concurrency=2)
        reasons = sorted(failure.reason for failure in outcome.tally.failures)
        assert reasons == sorted([reason or "content filter"] * 3 + ["picture unreadable"])
        assert outcome.stopped is None and len(annotations(tmp_path)) == 6 and not outcome.tally.retries
        assert outcome.failed.exists()
        (tmp_path / "images/baba/broken.png").unlink()
        again = describe(tmp_path, kind)
        assert len(annotations(tmp_path)) == 9 and server.total == 9
        assert not again.failed.exists()


@pytest.mark.parametrize(
    ("kind", "fault", "most", "message"),
    [
        ("openai", "401", 16, "wrong credentials"),
        ("gigachat", "401", 16, "wrong credentials"),
        ("openai", "402", 4, "no credit"),
        ("openai", "404", 4, "no such model"),
        ("openai", "400", 12, "in a row failed alike"),
        ("openai", "500", 30, "in a row failed alike"),
    ],
)
def test_hopeless_from_the_start_stops_early(
    kind: str, fault: str, most: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path, 60)
    with serving(monkeypatch, kind, plan=lambda _: fault) as server:
        outcome = describe(tmp_path, kind, concurrency=4, policy=RetryPolicy(attempts=3, backoff_s=0.001))
        assert outcome.stopped and message in outcome.stopped and "\n" not in outcome.stopped
        assert len(server.asked_at) <= most


def test_requests_at_once_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 30)
    with serving(monkeypatch, "openai", latency_s=0.02) as server:
        describe(tmp_path, "openai", concurrency=5)
        assert 2 <= server.busiest <= 5


def test_a_limit_shows_something_of_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 30)
    with serving(monkeypatch, "openai") as server:
        outcome = describe(tmp_path, "openai", limit=3)
        assert sorted(row["class"] for row in annotations(tmp_path)) == sorted(NAMES)
        assert outcome.plan.waiting == 27
        describe(tmp_path, "openai", limit=0)
        assert server.total == 3


def test_a_dry_run_changes_nothing_and_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 6)
    with serving(monkeypatch, "openai") as server:
        describe(tmp_path, "openai", limit=2)
        file = tmp_path / "annotations.jsonl"
        file.write_bytes(file.read_bytes() + b'{"half')
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        outcome = describe(tmp_path, "nobody", captions=2, questions=3, dry_run=True)
        assert outcome.plan.requests == 4 * 3 + 2 * 2
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert server.total == 2


def test_a_class_without_a_name_is_refused_before_anything_is_paid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path, 3)
    (folder / "leshy").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "leshy/1.png")
    with serving(monkeypatch, "openai") as server:
        with pytest.raises(DataError, match="no name for 'leshy'; it names 'baba', 'koshei', 'vasilisa'"):
            describe(tmp_path, "openai")
        assert not server.asked_at


def test_uploads_of_killed_runs_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 3)
    old = {"object": "file", "bytes": 1, "purpose": "general"}
    with serving(monkeypatch, "gigachat") as server:
        server.old_files = [
            old | {"id": "stale", "filename": "mlxtune-1.jpg", "created_at": int(time.time()) - 90_000},
            old | {"id": "young", "filename": "mlxtune-2.jpg", "created_at": int(time.time()) - 60},
            old | {"id": "theirs", "filename": "holiday.jpg", "created_at": 0},
        ]
        describe(tmp_path, "gigachat")
        assert "stale" in server.deleted and not {"young", "theirs"} & set(server.deleted)


# -- captioners -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without `.env`, in an environment without credentials."""
    for name in list(os.environ):
        if name.startswith(("GIGACHAT_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "model", "environment", "message"),
    [
        (None, None, {}, "no credentials for GigaChat or OpenAI are set"),
        (None, None, {"OPENAI_API_KEY": "x", "GIGACHAT_CREDENTIALS": "x"}, "both GigaChat and OpenAI are set"),
        ("gigachat", None, {"GIGACHAT_CREDENTIALS": "eA=="}, "no default model"),
        ("gigachat", "m", {}, "no GigaChat credentials"),
        ("gigachat", "m", {"GIGACHAT_CREDENTIALS": "x", "GIGACHAT_VERIFY_SSL_CERTS": "False"}, "set GIGACHAT_CA_BUNDLE_FILE"),
        ("openai", None, {"OPENAI_API_KEY": "x"}, "needs --model"),
        ("openai", "m", {}, "no key for OpenAI"),
        ("local", None, {}, "needs --model"),
        ("ollama", "m", {}, "There are: gigachat, openai, local"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    name: str | None, model: str | None, environment: dict[str, str], message: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(MlxtuneError) as caught:
        registry.open_captioner(name, model=model)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_library_that_is_not_installed_is_named_with_its_command(
    kind: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(MlxtuneError, match=r"pip install 'mlxtune\[captions\]'"):
        registry.open_captioner(kind, model="m")


def test_dotenv_fills_what_the_environment_lacks(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIGACHAT_CREDENTIALS", "eA==")
    monkeypatch.setenv("GIGACHAT_MODEL", "mine")
    (nowhere / ".env").write_text("GIGACHAT_MODEL=theirs\nGIGACHAT_SCOPE=GIGACHAT_API_CORP\n")
    (nowhere / "deeper").mkdir()
    monkeypatch.chdir(nowhere / "deeper")
    opened = registry.open_captioner()
    assert (opened.name, opened.model) == ("gigachat", "mine")
    assert os.environ.pop("GIGACHAT_SCOPE") == "GIGACHAT_API_CORP"
    settings = opened._client._settings  # type: ignore[attr-defined]
    assert settings.verify_ssl_certs is True and settings.max_retries == 0


def test_an_own_server_needs_no_key(nowhere: Path) -> None:
    assert registry.open_captioner("openai", model="m", base_url="http://127.0.0.1:9/v1").model == "m"


def test_the_bundled_model_describes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("mlxtune.caption.with_local._LONGEST", 4)
    pictures(tmp_path, 1)
    result = cli(tmp_path, "--with", "local", "--model", str(ROOT / "models/tiny-charts"), "--captions", "1", "--questions", "0")
    assert result.exit_code == 0, result.output
    (row,) = annotations(tmp_path)
    assert (row["captioner"], row["flag"], row["asked"]) == ("local", "no name", 2)


# -- the command ----------------------------------------------------------------------------------------------------------


def cli(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(command, [str(folder / "images"), "--names", str(folder / "names.json"), *options])


def test_the_command_says_what_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 6)
    monkeypatch.chdir(tmp_path)
    with serving(monkeypatch, "openai", plan=lambda number: "400" if number == 0 else None):
        result = cli(tmp_path, "--with", "openai", "--model", "fake", "--concurrency", "1")
    assert result.exit_code == 0, result.output
    text = result.output
    for part in ("6 in 3 classes, 6 to describe", "5 done · 1 failed · 16 requests · 1,500 + 150 tokens", "bad request: 1"):
        assert part in text
    for part in ("annotations.failed.jsonl", "annotations.review.csv (25 new lines)", "finetune RECIPE", "task: characters"):
        assert part in text
    assert re.search(r"baba +2 +1 +2 +3 +0 +1", text)
    assert "\x1b" not in text and "\r" not in text


def test_the_command_ends_with_the_servers_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 6)
    with serving(monkeypatch, "openai") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        result = cli(tmp_path, "--with", "openai", "--model", "fake")
    assert isinstance(result.exception, MlxtuneError)
    assert re.match(r"wrong credentials: HTTP 401: .*Unauthorized.*Set the right key", str(result.exception))
    assert not server.asked_at


# A shell's background job ignores interrupts, and so do its children: `make test &` would wait for all pictures.
INTERRUPTED = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
from tests.helpers.caption_servers import describe
describe(Path(sys.argv[2]), "openai", concurrency=3)
"""


def test_an_interrupt_waits_for_what_is_paid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 60)
    with serving(monkeypatch, "openai", latency_s=0.15) as server:
        child = subprocess.Popen([sys.executable, "-c", INTERRUPTED, ROOT, tmp_path], stderr=subprocess.PIPE)
        assert server.wait_for(4)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
        assert b"KeyboardInterrupt" in errors
        assert 4 <= server.total < 60
        assert len(annotations(tmp_path)) == server.total, "an answer that was paid for was thrown away"
        assert len((tmp_path / "annotations.review.csv").read_text().splitlines()) == server.total + 1


def test_an_unforeseen_error_of_a_thread_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 6)

    def broken(self: FakeServer, *_: object) -> None:
        raise RuntimeError("a fault of ours")

    with serving(monkeypatch, "openai"):
        monkeypatch.setattr("mlxtune.caption.with_openai.OpenAICaptioner.describe", broken)
        with pytest.raises(RuntimeError, match="a fault of ours"):
            describe(tmp_path, "openai", concurrency=2)


def test_a_terminal_gets_a_bar_with_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 6)
    screen = io.StringIO()
    view = CaptionView(Console(file=screen, force_terminal=True, width=200, highlight=False))
    with serving(monkeypatch, "openai", plan=lambda number: "500" if number == 2 else None):
        outcome = describe(tmp_path, "openai", watch=view)
    outcome.tally.stop()
    outcome.tally.stop()
    view.finish(outcome, dry_run=False)
    text = screen.getvalue()
    assert "6/6" in text and "6 done · 7 requests · 1 retries (server error 1) · 600 + 60 tokens" in text
    assert text.count("stopping: waiting for the answers in flight") == 1
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is the user's again"


def test_what_a_person_may_want_to_look_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path, 6)
    (folder / "baba/copy.png").write_bytes((folder / "baba/000.png").read_bytes())
    (folder / "koshei/same.png").write_bytes((folder / "baba/000.png").read_bytes())
    (folder / "baba/phone.HEIC").write_bytes(b"x")
    with serving(monkeypatch, "openai"):
        describe(tmp_path, "openai")
    (folder / "vasilisa/002.png").unlink()
    with (tmp_path / "annotations.jsonl").open("ab") as stream:
        stream.write(b'{"id": "half')
    text = cli(tmp_path, "--limit", "0").output
    for part in ("1 files hold the same picture as another", "same picture is in two classes", ".heic 1", "1 rows set aside"):
        assert part in text
    assert "ended in half a line (12 bytes)" in text
