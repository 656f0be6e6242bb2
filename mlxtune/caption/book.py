"""The annotation file together with what a person decided about it: which rows there are, and which are still to be paid."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mlxtune.caption.pictures import Folder, Picture
from mlxtune.caption.replies import NO_NAME, named
from mlxtune.caption.review import Review
from mlxtune.caption.store import Row, Store
from mlxtune.entities import Entity


class Need(NamedTuple):
    """What a picture still lacks. captions: numbers, from 1. flagged: ids of rows to ask for once more. questions: how many.

    known: the questions that it has, by row id.
    """

    picture: Picture
    captions: tuple[int, ...]
    flagged: tuple[str, ...]
    questions: int
    known: Mapping[str, str]

    @property
    def requests(self) -> int:
        """The least number of requests that brings it."""
        return len(self.captions) + len(self.flagged) + (self.questions > 0)


@dataclass
class Merged:
    """What opening the book changed, for people to read."""

    edited: int = 0
    rejected: int = 0
    restored: int = 0
    gone: int = 0


@dataclass
class Book:
    """out: the annotation file. Its neighbours are named after it."""

    out: Path
    kept: Store = field(init=False)
    aside: Store = field(init=False)
    review: Review = field(init=False)

    def __post_init__(self) -> None:
        self.kept = Store(self.out)
        self.aside = Store(self.beside("aside.jsonl"))
        self.review = Review(self.beside("review.csv"))

    def beside(self, ending: str) -> Path:
        return self.out.with_name(f"{self.out.stem}.{ending}")

    def path_of(self, picture: Picture) -> str:
        """How rows name a picture: relative to the annotation file's folder, as readers resolve it."""
        return Path(os.path.relpath(picture.path, self.out.parent)).as_posix()

    def merge(self, folder: Folder, entities: Mapping[str, Entity], *, write: bool = True) -> Merged:
        """Takes over a person's edits, new names and moved pictures, and sets aside what was rejected or has lost its picture.

        write: False only counts.
        """
        merged = Merged()
        places = {(picture.sha256, picture.entity): picture for picture in folder.pictures}
        kept: dict[str, Row] = {}
        aside: dict[str, Row] = {}
        # A kill while the files are rewritten leaves a row in both; once is enough.
        was_kept = {row["id"] for row in self.kept}
        for old in (*self.kept, *(row for row in self.aside if row["id"] not in was_kept)):
            row = self._reviewed(self._placed(self._renamed(old, entities), places), merged)
            target = kept if self._wanted(row, merged, was_kept=old["id"] in was_kept) else aside
            target[row["id"]] = row
        if write:
            # A row that changes sides is in both files for a moment, never in neither: a kill loses none.
            self.aside.append(row for row in aside.values() if row["id"] not in self.aside)
            self.kept.rewrite(kept.values())
            self.aside.rewrite(aside.values())
        return merged

    def needs(self, folder: Folder, *, captions: int, questions: int, retry_flagged: bool) -> list[Need]:
        """What is still to be asked, classes taking turns, so that a limit shows something of each."""
        grouped: dict[str, list[Need]] = {}
        known = self._by_picture()
        for picture in folder.pictures:
            rows = known.get((picture.sha256, picture.entity), [])
            need = self._need(picture, rows, captions=captions, questions=questions, retry_flagged=retry_flagged)
            if need.requests:
                grouped.setdefault(picture.entity, []).append(need)
        longest = max(map(len, grouped.values()), default=0)
        return [needs[turn] for turn in range(longest) for needs in grouped.values() if turn < len(needs)]

    def _need(self, picture: Picture, rows: list[Row], *, captions: int, questions: int, retry_flagged: bool) -> Need:
        ids = {row["id"] for row in rows}
        missing = tuple(n for n in range(1, captions + 1) if caption_id(picture, n) not in ids)
        flagged = tuple(
            row["id"]
            for row in rows
            if retry_flagged
            and NO_NAME in flags(row)
            and row.get("asked", 1) < 2
            # What a person has seen is not asked for again: the answer could take the place of an edit.
            and row["id"] in self.kept
            and row["id"] not in self.review.lines
        )
        # Rejected ones count: they were paid for, and a person did not ask for others.
        known = {row["id"]: row["question"] for row in rows if row["kind"] == "question"}
        return Need(picture, missing, flagged, max(questions - len(known), 0), known)

    def _by_picture(self) -> dict[tuple[str, str], list[Row]]:
        """The rows of each content in each class, rejected ones too: what was paid for once."""
        found: dict[tuple[str, str], dict[str, Row]] = {}
        for row in (*self.aside, *self.kept):
            found.setdefault((row["image_sha256"], row.get("class", "")), {})[row["id"]] = row
        return {key: list(rows.values()) for key, rows in found.items()}

    def _renamed(self, row: Row, entities: Mapping[str, Entity]) -> Row:
        """With today's names: an added case takes a flag away, and nothing is paid for it."""
        entity = entities.get(row.get("class", ""))
        if entity is None or row.get("names") == list(entity.all_names):
            return row
        return flagged({**row, "names": list(entity.all_names)})

    def _placed(self, row: Row, places: Mapping[tuple[str, str], Picture]) -> Row:
        picture = places.get((row["image_sha256"], row.get("class", "")))
        if picture is None or (self.out.parent / row["image"]).is_file():
            return row
        return {**row, "image": self.path_of(picture)}

    def _reviewed(self, row: Row, merged: Merged) -> Row:
        line = self.review.lines.get(row["id"])
        if line is None or not line.keep or (line.question, line.answer) == (row["question"], row["answer"]):
            return row
        merged.edited += 1
        return flagged({**row, "question": line.question, "answer": line.answer, "edited": True})

    def _wanted(self, row: Row, merged: Merged, *, was_kept: bool) -> bool:
        line = self.review.lines.get(row["id"])
        rejected = line is not None and not line.keep
        gone = not (self.out.parent / row["image"]).is_file()
        merged.rejected += rejected and was_kept
        merged.gone += gone and not rejected and was_kept
        merged.restored += not (rejected or gone or was_kept)
        return not (rejected or gone)


def caption_id(picture: Picture, number: int) -> str:
    return f"{picture.entity}-{picture.sha256[:12]}-c{number}"


def question_id(picture: Picture, number: int) -> str:
    return f"{picture.entity}-{picture.sha256[:12]}-q{number}"


def flags(row: Row) -> list[str]:
    return [flag for flag in str(row.get("flag", "")).split("; ") if flag]


def flagged(row: Row) -> Row:
    """The row with its flag as its text is now: a caption that lacks the name says so."""
    names = row.get("names") or []
    lacks = row["kind"] == "caption" and bool(names) and not named(row["answer"], names)
    others = [flag for flag in flags(row) if flag != NO_NAME and not row.get("edited")]
    found = [NO_NAME, *others] if lacks else others
    bare = {key: value for key, value in row.items() if key != "flag"}
    return bare | {"flag": "; ".join(found)} if found else bare
