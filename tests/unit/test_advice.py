"""Advice: every rule fires on the fault it is for and on no other, and a clean run gets none."""

from __future__ import annotations

import math
import re
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.cli import main
from mlxtune.evaluate.advice import RULES, Figures, advise, figures_of
from mlxtune.evaluate.advice_training import ends
from mlxtune.evaluate.figures import AnswerFigures, ChangeFigures, ControlFigures, DataFigures, KindFigures, TrainingFigures
from mlxtune.evaluate.results import benchmark_results
from mlxtune.evaluate.schemas.error_analysis import Advice
from mlxtune.recipe import Recipe
from mlxtune.recipe.spec import inside
from tests.helpers.planted_run import FAULTS, ROWS, STEPS, Plan, write_run


def recipe(**sections: dict[str, Any]) -> Recipe:
    base: dict[str, Any] = {"model": {"path": "m"}, "data": {"path": "d"}}
    return Recipe.model_validate({**base, **sections})


def fired(figures: Figures) -> list[str]:
    return [told.rule for told in advise(figures)]


# ---- planted in a run folder


def test_a_clean_run_gets_no_advice(tmp_path: Path) -> None:
    assert advise(figures_of(write_run(tmp_path, Plan()))) == ()


def test_every_rule_has_its_fault() -> None:
    assert set(FAULTS) == {rule.name for rule in RULES} and len(RULES) == len({rule.name for rule in RULES})


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_gets_its_advice_alone(fault: str, tmp_path: Path) -> None:
    (told,) = advise(figures_of(write_run(tmp_path, FAULTS[fault])))
    assert told.rule == fault and told.figures and told.worth > 0
    assert re.search(r"\d", told.text), "the sentence has its figure"
    assert all(key in told.text for key in told.keys if key in ("data.suffix", "evaluate.max_new_tokens", "model.max_pixels"))
    Advice.model_validate(told.to_dict())


def test_two_faults_are_ranked_by_what_they_are_worth(tmp_path: Path) -> None:
    plan = replace(FAULTS["wrong_form"], validation=FAULTS["still_improving"].validation, data=FAULTS["seen_in_training"].data)
    found = advise(figures_of(write_run(tmp_path, plan)))
    assert {told.rule for told in found} == {"seen_in_training", "wrong_form", "still_improving"}
    assert found[0].rule == "seen_in_training"
    assert [told.worth for told in found] == sorted((told.worth for told in found), reverse=True)


# ---- what the figures are


def test_figures_of_a_run(tmp_path: Path) -> None:
    figures = figures_of(write_run(tmp_path, FAULTS["rows_skipped"]))
    assert figures.answers and figures.score and figures.controls and figures.training and figures.data
    assert (figures.answers.rows, figures.answers.wrong) == (ROWS, ROWS // 5)
    assert figures.score.change == pytest.approx(0.4) and figures.score.low < 0.4 < figures.score.high
    assert (figures.controls.full, figures.controls.blank) == (0.8, 0.3)
    assert len(figures.training.losses) == STEPS and len(figures.training.validation) == 4
    assert figures.data.skipped == {"picture missing": 90, "field missing": 4} and figures.data.train_rows == 1000
    assert set(figures.sets) == {"general"} and figures.sets["general"].detectable is False
    assert {(kind.column, kind.value, kind.n) for kind in figures.answers.kinds} == {
        ("kind", kind, 100) for kind in ("color", "предмет", "value")
    }


def test_what_a_run_does_not_tell_is_unknown(tmp_path: Path) -> None:
    run = write_run(tmp_path, Plan())
    for name in ("train.jsonl", "validation.jsonl", "after/controls.json", "before/metrics.json", "before/general/metrics.json"):
        (run.path / name).unlink()
    run.update_info(data={})
    figures = figures_of(run)
    assert figures.training is None and figures.controls is None and figures.data is None
    assert figures.score.before is None and figures.score.change is None and figures.sets["general"].low is None
    assert advise(figures) == ()


def test_nothing_known_nothing_said() -> None:
    assert advise(Figures(recipe=recipe())) == ()


def test_every_key_is_one_of_the_recipe(tmp_path: Path) -> None:
    keys = {key for rule in RULES for key in rule.keys}
    for fault in ("rows_skipped", "still_improving", "wrong_form"):
        keys |= {key for told in advise(figures_of(write_run(tmp_path, FAULTS[fault]))) for key in told.keys}
    for key in keys:
        section, name = key.split(".")
        assert name in inside(Recipe, section).model_fields, key


# ---- where a rule begins to speak


def answers(**more: Any) -> Figures:
    shares = {"rows": 100, "wrong": 50, "causes": {}, "families": {}}
    return Figures(recipe=recipe(), answers=AnswerFigures(**{**shares, **more}))


@pytest.mark.parametrize(
    ("figures", "rules"),
    [
        (answers(families={"wrong form": 0.2}), ["wrong_form"]),
        (answers(families={"wrong form": 0.19}), []),
        (answers(families={"wrong form": 0.2}, wrong=9), []),
        (answers(families={"wrong form": 0.3}, causes={"form_language": 0.15}), ["wrong_language"]),
        (answers(families={"cut off": 0.1}), ["cut_off"]),
        (answers(families={"cut off": 0.09}), []),
        (answers(families={"near miss": 0.25}), ["near_misses"]),
        (answers(families={"near miss": 0.24}), []),
        (answers(families={"repetition": 0.1}), ["repetition"]),
        (answers(families={"repetition": 0.05}), []),
        (answers(families={"refusal or empty": 0.15}), ["refusals"]),
        (answers(families={"refusal or empty": 0.14}), []),
        (answers(families={"image missing": 0.05}), ["pictures_missing"]),
        (answers(families={"image missing": 0.04}), []),
        (answers(families={"reference doubtful": 0.05}), ["references_doubtful"]),
        (answers(families={"reference doubtful": 0.04}), []),
    ],
)
def test_shares_of_wrong_answers(figures: Figures, rules: list[str]) -> None:
    assert fired(figures) == rules


@pytest.mark.parametrize(
    ("kinds", "fires"),
    [
        ([("a", 50, 10), ("b", 50, 40)], True),
        ([("a", 50, 30), ("b", 50, 40)], False),  # 20 points apart
        ([("a", 19, 2), ("b", 81, 70)], False),  # too few rows
        ([("a", 20, 10), ("b", 20, 16)], False),  # may be chance
        ([("a", 100, 20)], False),  # no other kind
    ],
)
def test_a_weak_kind(kinds: list[tuple[str, int, int]], fires: bool) -> None:
    figures = answers(kinds=tuple(KindFigures("kind", *kind) for kind in kinds))
    assert fired(figures) == (["weak_kind"] if fires else [])


def test_options_are_offered_where_there_are_some() -> None:
    form = {"families": {"wrong form": 0.41}}
    (plain,), (options,) = advise(answers(**form)), advise(answers(**form, has_options=True))
    assert "evaluate.answer_mode" not in plain.keys and "evaluate.answer_mode" in options.keys
    assert plain.text.startswith("41 % of the wrong answers contain the right one")
    asked = replace(answers(**form, has_options=True), recipe=recipe(evaluate={"answer_mode": "options"}))
    assert "evaluate.answer_mode" not in advise(asked)[0].keys


def curve(losses: list[float] | None = None, **more: Any) -> Figures:
    training = TrainingFigures(tuple(losses or [1.0] * 10), **more)
    return Figures(recipe=recipe(), training=training)


def looks(*losses: float) -> tuple[tuple[int, float], ...]:
    return tuple((100 * (n + 1), loss) for n, loss in enumerate(losses))


@pytest.mark.parametrize(
    ("figures", "rules"),
    [
        (curve(validation=looks(1.0, 0.5, 0.53)), ["overfit"]),
        (curve(validation=looks(1.0, 0.5, 0.52)), []),
        (curve(validation=looks(0.5, 0.9)), []),  # two looks are no trend
        (curve(validation=looks(1.0, 0.8, 0.7)), ["still_improving"]),
        (curve(validation=looks(1.0, 0.8, 0.79)), []),
        (curve(validation=looks(0.5, 0.8, 0.7)), ["overfit"]),
        (curve([4.0] * 100), ["plateau"]),
        (curve([4.0] * 15), []),
        (curve([0.4] * 100), []),  # knows it already
        (curve([4.0 - 0.01 * n for n in range(100)]), []),
        (curve(grad_norms=(1.0,) * 98 + (11.0,) * 2), ["gradient_spikes"]),
        (curve(grad_norms=(1.0,) * 99 + (11.0,)), []),
        (curve(grad_norms=(1.0,) * 10 + (99.0,) * 2), []),
    ],
)
def test_curves(figures: Figures, rules: list[str]) -> None:
    assert fired(figures) == rules


def test_the_step_of_the_rise_is_named() -> None:
    (told,) = advise(curve(validation=looks(1.0, 0.6, 0.5, 0.6, 0.8)))
    assert told.text.startswith("The validation loss rises from step 300 on") and told.figures["step"] == 300


def test_a_run_that_patience_ended_is_not_told_to_be_longer() -> None:
    training = TrainingFigures((1.0,) * 10, validation=looks(1.0, 0.8, 0.7), out_of_patience=True)
    (told,) = advise(Figures(recipe=recipe(train={"patience": 2, "best": "relaxed_accuracy"}), training=training))
    assert told.keys == ("train.patience",) and "train.epochs" not in told.text
    assert told.text.endswith("train.patience (2) ended the run because relaxed accuracy did not get better: raise it")


@pytest.mark.parametrize(("patience", "over"), [(None, False), (4, True), (5, False)])
def test_whether_patience_was_over(patience: int | None, over: bool, tmp_path: Path) -> None:
    run = write_run(tmp_path, Plan(recipe={"train": {"patience": patience}}))  # four looks, none of them the best
    training = figures_of(run).training
    assert training and training.out_of_patience is over


def test_only_commands_that_there_are_get_recommended(tmp_path: Path) -> None:
    for fault, plan in FAULTS.items():
        (told,) = advise(figures_of(write_run(tmp_path / fault, plan)))
        assert set(re.findall(r"`mlxtune (\w+)", told.text)) <= set(main.commands), fault


def test_ends_of_a_curve() -> None:
    assert ends(tuple(float(n) for n in range(100))) == pytest.approx((4.5, 94.5))
    assert ends((1.0,) * 19) is None


def change(before: float, after: float, low: float, high: float, *, rows: int = 100, detectable: bool = False) -> ChangeFigures:
    return ChangeFigures(rows, before, after, low, high, detectable)


@pytest.mark.parametrize(
    ("score", "rules"),
    [
        (change(0.4, 0.45, -0.05, 0.15), ["too_few_test_rows"]),
        (change(0.4, 0.45, -0.005, 0.105), ["too_few_test_rows"]),
        (change(0.4, 0.45, 0.01, 0.09, detectable=True), []),
        (change(0.4, 0.4, -0.015, 0.015), []),  # known well enough: there is no change
        (change(0.4, 0.2, -0.3, -0.1, detectable=True), ["got_worse"]),
    ],
)
def test_the_score_and_its_interval(score: ChangeFigures, rules: list[str]) -> None:
    assert fired(Figures(recipe=recipe(), score=score)) == rules


def test_how_many_rows_would_do() -> None:
    (told,) = advise(Figures(recipe=recipe(), score=change(0.4, 0.45, -0.05, 0.15)))
    assert "about 400 rows" in told.text  # half the width needs four times the rows


@pytest.mark.parametrize(
    ("losses", "low", "fires"), [((2.0, 0.5), -0.01, True), ((2.0, 0.5), 0.01, False), ((2.0, 1.9), -0.01, False)]
)
def test_loss_without_score(losses: tuple[float, float], low: float, fires: bool) -> None:
    training = TrainingFigures((losses[0],) * 20 + (losses[1],) * 20)
    figures = Figures(recipe=recipe(), training=training, score=change(0.4, 0.4, low, 0.011, detectable=low > 0))
    assert ("loss_without_score" in fired(figures)) is fires


@pytest.mark.parametrize(
    ("way", "value", "rows", "rules"),
    [
        ("blank", 0.73, 64, ["picture_not_needed"]),
        ("blank", 0.71, 64, []),
        ("blank", 0.80, 20, []),
        ("shuffled", 0.73, 64, ["picture_not_used"]),
        ("shuffled", 0.70, 64, []),
        ("majority", 0.77, 64, ["majority_is_as_good"]),
        ("majority", 0.75, 64, []),
    ],
)
def test_controls(way: str, value: float, rows: int, rules: list[str]) -> None:
    controls = ControlFigures(rows=rows, full=0.8, **{"blank": None, "shuffled": None, "majority": None, way: value})
    assert fired(Figures(recipe=recipe(), controls=controls)) == rules


def test_a_full_score_of_nothing_says_nothing_of_controls() -> None:
    assert (
        fired(Figures(recipe=recipe(), controls=ControlFigures(rows=64, full=0.0, blank=0.0, shuffled=0.0, majority=0.5))) == []
    )


@pytest.mark.parametrize(
    ("data", "rules"),
    [
        (DataFigures(used_rows=980, skipped={"picture missing": 20}), ["rows_skipped"]),
        (DataFigures(used_rows=990, skipped={"picture missing": 10}), []),
        (DataFigures(used_rows=0), []),
        (DataFigures(shared_pictures=1, test_pictures=100), ["seen_in_training"]),
        (DataFigures(shared_pictures=0, test_pictures=100), []),
    ],
)
def test_data(data: DataFigures, rules: list[str]) -> None:
    assert fired(Figures(recipe=recipe(), data=data)) == rules


def test_what_is_skipped_decides_the_key() -> None:
    pictures = DataFigures(used_rows=100, skipped={"picture missing": 20, "field missing": 1})
    fields = DataFigures(used_rows=100, skipped={"picture missing": 1, "field missing": 20})
    keys = [advise(Figures(recipe=recipe(), data=data))[0].keys for data in (pictures, fields)]
    assert keys == [("data.image_folder", "data.missing_image"), ("data.max_skipped",)]


@pytest.mark.parametrize(
    ("sets", "rules"),
    [
        ({"ru": change(0.8, 0.6, -0.3, -0.1, detectable=True)}, ["forgetting"]),
        ({"ru": change(0.8, 0.78, -0.06, 0.02)}, []),
        ({"ru": change(0.6, 0.8, 0.1, 0.3, detectable=True)}, []),
    ],
)
def test_forgetting(sets: dict[str, ChangeFigures], rules: list[str]) -> None:
    assert fired(Figures(recipe=recipe(), sets=sets)) == rules


def test_stored_advice_is_plain_and_finite(tmp_path: Path) -> None:
    for told in advise(figures_of(write_run(tmp_path, FAULTS["got_worse"]))):
        stored = told.to_dict()
        assert set(stored) == {"rule", "text", "keys", "figures", "worth"} and not stored["text"].endswith(".")
        assert all(math.isfinite(value) for value in stored["figures"].values())


def test_scores_are_shares_of_their_scale(tmp_path: Path) -> None:
    run = write_run(tmp_path, Plan())
    results = benchmark_results(run)
    metric = results["sets"]["test"]["metrics"]["exact_match"]
    metric["scale"] = 100.0
    for part, key in (("before", "value"), ("after", "value"), ("change", "low"), ("change", "high")):
        metric[part][key] *= 100.0
    controls = {key: 100.0 * results["sets"]["test"]["controls"][key] for key in ("full", "blank", "shuffled", "majority")}
    results["sets"]["test"]["controls"] |= controls
    found, plain = figures_of(run, results=results), figures_of(run)
    assert found.score and plain.score and found.controls and plain.controls
    assert astuple(found.score) == pytest.approx(astuple(plain.score))
    assert astuple(found.controls) == pytest.approx(astuple(plain.controls))


def test_pictures_shared_with_the_validation_rows_are_no_leak(tmp_path: Path) -> None:
    shared = [{"splits": ["train", "validation"], "pictures": 40, "first": ["a", "a"]}]
    assert advise(figures_of(write_run(tmp_path, Plan(data={"shared_pictures": shared})))) == ()
