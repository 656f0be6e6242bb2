"""Intervals and paired comparisons: against scipy and statsmodels on known cases, and by simulation of what they promise."""

import time

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from mlxtune.metrics import METRICS, Item, score
from mlxtune.statistics import Interval, Paired, interval, metric_interval, paired, paired_metric, row_clusters
from mlxtune.statistics.formulas import bonett_price, sign_flips


def flags(right, wrong):
    return [1.0] * right + [0.0] * wrong


# -- intervals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skewed", [False, True])
def test_bootstrap_is_scipys(skewed):
    values = np.random.default_rng(1).random(60) ** (4 if skewed else 1)
    want = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=9_999, rng=np.random.default_rng(0)).confidence_interval
    got = interval(values.tolist())
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=1e-12)  # the same draws, so the same numbers
    assert got == Interval(got.low, got.high, 0.95, 60, 60, "BCa bootstrap")


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("right", "n"), [(0, 20), (20, 20), (1, 1), (0, 1), (3, 20), (19, 20), (10, 19), (5, 1000), (995, 1000)])
def test_few_right_or_few_wrong_use_wilson(right, n, level):
    want = proportion_confint(right, n, alpha=1 - level, method="wilson")
    got = interval(flags(right, n - right), level=level)
    assert got.method == "Wilson" and (got.low, got.high) == pytest.approx(want, abs=1e-12)


def test_twenty_questions_show_their_width():
    """What the reference projects' samples hide: 0.39 of 20 or so questions is anything from a fifth to six tenths."""
    got = interval(flags(8, 12))
    assert got.low == pytest.approx(0.219, abs=0.001) and got.high == pytest.approx(0.613, abs=0.001)


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([], {}, (None, None, 0, 0, "none")),
        ([None, None], {}, (None, None, 0, 0, "none")),
        ([0.4], {}, (None, None, 1, 1, "none")),
        ([0.4, 0.4, 0.4], {}, (None, None, 3, 3, "none")),
        ([0.2, 0.6, 0.9, 0.4], {"clusters": "aaaa"}, (None, None, 4, 1, "none")),
    ],
)
def test_unknown_is_none(values, options, expected):
    got = interval(values, **options)
    assert (got.low, got.high, got.n, got.clusters, got.method) == expected


def test_ungraded_items_and_their_clusters_are_left_out():
    values = [0.1, None, 0.5, 0.9, None, 0.3]
    assert interval(values, clusters=[1, 2, 1, 3, 3, 4]) == interval([0.1, 0.5, 0.9, 0.3], clusters=["a", "a", "b", "c"])
    with pytest.raises(ValueError, match="not one value for each item: 2, 6"):
        interval(values, clusters=[1, 2])


def test_repeated_questions_do_not_narrow_the_interval():
    once = np.random.default_rng(2).random(40)
    four = np.repeat(once, 4)
    single, same = interval(once.tolist()), interval(four.tolist(), clusters=np.repeat(np.arange(40), 4).tolist())
    assert (same.low, same.high) == pytest.approx((single.low, single.high), abs=1e-12)
    assert (same.n, same.clusters) == (160, 40)
    careless = interval(four.tolist())
    assert careless.high - careless.low < 0.6 * (same.high - same.low)


def test_all_right_counts_clusters():
    got = interval(flags(80, 0), clusters=[n // 4 for n in range(80)])
    assert (got.low, got.high) == pytest.approx(proportion_confint(20, 20, method="wilson"))


def test_few_wrong_ones_of_the_same_pictures_are_resampled():
    got = interval(flags(36, 4), clusters=[n // 4 for n in range(40)])  # all four wrong on one picture of ten
    assert got.method == "BCa bootstrap" and got.low < 0.75 < proportion_confint(36, 40, method="wilson")[0]


def test_scale_and_seed():
    values = (100 * np.random.default_rng(6).random(30)).tolist()
    own, hundredth = interval(values, scale=100.0), interval([v / 100 for v in values])
    assert own.low == pytest.approx(100 * hundredth.low) and own.high == pytest.approx(100 * hundredth.high)
    assert interval(values, seed=1) == interval(values, seed=1) != interval(values, seed=2)
    assert interval(flags(40, 0), scale=1.0).high == 1.0 and interval([100.0] * 40, scale=100.0).high == 100.0


def test_many_items_use_percentiles():
    values = np.random.default_rng(4).random(2_500).tolist()
    got = interval(values)
    error = 1.96 * np.std(values) / 50
    assert got.method == "percentile bootstrap"
    assert (got.low, got.high) == pytest.approx((np.mean(values) - error, np.mean(values) + error), abs=0.1 * error)


def covered(draw, truth, *, times=1_000):
    """Share of samples whose 95 % interval holds the truth."""
    found = (interval(values, clusters=clusters, seed=n, resamples=499) for n in range(times) for values, clusters in [draw()])
    return sum(one.low <= truth <= one.high for one in found) / times


def test_coverage_of_shares():
    """Over right-or-wrong samples of many sizes and levels: a share has steps, so single cases lie beside 95 % either way."""
    rng = np.random.default_rng(7)

    def draw(n, p):
        return (rng.random(n) < p).astype(float).tolist(), None

    cases = [(n, p) for n in (20, 60, 200) for p in (0.1, 0.3, 0.5, 0.85)]
    shares = [covered(lambda n=n, p=p: draw(n, p), p, times=250) for n, p in cases]
    assert 0.93 <= np.mean(shares) <= 0.97 and min(shares) > 0.9


def test_coverage_of_graded_values():
    rng = np.random.default_rng(8)
    assert 0.93 <= covered(lambda: (rng.beta(0.5, 1.0, 60).tolist(), None), 1 / 3) <= 0.97


def test_coverage_with_clusters_and_without_them():
    """Four questions on each of forty pictures, some of them easy and some hard."""
    rng = np.random.default_rng(9)

    def draw():
        easy = rng.beta(1, 1, (40, 1))
        return (rng.random((40, 4)) < easy).astype(float).ravel().tolist(), [n // 4 for n in range(160)]

    assert 0.93 <= covered(draw, 0.5) <= 0.97
    assert covered(lambda: (draw()[0], None), 0.5, times=300) < 0.9  # what counting questions as independent would do


# -- before and after -----------------------------------------------------------------------------------------------


def outcomes(both, fixed, broken, neither):
    before = flags(both, fixed) + flags(broken, neither)
    return before, flags(both + fixed, 0) + flags(0, broken + neither)


@pytest.mark.parametrize(
    ("fixed", "broken"), [(0, 0), (1, 0), (5, 0), (6, 0), (9, 1), (10, 2), (15, 15), (30, 5), (59, 6), (121, 59), (0, 40)]
)
def test_mcnemar_is_statsmodels(fixed, broken):
    got = paired(*outcomes(30, fixed, broken, 20))
    want = mcnemar([[30, broken], [fixed, 20]], exact=True).pvalue if fixed + broken else 1.0
    assert got.p_value == pytest.approx(want)
    assert (got.fixed, got.broken, got.n) == (fixed, broken, 50 + fixed + broken)
    assert got.difference == pytest.approx((fixed - broken) / got.n) and got.method.startswith("McNemar exact, ")


def test_the_textbook_case():
    """Agresti, approval of the prime minister: 944 asked twice, 86 and 150 changed sides; the change is -0.068 ± 0.032."""
    got = paired(*outcomes(794, 86, 150, 570))
    assert got.difference == pytest.approx(-64 / 1600) and got.p_value == pytest.approx(3.716e-05, rel=1e-3)
    error = np.sqrt((86 + 150) / 1600 - (64 / 1600) ** 2) / np.sqrt(1600)
    assert (got.low, got.high) == pytest.approx((-0.04 - 1.96 * error, -0.04 + 1.96 * error), abs=0.001)
    assert got.sentence() == f"-4.0 points (95 %: {got.low * 100:.1f} … {got.high * 100:.1f})"


@pytest.mark.parametrize(
    ("fixed", "broken", "n", "low", "high"),
    [
        (0, 0, 20, -0.1260, 0.1260),  # nothing changed among twenty: up to 13 points may hide
        (20, 0, 20, 0.7350, 1.0),
        (0, 5, 100, -0.0990, 0.0009),
        (3, 1, 30, -0.0860, 0.2110),
    ],
)
def test_few_changes_use_bonett_and_price(fixed, broken, n, low, high):
    gained, lost = (fixed + 1) / (n + 2), (broken + 1) / (n + 2)
    error = 1.959964 * np.sqrt((gained + lost - (gained - lost) ** 2) / (n + 2))
    want = max(-1, gained - lost - error), min(1, gained - lost + error)
    assert bonett_price(fixed, broken, n, level=0.95) == pytest.approx(want, abs=1e-6)
    assert want == pytest.approx((low, high), abs=1e-4)
    got = paired(*outcomes(0, fixed, broken, n - fixed - broken))
    assert (got.low, got.high) == pytest.approx(want, abs=1e-6) and got.method == "McNemar exact, Bonett-Price interval"


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (flags(0, 400), flags(124, 276), "+31.0 points (95 %: 26.5 … 35.8)"),
        (flags(10, 10), flags(10, 10), "no detectable change (+0.0 points, 95 %: -12.6 … 12.6)"),
        (flags(10, 10), flags(11, 9), "no detectable change (+5.0 points, 95 %: -10.8 … 19.9)"),
        (flags(10, 10), flags(15, 5), "no detectable change (+25.0 points, 95 %: 1.2 … 44.3; p = 0.06)"),
        (flags(100, 0), flags(40, 60), "-60.0 points (95 %: -69.0 … -50.0)"),
        ([0.5, 0.25], [0.5, 0.25], "no detectable change (+0.0 points, 95 %: -69.3 … 69.3)"),
        ([0.5], [0.75], "no detectable change (+25.0 points)"),
        ([0.5, None], [None, 0.5], "no change can be told: nothing was graded both times"),
        ([], [], "no change can be told: nothing was graded both times"),
    ],
)
def test_sentences(before, after, sentence):
    got = paired(before, after)
    assert got.sentence() == sentence and got.detectable is (sentence[0] in "+-")


def test_sentences_round_to_no_minus_zero():
    known = Paired(-0.0001, -0.0004, 0.0002, 0.5, 9, 1, 2, "x")
    assert known.sentence() == "no detectable change (+0.0 points, 95 %: 0.0 … 0.0)"
    assert Paired(4.792, 3.84, 5.72, 0.001, 9, 1, 2, "x", 0.9, 100.0).sentence() == "+4.8 points (90 %: 3.8 … 5.7)"


@pytest.mark.parametrize(
    ("low", "p_value", "detectable"), [(0.01, 0.01, True), (0.01, 0.06, False), (-0.01, 0.01, False), (None, 0.01, False)]
)
def test_a_change_needs_both_the_test_and_the_interval(low, p_value, detectable):
    assert Paired(0.1, low, 0.2, p_value, 50, 8, 3, "x").detectable is detectable


def test_graded_values_are_a_bootstrap_of_differences():
    rng = np.random.default_rng(5)
    before = rng.random(50)
    after = np.clip(before + rng.normal(0.05, 0.2, 50), 0, 1)
    got = paired(before.tolist(), after.tolist())
    change = (after - before,)
    want = stats.bootstrap(change, np.mean, method="BCa", n_resamples=9_999, rng=np.random.default_rng(0)).confidence_interval
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=1e-12)
    assert got.p_value == pytest.approx(stats.ttest_rel(after, before).pvalue, abs=0.02)
    assert (got.fixed, got.broken) == ((change[0] > 0).sum(), (change[0] < 0).sum()) and got.method == "sign flips, BCa bootstrap"


@pytest.mark.parametrize(("fixed", "broken"), [(6, 0), (8, 1), (7, 3), (40, 20), (700, 620)])
def test_sign_flips_of_ones_are_mcnemars_test(fixed, broken):
    got = sign_flips(np.array([1.0] * fixed + [-1.0] * broken + [0.0] * 7), seed=0)
    assert got == pytest.approx(stats.binomtest(fixed, fixed + broken).pvalue, abs=0.01 if fixed + broken > 12 else 1e-12)


def test_clusters_make_a_change_less_sure():
    before, after = outcomes(40, 24, 8, 28)
    alone = paired(before, after)
    by_picture = paired(before, after, clusters=[n // 4 for n in range(100)])
    assert alone.detectable and not by_picture.detectable and by_picture.difference == alone.difference
    assert by_picture.high - by_picture.low > 1.3 * (alone.high - alone.low) and by_picture.method.startswith("sign flips, ")


def test_pairs_with_an_ungraded_side_are_left_out():
    assert paired([1.0, None, 0.0, 0.0], [None, 1.0, 1.0, 0.0]) == paired([0.0, 0.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="not one value for each item: 1, 1, 2"):
        paired([1.0], [1.0, 0.0])


@pytest.mark.parametrize("per_picture", [1, 4])
def test_no_change_is_rarely_called_one(per_picture):
    """5 % of comparisons without a change, or fewer, are called detectable; the interval holds zero in 93 to 97 %."""
    rng = np.random.default_rng(123)
    found, held, times = 0, 0, 500  # over 2,000: 3.7 % and 94.1 % with four questions a picture
    for n in range(times):
        easy = rng.beta(2, 2, (40, 1))
        moved = np.clip(easy + rng.normal(0, 0.25, (40, 1)) * (per_picture > 1), 0, 1)
        before, after = (((rng.random((40, per_picture)) < p) * 1.0).ravel().tolist() for p in (easy, moved))
        clusters = np.repeat(np.arange(40), per_picture).tolist()
        got = paired(before, after, clusters=clusters, seed=n, resamples=499)
        found, held = found + got.detectable, held + (got.low <= 0 <= got.high)
    assert found / times <= 0.06 and 0.93 <= held / times <= 0.97


# -- metrics over the whole set --------------------------------------------------------------------------------------

WORDS = "the dog bit man it was not surprising over lazy fox quick brown jumps".split()


def sentences(n, share, *, seed=1):
    rng, items = np.random.default_rng(seed), []
    for _ in range(n):
        truth = rng.choice(WORDS, 9)
        answer = np.where(rng.random(9) < share, truth, rng.choice(WORDS, 9))
        items.append(Item(" ".join(answer), (" ".join(truth),)))
    return items


@pytest.mark.parametrize("name", ["bleu", "chrf", "macro_f1"])
def test_corpus_metrics_are_computed_anew_in_each_resample(name):
    """The plain way: score every resample from its texts. Same spread as the fast way through sums."""
    if name == "macro_f1":
        rng = np.random.default_rng(2)
        items = [Item(str(n % 3 if rng.random() < 0.6 else 0), (str(n % 3),)) for n in range(60)]
    else:
        items = sentences(40, 0.6)
    rng = np.random.default_rng(3)
    plain = [METRICS[name].corpus([items[i] for i in rng.integers(len(items), size=len(items))])["value"] for _ in range(400)]
    got = metric_interval(name, items)
    spread = np.quantile(plain, 0.975) - np.quantile(plain, 0.025)
    assert got.low < METRICS[name].corpus(items)["value"] < got.high and got.n == len(items)
    assert got.high - got.low == pytest.approx(spread, rel=0.15) and got.low == pytest.approx(
        np.quantile(plain, 0.025), abs=spread / 4
    )


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_change_of_a_corpus_metric(name):
    before, after = sentences(150, 0.5), sentences(150, 0.7)
    got = paired_metric(name, before, after)
    values = [score([name], items)[0][name].value for items in (before, after)]
    assert got.difference == pytest.approx(values[1] - values[0]) and got.low < got.difference < got.high
    assert got.detectable and got.p_value < 0.001 and got.scale == 100.0 and got.method == "paired BCa bootstrap"
    same = paired_metric(name, before, before)
    assert not same.detectable and (same.difference, same.low, same.p_value, same.fixed) == (0.0, None, 1.0, 0)
    assert same.sentence() == "no detectable change (+0.0 points)"


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_p_value_of_a_corpus_metric_is_two_sided(seed):
    got = paired_metric(
        "bleu", sentences(80, 0.5), sentences(80, 0.55, seed=1)[:40] + sentences(80, 0.48, seed=1)[40:], seed=seed
    )
    spread = (got.high - got.low) / 2 / 1.96
    assert 0.05 < got.p_value < 0.9 and got.p_value == pytest.approx(2 * stats.norm.sf(abs(got.difference) / spread), rel=0.3)


def test_noise_in_a_corpus_metric_is_no_change():
    before, after = sentences(60, 0.5, seed=1), sentences(60, 0.5, seed=1)
    after[0], after[1] = Item("nothing", after[0].references), Item(*after[1].references, after[1].references)
    got = paired_metric("bleu", before, after)
    assert not got.detectable and got.low <= 0 <= got.high and (got.fixed, got.broken) == (1, 1)


def question(right, group, number):
    return Item("A" if right else "B", ("A",), {"A": "x", "B": "y"}, group=group, meta={"n": number})


def test_circular_accuracy_counts_questions():
    before = [question(n % 5 > 0, str(n // 2), n) for n in range(80)]
    after = [question(n % 9 > 0, str(n // 2), n) for n in range(80)]
    right = [[float(rows[n].prediction == rows[n + 1].prediction == "A") for n in range(0, 80, 2)] for rows in (before, after)]
    assert score(["circular_accuracy"], before)[0]["circular_accuracy"].value == np.mean(right[0])
    assert metric_interval("circular_accuracy", before) == interval(right[0])
    assert paired_metric("circular_accuracy", before, after) == paired(*right)
    by_picture = [n // 8 for n in range(80)]
    assert metric_interval("circular_accuracy", before, clusters=by_picture) == interval(right[0], clusters=by_picture[::2])


@pytest.mark.parametrize("name", ["exact_match", "bleu", "macro_f1", "circular_accuracy"])
def test_metric_without_gradable_items(name):
    assert metric_interval(name, [None, Item("x")]) == Interval(None, None, 0.95, 0, 0, "none")
    got = paired_metric(name, [None, Item("x")], [Item("x", ("x",)), None])
    assert got.difference is None and got.n == 0 and not got.detectable


def test_means_of_items_with_and_without_their_values():
    before, after = sentences(30, 0.4), [None, *sentences(30, 0.6)[1:]]
    values = tuple([row["rougeL"] for row in score(["rougeL"], items)[1]] for items in (before, after))
    assert paired_metric("rougeL", before, after) == paired_metric("rougeL", before, after, values=values) == paired(*values)
    assert metric_interval("rougeL", after) == metric_interval("rougeL", after, values=values[1]) == interval(values[1])


def test_five_thousand_items_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    before, after = ((rng.random(5_000) < p).astype(float).tolist() for p in (0.6, 0.65))
    clusters = (np.arange(5_000) // 3).tolist()
    for work in (lambda: interval(before, clusters=clusters), lambda: paired(before, after, clusters=clusters)):
        began = time.process_time()
        work()
        assert time.process_time() - began < 2
    items = [Item(str(n % 50 if before[n] else 7), (str(n % 50),)) for n in range(5_000)]
    began = time.process_time()
    metric_interval("macro_f1", items)
    assert time.process_time() - began < 2


# -- clusters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "clusters"),
    [
        ([], []),
        ([{}, {"images": []}, {"images": None, "group": ""}], [0, 1, 2]),
        ([{"images": ["a"]}, {"images": ["b"]}, {"images": ["a"]}], [0, 1, 0]),
        ([{"images": ["a"], "group": "1"}, {"images": ["b"], "group": "1"}, {"images": ["b"]}, {"group": "2"}], [0, 0, 0, 1]),
        ([{"images": ["a", "b"]}, {"images": ["c"]}, {"images": ["b", "c"]}], [0, 0, 0]),
        ([{"images": ["1"]}, {"group": "1"}], [0, 1]),  # a picture and a group of one name
    ],
)
def test_lines_that_share_a_picture_or_a_group(lines, clusters):
    assert row_clusters(lines) == clusters
