"""From files or the hub to examples: rows (`sources`), splits (`splits`), and one call that does it all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from mlxtune.data.sources import Source, open_source, shown
from mlxtune.data.splits import check_splits, fraction_tables, is_fraction, split_by_image
from mlxtune.errors import DataError
from mlxtune.images import ImageRef
from mlxtune.tasks import Task, get_task
from mlxtune.types import Example

__all__ = ["data_fingerprint", "load_examples"]

SPLITS = ("train", "validation", "test")


def load_examples(spec: Any, *, root: Path | str | None = None) -> dict[str, list[Example]]:
    """The examples of each split that `spec.splits` does not switch off, in file order; "train", "validation", "test" are keys.

    spec: a DataSpec. root: what `spec.path` and `spec.image_folder` start from where they are relative (default: here).
    Fractions divide the rows that no split takes by name, so that no picture is in two of them; `spec.limit` keeps the first N.
    Ids are the rows' own or "<split>-<n>"; within a split an id that comes again becomes "<id>#2", "<id>#3", ….
    Pictures are not opened, but files that are not there are refused. Raises DataError, and RecipeError for an unknown task.
    """
    task, root = get_task(spec.task), Path(root) if root is not None else None
    source = open_source(spec.path, config=spec.config, root=root)
    folder = _image_folder(spec, root=root) or source.folder
    splits = {key: getattr(spec.splits, key) for key in SPLITS if getattr(spec.splits, key) is not None}
    if not splits:
        raise DataError("data.splits: every split is switched off. Name one, for example data.splits.train: all")
    check_splits(splits, source=source)
    limits = {key: getattr(spec.limit, key) for key in splits}
    loaded: dict[str, list[Example]] = {}
    if fractions := {key: float(split) for key, split in splits.items() if is_fraction(split)}:
        everything = _examples(source, fraction_tables(splits, source=source), task=task, spec=spec, folder=folder)
        loaded |= split_by_image(everything, fractions=fractions, seed=spec.seed)
    for key in (key for key in splits if key not in fractions):
        names = [splits[key]] if splits[key] in source.tables else source.everything()
        loaded[key] = list(islice(_examples(source, names, task=task, spec=spec, folder=folder), limits[key]))
    examples = {key: _identified(loaded[key][: limits[key]], split=key) for key in splits}
    _check_filled(examples, splits=splits, limits=limits, source=source)
    _check_pictures(examples, source=source, folder=folder)
    return examples


def data_fingerprint(examples: Mapping[str, Iterable[Example]]) -> str:
    """SHA-256 (hex) over ids, questions, accepted answers and pictures of all splits, for files with their sizes in bytes."""
    digest = hashlib.sha256()
    for split in sorted(examples):
        for example in examples[split]:
            images = [(image.key, _file_bytes(image.source)) for image in example.images]
            line = [split, example.id, example.question, example.target, example.references, images]
            digest.update(json.dumps(line, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def _examples(source: Source, names: Iterable[str], *, task: Task, spec: Any, folder: Path) -> Iterator[Example]:
    for name in names:
        for row in source.tables[name]():
            yield task.example(row.values, where=row.where, spec=spec, folder=folder)


def _image_folder(spec: Any, *, root: Path | None) -> Path | None:
    if spec.image_folder is None:
        return None
    folder = (root or Path()) / Path(spec.image_folder).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"data.image_folder: no such folder '{shown(folder)}'. Give the folder that the rows' picture paths start from"
        )
    return folder


def _identified(examples: Iterable[Example], *, split: str) -> list[Example]:
    used: set[str] = set()
    times: dict[str, int] = {}
    named = []
    for number, example in enumerate(examples, start=1):
        own = unique = example.id or f"{split}-{number}"
        while unique in used:
            times[own] = times.get(own, 1) + 1
            unique = f"{own}#{times[own]}"
        used.add(unique)
        named.append(replace(example, id=unique))
    return named


def _check_filled(
    examples: Mapping[str, list[Example]], *, splits: Mapping[str, Any], limits: Mapping[str, Any], source: Source
) -> None:
    for key, rows in examples.items():
        if rows:
            continue
        if limits[key] == 0:
            raise DataError(f"data.limit.{key}: 0 rows. To leave the split out, set data.splits.{key}: null")
        there = ", ".join(f"{other} {len(others)}" for other, others in examples.items())
        why = "too few pictures for this fraction" if is_fraction(splits[key]) else "the source holds no rows there"
        raise DataError(
            f"data.splits.{key}: '{splits[key]}' of {source.name} is empty ({why}; rows: {there}). "
            "Set another, or null to leave it out"
        )


def _check_pictures(examples: Mapping[str, list[Example]], *, source: Source, folder: Path) -> None:
    images: dict[str, ImageRef] = {}
    for image in (image for rows in examples.values() for example in rows for image in example.images):
        images.setdefault(image.key, image)
    missing = [image for image in images.values() if isinstance(image.source, Path) and not os.path.isfile(image.source)]
    if missing:
        first = ", ".join(f"'{image.key}' ({image.where})" for image in missing[:3])
        raise DataError(
            f"{source.name}: {len(missing)} of {len(images)} pictures are missing in '{shown(folder)}', first: {first}. "
            "Set data.image_folder to the folder that their paths start from"
        )


def _file_bytes(source: object) -> int | None:
    return os.path.getsize(source) if isinstance(source, Path) else None
