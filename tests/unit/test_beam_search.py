"""Beam search on small languages whose best sentence is known by trying all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from mlxtune.backends.base import Likeliest
from mlxtune.beam_search import Beam, beam_search, width

Language = Callable[[tuple[int, ...]], np.ndarray]  # what was said -> probabilities of the next token
STOP = 0


def language(seed: int, *, words: int = 6) -> Language:
    def following(said: tuple[int, ...]) -> np.ndarray:
        drawn = np.random.default_rng([seed, *said]).standard_normal(words) * 1.5
        return np.exp(drawn) / np.exp(drawn).sum()

    return following


@dataclass
class Rows:
    """One row for each language; remembers what each row has said and how many rows there were."""

    languages: list[Language]
    top: int
    said: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.said = [(number, ()) for number in range(len(self.languages))]
        self._look()

    def _look(self) -> None:
        logs = np.log([self.languages[number](said) for number, said in self.said]).astype(np.float32)
        ids = np.argsort(-logs, axis=-1, kind="stable")[:, : self.top].astype(np.int32)
        self.following = Likeliest(ids, np.take_along_axis(logs, ids, axis=-1))

    def keep(self, rows: np.ndarray) -> None:
        self.said = [self.said[row] for row in rows]

    def go_on(self, tokens: np.ndarray) -> Likeliest:
        assert tokens.dtype == np.int32 and len(tokens) == len(self.said)
        self.said = [(number, (*said, int(token))) for (number, said), token in zip(self.said, tokens, strict=True)]
        self.heights.append(len(self.said))
        self._look()
        return self.following


def search(*languages: Language, beams: int, longest: int, stop_ids: tuple[int, ...] = (STOP,)) -> list[Beam]:
    rows = Rows(list(languages), top=width(beams, stop_ids))
    return beam_search(rows, beams=beams, stop_ids=stop_ids, max_new_tokens=longest)


def mean_log(language: Language, said: tuple[int, ...]) -> float:
    return float(np.mean([np.log(language(said[:place])[token]) for place, token in enumerate(said)]))


def table(**probabilities: list[float]) -> Language:
    """Probabilities by what was said, as "" or "1 2"; anything else goes on evenly."""
    return lambda said: np.array(probabilities.get("_".join(("said", *map(str, said))), [0.25] * 4))


# Greedy begins with 1 and finds nothing likely behind it; 2 is followed by near-certainty.
TRAP = table(said=[0.01, 0.55, 0.43, 0.01], said_2=[0.01, 0.01, 0.01, 0.97], said_2_3=[0.97, 0.01, 0.01, 0.01])


def test_the_best_whole_answer_wins_over_the_best_first_token() -> None:
    (greedy,) = search(TRAP, beams=1, longest=3)
    (best,) = search(TRAP, beams=2, longest=3)
    assert greedy.ids[0] == 1
    assert best.ids == (2, 3) and best.stopped
    assert best.score == pytest.approx(np.log([0.43, 0.97, 0.97]).mean(), abs=1e-6), "the token that ends counts"


@pytest.mark.parametrize("seed", range(8))
def test_with_room_for_all_it_finds_the_best_of_all(seed: int) -> None:
    words = language(seed)
    best = max(itertools.product(range(6), repeat=3), key=lambda said: mean_log(words, said))
    (found,) = search(words, beams=36, longest=3, stop_ids=())
    assert found.ids == best and not found.stopped
    assert found.score == pytest.approx(mean_log(words, best), abs=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_an_answers_score_is_the_mean_of_its_tokens(seed: int) -> None:
    words = language(seed)
    (found,) = search(words, beams=3, longest=6)
    said = (*found.ids, STOP) if found.stopped else found.ids
    assert found.score == pytest.approx(mean_log(words, said), abs=1e-5)
    assert STOP not in found.ids and len(said) <= 6


@pytest.mark.parametrize("stop_ids", [(STOP,), (STOP, 3), (STOP, 2, 5)])
def test_company_changes_nothing_and_rows_that_are_done_leave(stop_ids: tuple[int, ...]) -> None:
    languages = [language(seed, words=14) for seed in range(9)]
    alone = [search(words, beams=3, longest=12, stop_ids=stop_ids)[0] for words in languages]
    rows = Rows(languages, top=width(3, stop_ids))
    assert beam_search(rows, beams=3, stop_ids=stop_ids, max_new_tokens=12) == alone
    assert rows.heights[0] == 27 and rows.heights == sorted(rows.heights, reverse=True)
    assert rows.heights[-1] < 27, "some must be done before others"


def test_it_ends_when_no_open_beam_can_win() -> None:
    sure = table(said=[0.97, 0.01, 0.01, 0.01])
    rows = Rows([sure], top=width(1, (STOP,)))
    (found,) = beam_search(rows, beams=1, stop_ids=(STOP,), max_new_tokens=50)
    assert found == Beam((), pytest.approx(np.log(0.97), abs=1e-6), True) and not rows.heights


def test_an_answer_that_ends_behind_the_best_beams_does_not_count() -> None:
    """Ends are taken from as many candidates as there are beams; the others only keep beams open."""
    first, later = np.array([0.10, 0.45, 0.44, *[1e-3] * 38]), np.array([1e-9, *[1 / 40] * 40])

    def following(said: tuple[int, ...]) -> np.ndarray:
        return later if said else first

    assert np.log(0.10) > np.log([0.45, 1 / 40, 1 / 40, 1 / 40]).mean(), "had it counted, it would win"
    (found,) = search(following, beams=2, longest=4)
    assert len(found.ids) == 4 and found.ids[0] == 1 and not found.stopped


@pytest.mark.parametrize(("stops", "expected"), [((), 8), ((0,), 8), ((0, 1), 12), ((0, 1, 2), 16)])
def test_enough_tokens_are_looked_at_that_beams_stay_open(stops: tuple[int, ...], expected: int) -> None:
    assert width(4, stops) == expected
