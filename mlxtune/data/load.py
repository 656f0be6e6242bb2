"""From a recipe's data section to examples: plan the splits, read every row once, share out, weigh, and say what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mlxtune.data.base import Source
from mlxtune.data.duplicates import equal_pictures, linked, shared_pictures
from mlxtune.data.examples import Examples, identified
from mlxtune.data.mix import balanced, check_balance, repeated, weighted
from mlxtune.data.pictures import open_pictures
from mlxtune.data.read import Progress, RowReader, Sink
from mlxtune.data.result import Data, Origin
from mlxtune.data.sources import open_source
from mlxtune.data.splits import OWN, SPLITS, SplitPlan, choose_table, divide, plan_splits
from mlxtune.errors import DataError
from mlxtune.recipe.spec import DataSpec, MixSpec, RowsSpec, TestSetSpec


def load_data(spec: DataSpec, *, root: Path | str | None = None, progress: Progress | None = None) -> Data:
    """The examples of each split that `spec.splits` does not switch off ("train", "validation", "test"), in file order.

    root: where relative paths start (default: here). progress: told the rows read and, where known, all rows; a few times a
    second. Fractions, and splits that are cut out of the training rows, share no picture and no `Example.group`. Pictures are
    checked, not decoded; rows that cannot be used are skipped up to `spec.max_skipped`. Ids are the rows' own or "<split>-<n>";
    one that comes again in its split becomes "<id>#2". Raises DataError, and RecipeError for an unknown task.
    """
    root = Path(root) if root is not None else None
    sink = Sink(progress=progress)
    source, reader = _open(spec, key="data", root=root, sink=sink, balance=spec.balance)
    plan = plan_splits({key: getattr(spec.splits, key) for key in SPLITS}, source=source)
    limits = {key: getattr(spec.limit, key) for key in SPLITS}
    rows = {key: reader.read([name], split=key, limit=limits[key]) for key, name in plan.named.items()}
    pool = _read_pool(reader, plan, spec=spec, limits=limits)
    mix = list(enumerate(spec.mix)) if spec.splits.train is not None else []
    mixes = [_read_mix(further, number=number, root=root, sink=sink) for number, further in mix]
    several = len(plan.named) + len(plan.shares) + len(mixes) > 1
    equal = equal_pictures(sink.store, np.concatenate([*rows.values(), pool, *mixes])) if several else {}
    if plan.shares:
        groups = linked(sink.store, pool, equal)
        rows |= {key: pool[places] for key, places in divide(groups, shares=plan.shares, seed=spec.seed).items()}
    rows = {key: rows[key][: limits[key]] for key in SPLITS if key in rows}
    sink.finish()
    _check_filled(rows, plan=plan, spec=spec, source=source)
    splits = {key: identified(sink.store, numbers, split=key) for key, numbers in rows.items() if key != "train"}
    if "train" in rows:
        splits = {"train": _training(spec, rows["train"], mixes, reader=reader, sink=sink, source=source), **splits}
    origins = {key: _origin(key, plan, source) for key in splits}
    shared = _shared(splits, equal)
    return Data(
        splits=splits,
        origins=origins,
        skipped=sink.skipped,
        without_picture=sink.without_picture,
        shared=shared,
        mixed=tuple((further.path, len(rows_)) for (_, further), rows_ in zip(mix, mixes, strict=True)),
        sink=sink,
    )


def load_set(
    spec: TestSetSpec, *, name: str, root: Path | str | None = None, beside: Data | None = None, progress: Progress | None = None
) -> Data:
    """The rows of `evaluate.sets.<name>` as the only split, `name`. beside: the run's own data; pictures that are trained on and
    asked here are then reported. Raises DataError."""
    root, key = Path(root) if root is not None else None, f"evaluate.sets.{name}"
    sink = Sink(progress=progress, **({"store": beside.sink.store} if beside else {}))
    source, reader = _open(spec, key=key, root=root, sink=sink)
    tables = choose_table(spec.split, source=source, key=f"{key}.split", usual=(*OWN["test"], *OWN["validation"]))
    rows = reader.read(tables, split=name, limit=spec.limit)
    sink.finish()
    if not len(rows):
        raise DataError(f"{key}: {source.name} holds no rows in {', '.join(tables)}. Set {key}.split, or leave the set out")
    splits = {name: identified(sink.store, rows, split=name)}
    shared = {}
    if beside and (train := beside.splits.get("train")):
        equal = equal_pictures(sink.store, np.concatenate([train.rows, rows]))
        shared = _shared({"train": train, **splits}, equal)
    origins = {name: Origin(source.name, f"split {', '.join(map(repr, tables))}", auto=spec.split == "auto")}
    return Data(
        splits=splits,
        origins=origins,
        skipped=sink.skipped,
        without_picture=sink.without_picture,
        shared=shared,
        mixed=(),
        sink=sink,
    )


def _open(spec: RowsSpec, *, key: str, root: Path | None, sink: Sink, balance: str | None = None) -> tuple[Source, RowReader]:
    source = open_source(spec, root=root)
    find = open_pictures(spec, source=source, root=root)
    return source, RowReader(spec, key=key, source=source, find=find, sink=sink, balance=balance)


def _read_pool(reader: RowReader, plan: SplitPlan, *, spec: DataSpec, limits: Mapping[str, int | None]) -> np.ndarray:
    """The rows that are shared out. All are read, since their pictures decide; of a stream, as many as the limits need."""
    if not plan.shares:
        return np.empty(0, np.int64)
    enough = None
    if (spec.streaming or max(plan.shares.values()) == 1) and all(limits[key] for key in plan.shares):
        enough = max(math.ceil((limits[key] or 0) / share) for key, share in plan.shares.items())
    cut_from_training = set(plan.shares) & set(plan.autos)
    return reader.read(plan.pool, split="train" if cut_from_training else "all", limit=enough)


def _read_mix(mix: MixSpec, *, number: int, root: Path | None, sink: Sink) -> np.ndarray:
    key = f"data.mix[{number}]"
    source, reader = _open(mix, key=key, root=root, sink=sink)
    tables = choose_table(mix.split, source=source, key=f"{key}.split", usual=OWN["train"])
    rows = reader.read(tables, split="train", limit=mix.limit)
    if not len(rows):
        raise DataError(f"{key}: {source.name} holds no rows in {', '.join(tables)}. Set {key}.split, or remove the entry")
    return rows


def _training(
    spec: DataSpec, rows: np.ndarray, mixes: list[np.ndarray], *, reader: RowReader, sink: Sink, source: Source
) -> Examples:
    """The data set's own training rows and those of the mix behind them, each as often as balance and weights say."""
    times = np.ones(len(rows), np.int64)
    if spec.balance is not None:
        with_value = int((np.array(sink.store.codes)[rows] >= 0).sum())
        check_balance(spec.balance, rows=with_value, columns=reader.columns, name=source.name)
        times = balanced(sink.store, rows, seed=spec.seed)
    parts = [weighted(sink.store, rows, times, weight=spec.weight, seed=spec.seed)]
    for mix, mixed in zip(spec.mix, mixes, strict=True):
        parts.append(weighted(sink.store, mixed, np.ones(len(mixed), np.int64), weight=mix.weight, seed=spec.seed))
    examples = identified(sink.store, np.concatenate([rows, *mixes]), split="train")
    times = np.concatenate(parts)
    if not times.sum():
        raise DataError("data.weight: so small that no training row is left. Make it larger")
    return examples if (times == 1).all() else examples[repeated(times)]


def _origin(key: str, plan: SplitPlan, source: Source) -> Origin:
    if key in plan.named:
        how = f"split '{plan.named[key]}'"
    else:
        how = plan.autos.get(key) or f"{100 * plan.shares[key]:.3g} % of the rows"
    return Origin(source.name, how, auto=key in plan.autos)


def _shared(splits: Mapping[str, Examples], equal: Mapping[int, int]) -> dict:
    pairs = [(one, other) for at, one in enumerate(splits) for other in list(splits)[at + 1 :]]
    found = {pair: shared_pictures(splits[pair[0]], splits[pair[1]], equal) for pair in pairs}
    return {pair: shared for pair, shared in found.items() if shared}


def _check_filled(rows: Mapping[str, np.ndarray], *, plan: SplitPlan, spec: DataSpec, source: Source) -> None:
    for key, numbers in rows.items():
        if not len(numbers):
            there = ", ".join(f"{other} {len(others)}" for other, others in rows.items())
            why = "too few pictures for this fraction" if key in plan.shares else "there are no rows that can be used"
            raise DataError(
                f"data.splits.{key}: '{getattr(spec.splits, key)}' of {source.name} is empty ({why}; rows: {there}). "
                "Set another, or null to leave it out"
            )
