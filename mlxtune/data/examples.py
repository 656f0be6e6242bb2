"""Examples that stay on disk: each is written once into a temporary file without a name and read back when it is used.

A row costs some 100 bytes of memory (where it lies, and hashes of its id, group and pictures), whatever it holds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from mlxtune.data.archives import Member
from mlxtune.data.held import Held, Spool
from mlxtune.data.packing import Handles, pack, unpack
from mlxtune.errors import DataError
from mlxtune.images import ImageRef
from mlxtune.types import Example

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Pieces(Held):
    """Pieces of bytes in a temporary file without a name: written in order, read back by number, from any thread."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="mlxtune-", buffering=1 << 18)
        self._ends = array("q", [0])
        self._flushed = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, piece: bytes) -> int:
        """The piece's number. Raises DataError where the disk is full."""
        try:
            self._file.write(piece)
        except OSError as error:
            raise _no_room(error) from error
        self._ends.append(self._ends[-1] + len(piece))
        return len(self) - 1

    def __getitem__(self, number: int) -> bytes:
        begin, end = self._ends[number], self._ends[number + 1]
        if end > self._flushed:
            self._flush()
        return os.pread(self._file.fileno(), end - begin, begin)

    def _flush(self) -> None:
        with self._lock:
            end = self._ends[-1]
            try:
                self._file.flush()
            except OSError as error:
                raise _no_room(error) from error
            self._flushed = end


class Head(NamedTuple):
    """What the record of a run tells of a row."""

    id: str  # unique within its split
    where: str
    sha256: bytes  # of what is asked, answered and shown; the id is not part of it


class Store:
    """All rows that were loaded, by number: examples and heads in files, what splits are made from in memory.

    ids, links: 64-bit hashes, 0 = none; rows of one link stay in one split (`Example.group`, or the question of a row without
    pictures). picture_keys, picture_bytes: one entry a picture, those of row n lie between
    `picture_ends[n]` and `picture_ends[n + 1]`. bytes: of the picture's file; for one that is named by its content the negative
    size of that; 0 = unknown.
    codes: number of the value that training is balanced over, -1 = none.
    """

    def __init__(self) -> None:
        self._examples, self._heads, self._pictures = Pieces(), Pieces(), Spool()
        self._handles = Handles()
        self._folders: dict[str, int] = {"": 0}
        self.digests = bytearray()  # 32 a row
        self.ids, self.links, self.codes = array("Q"), array("Q"), array("i")
        self.picture_ends, self.picture_keys, self.picture_bytes = array("q", [0]), array("Q"), array("q")

    def __len__(self) -> int:
        return len(self.codes)

    def add(self, example: Example, *, where: str, picture_bytes: Sequence[int], code: int = -1) -> int:
        """The row's number. picture_bytes: see above, one for each picture."""
        self._examples.append(pack(example, self._handles))
        self._heads.append(f"{where}\0{example.id}".encode(errors="surrogatepass"))
        self.digests += row_digest(example, [size if size > 0 else None for size in picture_bytes])
        self.ids.append(hash64(example.id) if example.id else 0)
        self.links.append(_link(example))
        self.codes.append(code)
        self.picture_keys.extend(map(self.picture_hash, example.images))
        self.picture_bytes.extend(picture_bytes)
        self.picture_ends.append(len(self.picture_keys))
        return len(self) - 1

    def picture_hash(self, image: ImageRef) -> int:
        """Hash of a picture's name. Names of the first folder count as they are, so that they mean the same on any machine."""
        number = self._folders.setdefault(image.folder, len(self._folders))
        return hash64(image.key if number < 2 else f"{number}/{image.key}")

    def keep(self, content: bytes) -> Callable[[], bytes]:
        """Puts an encoded picture aside that cannot be read again from where it came; the result reads it."""
        return self._pictures.put(content)

    def example(self, row: int) -> Example:
        return unpack(self._examples[row], self._handles)

    def head(self, row: int) -> Head:
        where, _, own = self._heads[row].decode(errors="surrogatepass").partition("\0")
        return Head(own, where, bytes(self.digests[32 * row : 32 * row + 32]))

    def pictures_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place in `rows`, index into `picture_keys`) of every picture of these rows."""
        ends = np.array(self.picture_ends)
        counts = ends[rows + 1] - ends[rows]
        places = np.repeat(np.arange(len(rows)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        return places, np.arange(len(places)) - first + np.repeat(ends[rows], counts)


class Examples(Sequence[Example]):
    """Rows of one split, read when they are asked for; slices and lists of places give views of the same rows.

    rows: [N] int64, numbers in `store`. positions: [N] int64, names a row that has no id of its own ("train-7").
    times: [N] int64; above 1 where the id came before, as in "a#2".
    """

    def __init__(self, store: Store, *, split: str, rows: np.ndarray, positions: np.ndarray, times: np.ndarray) -> None:
        self.store, self.split, self.rows, self._positions, self._times = store, split, rows, positions, times

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice | Sequence[int] | np.ndarray) -> Examples: ...
    def __getitem__(self, place: int | slice | Sequence[int] | np.ndarray) -> Example | Examples:
        if isinstance(place, (int, np.integer)):
            example = self.store.example(int(self.rows[place]))
            named = self._named(example.id, int(place))
            return example if named == example.id else replace(example, id=named)
        chosen = place if isinstance(place, slice) else np.asarray(place, dtype=np.int64)
        parts = {"rows": self.rows[chosen], "positions": self._positions[chosen], "times": self._times[chosen]}
        return Examples(self.store, split=self.split, **parts)

    def __iter__(self) -> Iterator[Example]:
        return (self[place] for place in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self)} examples of {self.split}>"

    def head(self, place: int) -> Head:
        """Id, place in the source and hash of a row, without reading all of it."""
        head = self.store.head(int(self.rows[place]))
        return head._replace(id=self._named(head.id, place))

    @cached_property
    def sha256(self) -> bytes:
        """The split's part of `data_fingerprint`."""
        return _sha256(self.split, map(self.head, range(len(self))))

    def pictures(self) -> int:
        """How many different pictures these rows show, told by name or, where they have none, by content."""
        _, found = self.store.pictures_of(self.rows)
        return len(np.unique(np.array(self.store.picture_keys)[found]))

    def _named(self, own: str, place: int) -> str:
        name = own or f"{self.split}-{self._positions[place]}"
        return name if self._times[place] < 2 else f"{name}#{self._times[place]}"


def identified(store: Store, rows: np.ndarray, *, split: str) -> Examples:
    """These rows as a split in which every id is unique: an id that comes again becomes "<id>#2", "<id>#3", …."""
    used: set[int] = set()
    last: dict[int, int] = {}
    times = np.ones(len(rows), np.int64)
    for place, row in enumerate(rows.tolist()):
        own = store.ids[row] or hash64(f"{split}-{place + 1}")
        unique = own
        while unique in used:
            last[own] = times[place] = last.get(own, 1) + 1
            unique = hash64(f"{store.head(row).id or f'{split}-{place + 1}'}#{times[place]}")
        used.add(unique)
    return Examples(store, split=split, rows=rows, positions=np.arange(1, len(rows) + 1), times=times)


def data_fingerprint(examples: Mapping[str, Iterable[Example]]) -> str:
    """SHA-256 (hex) over ids, questions, earlier turns, options, accepted answers and pictures (files: name and size in bytes)
    of all splits, in their order. The same on every machine: neither folders nor times are part of it."""
    digest = hashlib.sha256()
    for split in sorted(examples):
        rows = examples[split]
        digest.update(rows.sha256 if isinstance(rows, Examples) else _sha256(split, map(_head, rows)))
    return digest.hexdigest()


def row_digest(example: Example, sizes: Sequence[int | None]) -> bytes:
    """SHA-256 of what is asked, answered and shown. The last turn's prompt is the recipe's, the data's part is its question.

    sizes: of each picture, see `file_bytes`.
    """
    earlier = [message for message in example.messages[:-1] if message.get("role") != "system"]
    images = [(image.key, size) for image, size in zip(example.images, sizes, strict=True)]
    answers = [example.target, list(example.references), list(example.choices.items())]
    return hashlib.sha256(json.dumps([example.question, answers, earlier, images]).encode()).digest()


def file_bytes(image: ImageRef) -> int | None:
    """Size of a picture's file, also in an archive; None for pictures that have none or are named by their content."""
    if isinstance(image.source, Member):
        return int(image.source.stamp.split("|")[1])  # "|size|sum"
    return os.path.getsize(image.source) if isinstance(image.source, Path) else None


def hash64(text: str) -> int:
    """64 bits that never are 0; two of a million names share one with a chance of 3e-8."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()) or 1


def _link(example: Example) -> int:
    if example.group:
        return hash64(f"group:{example.group}")
    return 0 if example.images else hash64(f"question:{example.question}")


def _sha256(split: str, heads: Iterable[Head]) -> bytes:
    digest = hashlib.sha256()
    for head in heads:
        digest.update(json.dumps([split, head.id]).encode() + head.sha256)
    return digest.digest()


def _head(example: Example) -> Head:
    return Head(example.id, "", row_digest(example, [file_bytes(image) for image in example.images]))


def _no_room(error: OSError) -> DataError:
    folder = tempfile.gettempdir()
    if error.errno in _FULL:
        return DataError(f"{folder}: no room for the rows ({error.strerror}). Set TMPDIR to a folder on a larger disk")
    return DataError(f"{folder}: rows cannot be written ({error.strerror or error}). Set TMPDIR to a folder that can")
