"""The work: questions about pictures, made from one seed and put on disk as a user's rows would lie there."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks.texts import words

_QUESTION_WORDS = 20


@dataclass(frozen=True)
class Work:
    """pictures x questions rows with answers of `answer` words, gone through `epochs` times; epochs 0: the rows are asked."""

    name: str
    pictures: int
    questions: int
    answer: int
    epochs: int
    batch: int = 4  # rows of an optimizer step, all of them held at once; prompts that are answered at once

    @property
    def rows(self) -> int:
        return self.pictures * self.questions

    @property
    def steps(self) -> int:
        return self.epochs * self.rows // self.batch

    def limited(self, steps: int | None) -> Work:
        """A cut of that many steps, for trying things out; of that many batches of questions."""
        if steps is None:
            return self
        rows = steps * self.batch
        questions = min(self.questions, rows)
        return replace(
            self, questions=questions, pictures=min(self.pictures, max(1, rows // questions)), epochs=min(self.epochs, 1)
        )


WORKS = {
    work.name: work
    for work in (
        Work("W1", pictures=64, questions=1, answer=4, epochs=3),
        Work("W2", pictures=16, questions=4, answer=4, epochs=1),
        Work("W3", pictures=16, questions=1, answer=200, epochs=1),
        Work("G1", pictures=50, questions=4, answer=4, epochs=0, batch=8),
    )
}
NEW_TOKENS = 16  # the longest answer in G1
GROWTH = tuple(Work(f"growth-{rows}", pictures=rows, questions=1, answer=4, epochs=1) for rows in (250, 500, 1000, 2000, 4000))


def write(folder: Path, work: Work, *, size: tuple[int, int]) -> Path:
    """rows.jsonl and images/ in `folder`; made where they are not there yet. size: (width, height) of the pictures."""
    path = folder / "rows.jsonl"
    if path.exists():
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = random.Random(work.name)
    rows = []
    for number in range(work.pictures):
        name = f"images/{number:05d}.png"
        _picture(size, rng).save(folder / name)
        for question in range(work.questions):
            row = {"id": f"{number}-{question}", "image": name, "question": words(_QUESTION_WORDS, rng)}
            rows.append(row | {"answer": words(work.answer, rng)})
    part = folder / "rows.part"
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    part.rename(path)
    return folder


def read(folder: Path) -> list[dict[str, str]]:
    """The rows, pictures as paths."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row | {"image": str(folder / row["image"])} for row in rows]


def _picture(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A chart of sorts: as large on disk, and as quick to decode, as those that people ask about."""
    width, side = size
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    count = rng.randint(4, 12)
    for bar in range(count):
        left, height = width * (bar + 0.2) / count, max(1, rng.random() * side * 0.9)
        color = tuple(rng.randrange(256) for _ in range(3))
        pen.rectangle([left, side - height, left + 0.6 * width / count, side - 1], fill=color)
        pen.ellipse([left, side - height - 8, left + 8, side - height], fill="black")
    return picture
