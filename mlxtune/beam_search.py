"""Beam search: several beginnings of an answer are followed at once, and the likeliest whole answer wins.

Semantics are those of transformers' `generate(num_beams=…)` with its defaults: an answer's score is the mean log-probability of
its tokens, the one that ends it included (`length_penalty` 1), and a prompt is done when no open beam, at its present length,
is better than the worst of as many answers as there are beams (`early_stopping` False).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

import numpy as np

from mlxtune.backends.base import Likeliest


class Rows(Protocol):
    """Prompts that a backend has read, and the likeliest tokens behind each row."""

    following: Likeliest

    def keep(self, rows: np.ndarray) -> None:
        """From now on the rows are these of them, [R] int; a row may be left out or repeated."""

    def go_on(self, tokens: np.ndarray) -> Likeliest:
        """Appends a token to each row, [R] int32, and gives the likeliest next ones."""


class Beam(NamedTuple):
    ids: tuple[int, ...]  # without the token that ended it
    score: float  # mean log-probability of its tokens in nats
    stopped: bool  # whether a token ended it; else the longest length did


def width(beams: int, stop_ids: Collection[int]) -> int:
    """How many tokens behind each row are looked at: with fewer, answers that end could leave too few beams open."""
    return max(2, 1 + len(stop_ids)) * beams


def beam_search(rows: Rows, *, beams: int, stop_ids: Collection[int], max_new_tokens: int) -> list[Beam]:
    """The best answer to each prompt. rows: one for each prompt; their `following` has `width(beams, stop_ids)` tokens a row."""
    asked = len(rows.following.ids)
    searches = [_Search(beams=beams, stop_ids=frozenset(stop_ids), longest=max_new_tokens) for _ in range(asked)]
    live = list(range(asked))  # prompts that are not done, in the order of their rows
    while True:
        ids, log_probabilities = (np.split(array, len(live)) for array in rows.following)
        steps = [searches[n].step(*pair) for n, pair in zip(live, zip(ids, log_probabilities, strict=True), strict=True)]
        going = [(place, step) for place, step in enumerate(steps) if step is not None]
        if not going:
            return [search.best for search in searches]
        height = len(ids[0])  # rows of a prompt: one at first, then one a beam
        rows.keep(np.concatenate([place * height + step.beams for place, step in going]))
        rows.go_on(np.concatenate([step.tokens for _, step in going]))
        live = [live[place] for place, _ in going]


class _Step(NamedTuple):
    beams: np.ndarray  # [beams] int; which of a prompt's rows each beam goes on from
    tokens: np.ndarray  # [beams] int32; what is appended there


class _Search:
    """One prompt's beams and the answers found so far."""

    def __init__(self, *, beams: int, stop_ids: frozenset[int], longest: int) -> None:
        self._beams, self._stops, self._longest = beams, np.array(sorted(stop_ids), np.int64), longest
        self._open: list[tuple[int, ...]] = [()]
        self._scores = np.zeros(1, np.float32)  # of the open beams: sums, best first
        self._found: list[Beam] = []  # best first, no more than there are beams

    @property
    def best(self) -> Beam:
        return self._found[0]

    def step(self, ids: np.ndarray, log_probabilities: np.ndarray) -> _Step | None:
        """ids, log_probabilities: [open beams, width]. None when the prompt is done."""
        sums = (log_probabilities + self._scores[:, None]).ravel()
        best = np.argsort(-sums, kind="stable")[: ids.shape[1]]
        parents, tokens, sums = best // ids.shape[1], ids.ravel()[best], sums[best]
        length = len(self._open[0]) + 1
        stops = np.isin(tokens, self._stops)
        ends = stops | (length == self._longest)
        # An answer counts only among the best beams; the candidates behind them are there to keep beams open.
        for place in np.flatnonzero(ends[: self._beams]):
            told = self._open[parents[place]] + (() if stops[place] else (int(tokens[place]),))
            self._found.append(Beam(told, float(sums[place] / np.float32(length)), bool(stops[place])))
        self._found = sorted(self._found, key=lambda beam: -beam.score)[: self._beams]
        chosen = np.flatnonzero(~ends)[: self._beams]
        if length == self._longest or not self._can_improve(sums[chosen[0]] / np.float32(length)):
            return None
        self._open = [(*self._open[parents[place]], int(tokens[place])) for place in chosen]
        self._scores = sums[chosen]
        return _Step(parents[chosen], tokens[chosen].astype(np.int32))

    def _can_improve(self, score: float) -> bool:
        return len(self._found) < self._beams or score > self._found[-1].score
