"""One picture after another, in several threads: ask, look at the answer, write it down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mlxtune.caption.base import UNREADABLE, Captioner, RefusedError, Reply, RequestError
from mlxtune.caption.book import Book, Need, caption_id, flagged, flags, question_id
from mlxtune.caption.pictures import Picture, to_send
from mlxtune.caption.prompts import CaptionPrompt, Prompts, filled
from mlxtune.caption.replies import CUT_SHORT, NO_NAME, BadReplyError, Pair, caption_text, question_pairs
from mlxtune.caption.retry import Patience, StoppedError
from mlxtune.caption.store import Row
from mlxtune.caption.tally import Tally
from mlxtune.entities import Entity
from mlxtune.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class Desk:
    """All that a thread needs to describe pictures. replies: answers of the wrong form that are paid for, per question."""

    captioner: Captioner
    prompts: Prompts
    entities: Mapping[str, Entity]
    book: Book
    patience: Patience
    tally: Tally
    replies: int
    longest_side: int
    retry_flagged: bool

    def describe(self, need: Need) -> str | None:
        """Brings what a picture lacks; every reply is on the disk before the next request. Why the run should end, or None."""
        kind = "caption"
        try:
            image = _readable(need.picture.path, self.longest_side)
        except RefusedError as error:
            return self.tally.failed(kind, need.picture, error)
        try:
            lacking = [self._caption(need.picture, image, number) for number in need.captions]
            lacking += [self._once_more(self.book.kept[identity], need.picture, image) for identity in need.flagged]
            kind = "question"
            if need.questions:
                self._questions(need, image)
        except RequestError as error:
            return self.tally.failed(kind, need.picture, error)
        finally:
            self.captioner.forget(image)
        self.tally.finished(flagged=any(lacking))
        return None

    def _caption(self, picture: Picture, image: bytes, number: int) -> bool:
        """Whether the caption that is kept lacks the name."""
        prompt = self.prompts.caption(number)
        text, cut = self._asked(image, self._named(prompt.prompt, picture), caption_text)
        identity = caption_id(picture, number)
        row = self._row(picture, identity, "caption", Pair(prompt.asked(identity), text))
        row = flagged(row | {"flag": CUT_SHORT} if cut else row)
        self._save("caption", [row])
        if NO_NAME not in flags(row) or not self.retry_flagged:
            return NO_NAME in flags(row)
        return self._once_more(row, picture, image)

    def _once_more(self, row: Row, picture: Picture, image: bytes) -> bool:
        """Asks again for a caption without the name. The first answer is on the disk, and stays if the second is no better."""
        prompt = _prompt_of(row, self.prompts)
        reminded = f"{self._named(prompt.prompt, picture)}\n{self._named(self.prompts.reminder, picture)}"
        text, cut = self._asked(image, reminded, caption_text)
        bare = {key: value for key, value in row.items() if key != "flag"}
        again = flagged(bare | {"answer": text, "model": self.captioner.model, "captioner": self.captioner.name, "asked": 2})
        if NO_NAME in flags(again):
            again = row | {"asked": 2}
        elif cut:
            again = again | {"flag": CUT_SHORT}
        self._save("caption", [again])
        return NO_NAME in flags(again)

    def _questions(self, need: Need, image: bytes) -> None:
        picture, count = need.picture, need.questions
        numbers = range(1, len(need.known) + count + 1)
        free = [identity for n in numbers if (identity := question_id(picture, n)) not in need.known][:count]
        prompt = filled(self._named(self.prompts.pairs(picture.sha256).prompt, picture), {"count": str(count)})
        if need.known:
            prompt += "\n" + filled(self.prompts.avoid, {"questions": " ".join(need.known.values())})
        pairs, _ = self._asked(image, prompt, lambda text: question_pairs(text, count=count, known=need.known.values()))
        made = zip(free, pairs, strict=True)
        self._save("question", [self._row(picture, identity, "question", pair) for identity, pair in made])

    def _asked(self, image: bytes, prompt: str, parse: Callable[[str], T]) -> tuple[T, bool]:
        """What `parse` makes of the reply, and whether the reply was cut short. Raises RequestError, or StoppedError."""
        reason = ""
        for number in range(self.replies):
            if number:
                self.tally.retried(reason)
            reply = self.patience.call(lambda: self._request(image, prompt))
            self.tally.replied(reply.usage)
            try:
                return parse(reply.text), reply.cut
            except BadReplyError as error:
                reason = error.reason
        raise RefusedError(reason, f"{self.replies} replies of the wrong form")

    def _request(self, image: bytes, prompt: str) -> Reply:
        self.tally.sent()
        return self.captioner.describe(image, prompt)

    def _save(self, kind: str, rows: list[Row]) -> None:
        self.book.kept.append(rows)
        self.tally.saved(kind, len(rows))

    def _named(self, text: str, picture: Picture) -> str:
        return filled(text, {"name": self.entities[picture.entity].name})

    def _row(self, picture: Picture, identity: str, kind: str, pair: Pair) -> Row:
        return {
            "id": identity,
            "image": self.book.path_of(picture),
            "image_sha256": picture.sha256,
            "class": picture.entity,
            "names": list(self.entities[picture.entity].all_names),
            "kind": kind,
            "question": pair.question,
            "answer": pair.answer,
            "captioner": self.captioner.name,
            "model": self.captioner.model,
        }


def work_off(
    needs: Iterable[Need],
    describe: Callable[[Need], str | None],
    *,
    threads: int,
    inline: bool,
    stop: threading.Event,
    stopping: Callable[[], None] = lambda: None,
) -> str | None:
    """Describes every picture, `threads` at once, or in this thread. Why the run ended early; None where it did not.

    Raises what `describe` raised. An interrupt (Ctrl-C) lets requests in flight end, because they are paid for, and is raised
    then; a second one is raised at once. stopping: called between the two.
    """
    line = _Line(needs, describe, stop=stop)
    if inline:
        line.work()
    else:
        ended = [line.start_thread() for _ in range(threads)]
        try:
            _wait_for(ended)
        except KeyboardInterrupt:
            stop.set()
            stopping()
            _wait_for(ended)
            raise
    if line.error is not None:
        raise line.error
    return line.ending


class _Line:
    """What stands in line, and how the work on it ends."""

    def __init__(self, needs: Iterable[Need], describe: Callable[[Need], str | None], *, stop: threading.Event) -> None:
        self._needs = iter(needs)
        self._describe = describe
        self._stop = stop
        self._lock = threading.Lock()
        self.error: Exception | None = None
        self.ending: str | None = None

    def start_thread(self) -> threading.Event:
        """A thread that works; the event says that it has ended."""
        ended = threading.Event()

        def run() -> None:
            try:
                self.work()
            finally:
                ended.set()

        # A daemon: after a second interrupt nobody waits for it. An executor's threads would be waited for.
        threading.Thread(target=run, daemon=True).start()
        return ended

    def work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                need = next(self._needs, None)
            if need is None:
                return
            try:
                ending = self._describe(need)
            except StoppedError:
                return
            except Exception as error:  # raised again by `work_off`: a thread has nobody above it
                with self._lock:
                    self.error = self.error or error
                self._stop.set()
                return
            if ending is not None:
                with self._lock:
                    self.ending = self.ending or ending
                self._stop.set()


def _wait_for(ended: Iterable[threading.Event]) -> None:
    # Not Thread.join: where Python 3.11 is interrupted in it, it takes the thread for ended. With a time-out: without one an
    # interrupt is not seen before the thread ends.
    for event in ended:
        while not event.wait(0.2):
            pass


def _readable(path: Path, longest_side: int) -> bytes:
    try:
        return to_send(path, longest_side=longest_side)
    except DataError as error:
        raise RefusedError(UNREADABLE, str(error)) from error


def _prompt_of(row: Row, prompts: Prompts) -> CaptionPrompt:
    return prompts.caption(int(row["id"].rpartition("-c")[2]))
