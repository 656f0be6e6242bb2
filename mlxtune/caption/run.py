"""The whole command: look what is new, take over edits, ask, write down, say what came of it."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlxtune.caption.base import Captioner
from mlxtune.caption.book import Book, Merged, Need, flags
from mlxtune.caption.pictures import Folder, scan
from mlxtune.caption.prompts import Prompts, has_cyrillic, read_prompts
from mlxtune.caption.replies import NO_NAME
from mlxtune.caption.retry import Patience, RetryPolicy
from mlxtune.caption.store import locked, write_whole
from mlxtune.caption.tally import Tally
from mlxtune.caption.work import Desk, work_off
from mlxtune.entities import Entity, find_entity, read_entities
from mlxtune.errors import DataError


@dataclass(frozen=True)
class Plan:
    """What a run will do, known before anything is asked. needs: the pictures to describe, after `limit`."""

    out: Path
    folder: Folder
    merged: Merged
    needs: Sequence[Need]
    waiting: int  # pictures that a limit leaves for another time
    requests: int  # the least number that all `needs` take
    repaired: int  # bytes of a half-written last line that were removed
    names: Path | None = None
    captioner: str = ""  # name and model, "" where nobody is asked
    concurrency: int = 0


@dataclass(frozen=True)
class ClassCount:
    """complete: pictures that lack nothing now. new: those that were to be described in this run."""

    name: str
    pictures: int
    complete: int
    new: int
    captions: int
    questions: int
    flagged: int
    failed: int


@dataclass(frozen=True)
class Outcome:
    """reviewable: rows that were added to the review file. stopped: why the run ended early; None where it did not."""

    plan: Plan
    tally: Tally
    classes: tuple[ClassCount, ...]
    review: Path
    failed: Path
    reviewable: int
    stopped: str | None = None


@dataclass(frozen=True)
class Ask:
    """How many of each per picture, and how. concurrency: None = the captioner's own."""

    captions: int = 2
    questions: int = 3
    retry_flagged: bool = True
    limit: int | None = None
    concurrency: int | None = None
    longest_side: int = 1024
    policy: RetryPolicy = RetryPolicy()


Watch = Callable[[Plan | Tally], None]


def caption(
    folder: Path | str,
    *,
    captioner: Callable[[], Captioner],
    names: Path | str | None = None,
    prompts: Path | str | None = None,
    out: Path | str | None = None,
    ask: Ask = Ask(),
    dry_run: bool = False,
    watch: Watch = lambda _: None,
) -> Outcome:
    """Describes the pictures below `folder` that the annotation file `out` does not know, and takes over a person's edits.

    captioner: opens one; called only where there is something to ask. names: see `entities.read_entities`; None calls each
    class by its folder. prompts: a file, "ru" or "en"; None is Russian where a name is written in Cyrillic.
    out: None = annotations.jsonl beside `folder`. dry_run: changes nothing. watch: gets the plan, then counters, from any
    thread but one at a time. Raises MlxtuneError.
    """
    place = Path(folder)
    target = Path(out) if out is not None else Path(os.path.abspath(place)).parent / "annotations.jsonl"
    found = scan(place)
    entities = _entities(found, names)
    asked = read_prompts(prompts or ("ru" if any(has_cyrillic(entity.name) for entity in entities.values()) else "en"))
    with locked(target, only_look=dry_run):
        book = Book(target)
        plan = replace(_plan(book, found, entities, ask, dry_run=dry_run), names=None if names is None else Path(names))
        if dry_run or not plan.needs:
            watch(plan)
            return _outcome(book, plan, Tally(0, watch), ask, write=not dry_run)
        opened = captioner()
        try:
            return _asked(opened, book, plan, asked, entities, ask, watch)
        finally:
            opened.close()


def _asked(
    captioner: Captioner, book: Book, plan: Plan, prompts: Prompts, entities: Mapping[str, Entity], ask: Ask, watch: Watch
) -> Outcome:
    threads = 1 if captioner.inline else (ask.concurrency or captioner.concurrency)
    plan = replace(plan, captioner=f"{captioner.name} {captioner.model}", concurrency=threads)
    watch(plan)
    stop = threading.Event()
    tally = Tally(len(plan.needs), watch)
    desk = Desk(
        captioner=captioner,
        prompts=prompts,
        entities=entities,
        book=book,
        patience=Patience(ask.policy, stop=stop, retried=tally.retried),
        tally=tally,
        replies=ask.policy.replies,
        longest_side=ask.longest_side,
        retry_flagged=ask.retry_flagged,
    )
    try:
        stopped = work_off(plan.needs, desk.describe, threads=threads, inline=captioner.inline, stop=stop, stopping=tally.stop)
    except BaseException:
        _outcome(book, plan, tally, ask, write=True)  # what came so far is for review too
        raise
    return replace(_outcome(book, plan, tally, ask, write=True), stopped=stopped)


def _entities(found: Folder, names: Path | str | None) -> dict[str, Entity]:
    """The entity of every class. Raises DataError that names the folders without one."""
    if names is None:
        return {key: Entity(key, key.replace("_", " ")) for key in found.classes}
    known = read_entities(names)
    entities = {key: find_entity(known, key) for key in found.classes}
    if missing := [key for key, entity in entities.items() if entity is None]:
        raise DataError(
            f"{names}: no name for {', '.join(repr(key) for key in missing)}; it names {', '.join(repr(key) for key in known)}. "
            "Add the folder's name, or move the folder away"
        )
    return {key: entity for key, entity in entities.items() if entity is not None}


def _plan(book: Book, found: Folder, entities: Mapping[str, Entity], ask: Ask, *, dry_run: bool) -> Plan:
    repaired = book.kept.repaired + book.aside.repaired
    merged = book.merge(found, entities, write=not dry_run)
    needs = book.needs(found, captions=ask.captions, questions=ask.questions, retry_flagged=ask.retry_flagged)
    taken = needs if ask.limit is None else needs[: ask.limit]
    requests = sum(need.requests for need in taken)
    return Plan(book.out, found, merged, taken, len(needs) - len(taken), requests, repaired)


def _outcome(book: Book, plan: Plan, tally: Tally, ask: Ask, *, write: bool) -> Outcome:
    failed = book.beside("failed.jsonl")
    added = 0
    if write:
        book.kept.rewrite(book.kept)  # one line per row: second answers took the place of first ones
        added = book.review.add(book.kept)
        _list_failures(failed, tally)
    classes = _counts(book, plan, tally, ask)
    return Outcome(plan, tally, classes, book.review.path, failed, added)


def _list_failures(path: Path, tally: Tally) -> None:
    lines = [
        {"image": str(picture.path), "class": picture.entity, "reason": reason, "message": message}
        for picture, reason, message in tally.failures
    ]
    if lines:
        write_whole(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    elif path.exists():
        path.unlink()  # of an earlier run: what failed then is described now, or fails again


def _counts(book: Book, plan: Plan, tally: Tally, ask: Ask) -> tuple[ClassCount, ...]:
    open_needs = book.needs(plan.folder, captions=ask.captions, questions=ask.questions, retry_flagged=ask.retry_flagged)
    pictures = Counter(picture.entity for picture in plan.folder.pictures)
    lacking = Counter(need.picture.entity for need in open_needs)
    new = Counter(need.picture.entity for need in plan.needs)
    failed = Counter(failure.picture.entity for failure in tally.failures)
    kinds = Counter((row["class"], row["kind"]) for row in book.kept)
    flagged = Counter(row["class"] for row in book.kept if NO_NAME in flags(row))
    return tuple(
        ClassCount(
            name=name,
            pictures=pictures[name],
            complete=pictures[name] - lacking[name],
            new=new[name],
            captions=kinds[name, "caption"],
            questions=kinds[name, "question"],
            flagged=flagged[name],
            failed=failed[name],
        )
        for name in plan.folder.classes
    )
