"""Results on disk, a line each as they come: an interrupted benchmark goes on where it was."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Store:
    """Lines have "part", "key", "repeat"; those three together are unique, the last line of them counts."""

    path: Path

    def lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        found = {}
        for text in filter(None, self.path.read_text(encoding="utf-8").split("\n")):
            try:
                line = json.loads(text)
            except ValueError:
                continue  # cut off by whatever ended the benchmark: it is made again
            found[line["part"], line["key"], line["repeat"]] = line
        return list(found.values())

    def has(self, part: str, key: str, repeat: int) -> bool:
        return any((line["part"], line["key"], line["repeat"]) == (part, key, repeat) for line in self.lines())

    def add(self, part: str, key: str, repeat: int, **values: Any) -> dict[str, Any]:
        line = {"part": part, "key": key, "repeat": repeat, **values}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut = self.path.exists() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size > 0
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if cut else "") + json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return line
