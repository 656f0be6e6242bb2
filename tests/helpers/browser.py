"""Chromium over its DevTools protocol: what a page shows, says, asks for and does, at any width and in both schemes."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
_START_S, _ANSWER_S = 60.0, 60.0


class Tab:
    """One page. said: console messages, exceptions and violations of the page's policy. asked: addresses it requested."""

    def __init__(self, socket: Any, session: str) -> None:
        self._socket, self._session = socket, session
        self._numbers = itertools.count(1000)
        self.said: list[str] = []
        self.asked: list[str] = []

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters, "sessionId": self._session}))
        while True:
            message = json.loads(self._socket.recv(timeout=_ANSWER_S))
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        told = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def open(self, file: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        self.said.clear()
        self.asked.clear()
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.command("Emulation.setEmulatedMedia", features=scheme)
        self.command("Page.navigate", url=file.as_uri())
        deadline = time.monotonic() + _ANSWER_S
        while self.run("document.readyState + ' ' + location.protocol") != "complete file:":
            assert time.monotonic() < deadline, "the page does not load"
            time.sleep(0.05)

    def type(self, selector: str, text: str) -> None:
        """Sets a field as a person would: its value and the event that follows."""
        self.run(
            f"(() => {{ const field = document.querySelector({json.dumps(selector)}); field.value = {json.dumps(text)};"
            " field.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def _note(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                self.said.append(json.dumps(message["params"]["args"]))
            case "Runtime.exceptionThrown":
                self.said.append(json.dumps(message["params"]["exceptionDetails"]))
            case "Log.entryAdded":
                self.said.append(json.dumps(message["params"]["entry"]))
            case "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
            case "Page.javascriptDialogOpening":
                self.said.append(f"dialog: {message['params']['message']}")


@contextmanager
def tab(folder: Path) -> Iterator[Tab]:
    """An empty tab of a browser of its own, whose profile lies in `folder`."""
    from websockets.sync.client import connect

    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}/profile"]
    log = folder / "chromium.log"
    with log.open("wb") as stream:
        browser = subprocess.Popen([str(CHROMIUM), *options, "--remote-debugging-port=0", "about:blank"], stderr=stream)
    try:
        with connect(_address(browser, log), max_size=None) as socket:
            socket.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
            target = _answer(socket, 1)["targetId"]
            attach = {"targetId": target, "flatten": True}
            socket.send(json.dumps({"id": 2, "method": "Target.attachToTarget", "params": attach}))
            opened = Tab(socket, _answer(socket, 2)["sessionId"])
            for domain in ("Runtime", "Log", "Network", "Page"):
                opened.command(f"{domain}.enable")
            yield opened
    finally:
        browser.terminate()
        browser.wait(timeout=30)


def _address(browser: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and browser.poll() is None:
        if found := re.search(r"DevTools listening on (ws://\S+)", log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"Chromium does not start: {log.read_text(errors='replace')[-2000:]}")


def _answer(socket: Any, number: int) -> dict[str, Any]:
    while (message := json.loads(socket.recv(timeout=_ANSWER_S))).get("id") != number:
        pass
    return message["result"]
