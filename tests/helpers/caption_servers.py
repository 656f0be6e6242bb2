"""A GigaChat and an OpenAI server of our own over plain HTTP. They misbehave by plan, and count what they served completely."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from mlxtune.caption.registry import open_captioner
from mlxtune.caption.retry import RetryPolicy
from mlxtune.caption.run import Ask, Outcome, caption

NAMES = {
    "baba": {"name": "Баба-Яга", "aliases": ["Яга"], "cases": ["Бабу-Ягу", "Бабой-Ягой"]},
    "koshei": "Кощей",
    "vasilisa": "Василиса",
}
QUICK = RetryPolicy(attempts=12, backoff_s=0.004, longest_s=5.0)
TIMEOUT_S = 2.0  # far above what an answer takes on a loaded machine: nothing may be served and given up
FAULTS = (
    "429",
    "429 seconds",
    "429 date",
    "500",
    "503 seconds",
    "time-out",
    "cut",
    "cut half",
    "bad body",
    "no choices",
    "empty",
)
# The first two cost seconds. A picture with three empty replies is left out, and chance and threads say which picture gets them.
_RARE = {"time-out": 6, "429 date": 1, "empty": 2}

Plan = Callable[[int], str | None]  # number of a chat request -> fault, or None for a good answer
Answer = Callable[[str, str], str]  # (hash of the picture as sent, prompt) -> text


def pictures(folder: Path, count: int) -> Path:
    """`count` pictures of 8 x 8 pixels, no two alike even as JPEG, one folder per class of NAMES."""
    for number in range(count):
        file = folder / "images" / list(NAMES)[number % len(NAMES)] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 8 * 32, number // 8 % 8 * 32, number // 64 % 8 * 32)).save(file)
    (folder / "names.json").write_text(json.dumps(NAMES), encoding="utf-8")
    return folder / "images"


def some_faults(*, share: float = 0.3, seed: int = 0, kinds: tuple[str, ...] = FAULTS) -> Plan:
    """Faults of all kinds on a share of the requests, at most three in a row; and once, an answer that a token has run out."""
    drawn = random.Random(seed)
    lock, rest, row = threading.Lock(), dict(_RARE), 0

    def plan(number: int) -> str | None:
        nonlocal row
        with lock:
            if number == 20:
                return "401"
            kind = drawn.choice(kinds)
            if row == 3 or drawn.random() > share or not rest.get(kind, 1):
                row = 0
                return None
            row += 1
            if kind in rest:
                rest[kind] -= 1
            return kind

    return plan


def good(number: int) -> str | None:
    return None


def fitting(digest: str, prompt: str) -> str:
    """A caption that differs from picture to picture and uses the name that the prompt gives; pairs where a number is given."""
    name = re.search(r"(?:изображении|shows) (.+?)\.", prompt)
    shown = name[1] if name else "nobody"
    if count := re.search(r"ровно (\d+)|exactly (\d+)", prompt):
        pairs = [{"question": f"Вопрос {n} о {digest[:8]}?", "answer": shown} for n in range(int(count[1] or count[2]))]
        return json.dumps(pairs, ensure_ascii=False)
    return f"Это {shown}, картинка {digest[:16]}."


class FakeServer:
    """served: complete good answers by (picture, prompt). faults: how many of each kind. kind: "gigachat" or "openai"."""

    def __init__(self, kind: str, *, plan: Plan = good, answer: Answer = fitting, latency_s: float = 0.0) -> None:
        self.kind, self.plan, self.answer, self.latency_s = kind, plan, answer, latency_s
        self.served: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()
        self.prompts: list[str] = []
        self.asked_at: list[float] = []
        self.tokens = 0  # handed out
        self.tokens_run_out = 0  # those up to this number
        self.uploads: dict[str, str] = {}  # id -> hash of the picture
        self.uploaded = self.most_kept = 0
        self.old_files: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.lock = threading.Lock()
        self.busy = self.busiest = 0
        self.gone = threading.Event()
        handler = type("Handler", (_Handler,), {"fake": self})
        self._http = _Quiet(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What the captioner of this kind reads from the environment."""
        if self.kind == "openai":
            return {"OPENAI_API_KEY": "sk-fake", "OPENAI_BASE_URL": f"{self.url}/v1"}
        key = base64.b64encode(b"id:secret").decode()
        return {"GIGACHAT_CREDENTIALS": key, "GIGACHAT_BASE_URL": f"{self.url}/v1", "GIGACHAT_AUTH_URL": f"{self.url}/oauth"}

    @property
    def total(self) -> int:
        with self.lock:
            return sum(self.served.values())

    def wait_for(self, total: int, *, seconds: float = 30.0) -> bool:
        end = time.monotonic() + seconds
        while self.total < total and time.monotonic() < end:
            time.sleep(0.001)
        return self.total >= total

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gone.set()
        self._http.shutdown()
        self._http.server_close()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was killed leaves so
            super().handle_error(request, address)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Tests read no access log."""

    def do_GET(self) -> None:
        self._json(200, {"data": self.fake.old_files, "object": "list"})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client was killed while it sent")
        if self.path == "/oauth":
            return self._token()
        if not self._authorized():
            return self._json(401, {"message": "Unauthorized"})
        if self.path.endswith("/delete"):
            self.fake.deleted.append(self.path.split("/")[-2])
            return self._json(200, {"id": self.path.split("/")[-2], "deleted": True})
        if self.path == "/v1/files":
            return self._upload(body)
        with self.fake.lock:
            self.fake.busy += 1
            self.fake.busiest = max(self.fake.busiest, self.fake.busy)
        try:
            self._chat(json.loads(body))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client was killed: not served
        finally:
            with self.fake.lock:
                self.fake.busy -= 1

    def _token(self) -> None:
        with self.fake.lock:
            self.fake.tokens += 1
            token = f"token-{self.fake.tokens}"
        self._json(200, {"access_token": token, "expires_at": int((time.time() + 1800) * 1000)})

    def _authorized(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.fake.kind == "openai":
            return given == "Bearer sk-fake"
        token = re.fullmatch(r"Bearer token-(\d+)", given)
        return token is not None and int(token[1]) > self.fake.tokens_run_out

    def _upload(self, body: bytes) -> None:
        content = re.search(rb"Content-Type: image/jpeg\r\n\r\n(.*?)\r\n--", body, re.DOTALL)
        name = re.search(rb'filename="([^"]+)"', body)
        assert content and name, "an upload is a JPEG with a name"
        with self.fake.lock:
            self.fake.uploaded += 1
            self.fake.most_kept = max(self.fake.most_kept, self.fake.uploaded - len(self.fake.deleted))
            identity = f"file-{self.fake.uploaded}"
            self.fake.uploads[identity] = hashlib.sha256(content[1]).hexdigest()
        described = {"id": identity, "object": "file", "bytes": len(content[1]), "created_at": int(time.time())}
        self._json(200, described | {"filename": name[1].decode(), "purpose": "general"})

    def _chat(self, request: Mapping[str, Any]) -> None:
        fake = self.fake
        digest, prompt = self._asked(request)
        with fake.lock:
            number = len(fake.asked_at)
            fake.asked_at.append(time.monotonic())
            fake.prompts.append(prompt)
        fault = fake.plan(number)
        if fault is not None:
            fake.faults[fault] += 1
            return self._misbehave(fault)
        time.sleep(fake.latency_s)
        self._json(200, _completion(fake.answer(digest, prompt)))
        with fake.lock:
            fake.served[digest, prompt] += 1

    def _asked(self, request: Mapping[str, Any]) -> tuple[str, str]:
        (message,) = request["messages"]
        if self.fake.kind == "gigachat":
            (attachment,) = message["attachments"]
            return self.fake.uploads[attachment], message["content"]
        text, image = message["content"]
        head, _, content = image["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        return hashlib.sha256(base64.b64decode(content)).hexdigest(), text["text"]

    def _misbehave(self, fault: str) -> None:
        status, _, how = fault.partition(" ")
        headers = {"seconds": {"Retry-After": "0.02"}, "date": {"Retry-After": formatdate(time.time() + 1, usegmt=True)}}.get(
            how, {}
        )
        if status == "401" and self.fake.kind == "gigachat":
            with self.fake.lock:
                self.fake.tokens_run_out = self.fake.tokens
        if status.isdigit():
            return self._json(int(status), {"message": how or "no"}, headers=headers)
        if fault == "content filter":
            return self._json(200, _completion("", finish="content_filter" if self.fake.kind == "openai" else "blacklist"))
        if fault in ("bad body", "no choices", "empty"):
            answers = {"no choices": _completion("") | {"choices": []}, "empty": _completion("  ")}
            return self._raw(b'{"choices": [{"mess') if fault == "bad body" else self._json(200, answers[fault])
        if fault == "time-out":
            self.fake.gone.wait(TIMEOUT_S * 1.5)
        if fault == "cut half":
            self._raw(b'{"choices": [', promised=4096)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, status: int, value: Any, *, headers: Mapping[str, str] | None = None) -> None:
        self._raw(json.dumps(value).encode(), status=status, headers=headers or {})

    def _raw(self, body: bytes, *, status: int = 200, promised: int = 0, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(promised or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _completion(text: str, *, finish: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def describe(folder: Path, kind: str, *, concurrency: int = 8, policy: RetryPolicy = QUICK, **options: Any) -> Outcome:
    """Captions `folder` with the server that the environment points at, in short waits; options: fields of Ask, or of caption."""
    fields = {key: options.pop(key) for key in list(options) if key in Ask.__dataclass_fields__}
    return caption(
        folder / "images",
        names=folder / "names.json",
        captioner=lambda: open_captioner(kind, model="fake", timeout_s=TIMEOUT_S),
        ask=Ask(**{"captions": 1, "questions": 0, "concurrency": concurrency, "policy": policy} | fields),
        **options,
    )


def describe_in_process(folder: str, kind: str, environment: Mapping[str, str], options: Mapping[str, Any]) -> None:
    """What a process does that is to be killed."""
    import os

    os.environ.update(environment)
    describe(Path(folder), kind, **options)


def annotations(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "annotations.jsonl").read_text(encoding="utf-8").split("\n") if line]


@contextmanager
def serving(monkeypatch: Any, kind: str, **options: Any) -> Iterator[FakeServer]:
    """A fake server that the environment points at, and nothing else: no `.env`, no other credentials."""
    for name in (
        "GIGACHAT_CREDENTIALS",
        "GIGACHAT_MODEL",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeServer(kind, **options) as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        yield server
