"""Intervals and bounds: those of scipy on the same scores, as often right as they say, and honest where there is little to go by."""

from __future__ import annotations

import numpy as np
import pytest
from llmops_components.evaluation import intervals
from llmops_components.evaluation.intervals import LEVELS
from llmops_components.evaluation.metrics.plan import plan_metrics
from llmops_components.evaluation.metrics.scoring import score_answers
from llmops_components.evaluation.statistics import Scores, compare, estimate, record

TO_ONE = (0.0, 1.0)
ROWS = [30, 100, 300]
AT_5 = LEVELS.index(0.05)


def ratio(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1])


def skewed(generator: np.random.Generator, rows: int) -> tuple[Scores, float]:
    return Scores.mean_of(generator.beta(2, 8, rows), TO_ONE), 0.2


def many_at_nothing(generator: np.random.Generator, rows: int) -> tuple[Scores, float]:
    found = np.where(generator.random(rows) < 0.3, 0, generator.beta(2, 3, rows))
    return Scores.mean_of(found, TO_ONE), 0.7 * 0.4


def yes_or_no(generator: np.random.Generator, rows: int) -> tuple[Scores, float]:
    """Of any probability: with one alone, coverage jumps with the few counts that there can be."""
    probability = generator.uniform(0.5, 0.95)
    return Scores.mean_of((generator.random(rows) < probability).astype(float), TO_ONE), probability


def corpus_ratio(generator: np.random.Generator, rows: int) -> tuple[Scores, float]:
    """Words in common of all words, as corpus BLEU counts them."""
    words = generator.poisson(8, rows) + 2
    common = generator.binomial(words, generator.beta(2, 3, rows))
    return Scores(common / words, np.column_stack([common, words]).astype(float), ratio, TO_ONE), 0.4


@pytest.fixture
def fewer_resamples(monkeypatch):
    """As many as tell a level of 5 percent, for tests that ask hundreds of times."""
    monkeypatch.setattr(intervals, "RESAMPLES", 1000)


@pytest.mark.usefixtures("fewer_resamples")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", [skewed, many_at_nothing, yes_or_no, corpus_ratio])
def test_95_percent_intervals_hold_the_true_value_in_95_percent_of_the_cases(kind, rows):
    generator = np.random.default_rng(rows)
    held = []
    for _ in range(400):
        scores, truth = kind(generator, rows)
        found = estimate(scores)
        held.append(found.low <= truth <= found.high)
    assert 0.93 <= np.mean(held) <= 0.97


def test_percentiles_alone_would_be_too_narrow():
    """What the correction is for: the same scores, and scipy's plain percentiles."""
    from scipy.stats import bootstrap

    generator = np.random.default_rng(1)
    scores = generator.beta(2, 8, (1000, 30))
    plain = bootstrap(
        (scores,), np.mean, axis=1, vectorized=True, method="percentile", n_resamples=999, rng=generator
    ).confidence_interval
    assert np.mean((plain.low <= 0.2) & (plain.high >= 0.2)) < 0.93


def pairs(generator: np.random.Generator, rows: int, gain: float) -> tuple[Scores, Scores]:
    """Scores of two models on the same rows, which differ by noise and a gain."""
    hard = generator.beta(4, 4, rows)
    ours, theirs = (np.clip(hard + generator.normal(0, 0.1, rows), 0, 1) for _ in range(2))
    return Scores.mean_of(np.clip(ours + gain, 0, 1), TO_ONE), Scores.mean_of(theirs, TO_ONE)


def difference(ours: Scores, theirs: Scores):
    """Of two means the difference is the mean of the changes."""
    return estimate(Scores.mean_of(ours.values - theirs.values, (-1.0, 1.0)))


def test_what_is_simulated_is_what_a_comparison_says():
    ours, theirs = pairs(np.random.default_rng(0), 50, 0.1)
    compared = compare(ours, theirs).difference
    assert compared.lower == pytest.approx(difference(ours, theirs).lower)


@pytest.mark.parametrize("rows", ROWS)
def test_equal_models_are_better_at_most_as_often_as_the_level_says(rows):
    from scipy.stats import binomtest

    generator = np.random.default_rng(rows)
    found = [difference(*pairs(generator, rows, 0.0)).lower for _ in range(400)]
    better = (np.array(found) > 0).sum(axis=0)
    for level, count in zip(LEVELS, better, strict=True):
        assert binomtest(int(count), 400, level, alternative="greater").pvalue > 0.02, level
    assert better[AT_5] > 8  # and no bound is so careful that it would find nothing


@pytest.mark.usefixtures("fewer_resamples")
def test_a_planted_regression_is_found_at_the_power_that_theory_says():
    """Changes of standard deviation 0.14 on 100 rows: a loss of 0.04 is found, at the level 0.05, in 88 percent of the cases."""
    from scipy.stats import norm

    generator = np.random.default_rng(0)
    planted = [pairs(generator, 100, -0.04) for _ in range(400)]
    found = [difference(*each).upper[AT_5] < 0 for each in planted]
    spread = np.mean([(ours.values - theirs.values).std(ddof=1) for ours, theirs in planted])
    expected = norm.cdf(0.04 / (spread / 10) - norm.isf(0.05))
    assert 0.85 < expected < 0.91
    assert np.mean(found) == pytest.approx(expected, abs=0.04)


def test_ends_are_those_of_scipys_paired_bootstrap_at_the_level_that_few_rows_ask_for():
    from scipy.special import ndtr
    from scipy.stats import bootstrap, t

    generator = np.random.default_rng(7)
    model, baseline = (each.values for each in pairs(generator, 60, 0.05))
    ours = compare(Scores.mean_of(model), Scores.mean_of(baseline)).difference
    width = ours.high - ours.low
    assert ours.value == pytest.approx(model.mean() - baseline.mean())
    for tail, low, high in [(0.025, ours.low, ours.high), (0.05, ours.lower[AT_5], ours.upper[AT_5])]:
        theirs = bootstrap(
            (model, baseline),
            lambda a, b, axis: a.mean(axis) - b.mean(axis),
            paired=True,
            method="BCa",
            confidence_level=1 - 2 * ndtr(-np.sqrt(60 / 59) * t.isf(tail, 59)),
            n_resamples=20_000,
            rng=generator,
        ).confidence_interval
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)


@pytest.mark.parametrize("right", [0, 3, 27, 30])
def test_bounds_of_right_and_wrong_answers_are_exact(right):
    from scipy.stats import binomtest

    found = estimate(Scores.mean_of(np.array([1.0] * right + [0.0] * (30 - right)), TO_ONE))
    interval = binomtest(right, 30).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    lower = [binomtest(right, 30, alternative="greater").proportion_ci(1 - level).low for level in LEVELS]
    upper = [binomtest(right, 30, alternative="less").proportion_ci(1 - level).high for level in LEVELS]
    assert (found.lower, found.upper) == (pytest.approx(lower), pytest.approx(upper))


def test_thirty_of_thirty_right_is_no_proof_of_perfection_and_equal_answers_none_of_equality():
    perfect = estimate(Scores.mean_of([1.0] * 30, TO_ONE))
    assert (perfect.value, perfect.high) == (1, 1)
    assert perfect.lower[AT_5] == pytest.approx(0.05 ** (1 / 30))
    same = Scores.mean_of(np.linspace(0.1, 0.9, 30), TO_ONE)
    equal = compare(same, same).difference
    assert equal.value == 0
    # As if one more row could have changed from the best to the worst: the exact bound of no case in thirty.
    assert equal.lower[AT_5] == pytest.approx(0.05 ** (1 / 30) - 1, abs=0.005)
    assert equal.upper[AT_5] == pytest.approx(-equal.lower[AT_5], abs=0.01)


def test_without_limits_few_different_scores_have_no_bounds():
    assert estimate(Scores.mean_of([2.0] * 30)).lower == ()
    some = Scores.mean_of(np.arange(30.0))
    assert len(estimate(some).lower) == len(LEVELS)
    assert compare(some, some).difference.lower == ()


def test_the_interval_is_deterministic_and_that_of_the_mean():
    values = np.random.default_rng(5).normal(2.0, 3.0, size=400)
    found = estimate(Scores.mean_of(values))
    assert found == estimate(Scores.mean_of(values))
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.1 * half
    )


def test_the_interval_does_not_depend_on_how_much_is_drawn_at_once(monkeypatch):
    scores = Scores.mean_of(np.linspace(0, 1, 20))
    whole = estimate(scores)
    monkeypatch.setattr(intervals, "_BLOCK_NUMBERS", 28)
    apart = estimate(scores)
    assert (apart.lower, apart.upper) == (pytest.approx(whole.lower), pytest.approx(whole.upper))


def test_the_interval_of_corpus_bleu_holds_it():
    answers = ["the cat on mat", "Return the sum of all numbers.", "", "kitten", "It is red, I think"]
    references = ["the cat sat on the mat", "Return the sum of all numbers.", "nothing", "sitting", "red"]
    for times in (1, 5):
        found = estimate(score_answers(plan_metrics(["bleu"]), answers * times, references * times)["bleu"])
        assert found.low < found.value < found.high


def test_models_are_compared_sample_by_sample():
    generator = np.random.default_rng(3)
    hard = generator.uniform(0, 0.8, 40)
    same_gain = compare(
        Scores.mean_of(hard + 0.1 + generator.normal(0, 0.001, 40), TO_ONE), Scores.mean_of(hard, TO_ONE)
    )
    # Paired: every sample gains the same, so there is little doubt, however much the samples differ.
    assert (same_gain.difference.low, same_gain.difference.high) == pytest.approx((0.1, 0.1), abs=0.001)
    assert same_gain.baseline.high - same_gain.baseline.low > 0.1

    mixed = compare(Scores.mean_of([0.2, 0.8, 0.5, 0.3, 0.9]), Scores.mean_of([0.1, 0.9, 0.5, 0.3, 0.7]))
    assert (mixed.wins, mixed.ties, mixed.losses, mixed.direction) == (2, 2, 1, 0)
    assert mixed.difference.value == pytest.approx(0.04)


def test_of_a_metric_that_is_better_the_lower_a_higher_score_is_a_loss():
    theirs = Scores.mean_of(np.linspace(0.1, 0.3, 30), TO_ONE, higher_is_better=False)
    ours = Scores.mean_of(np.linspace(0.5, 0.9, 30), TO_ONE, higher_is_better=False)
    found = compare(ours, theirs)
    assert (found.wins, found.losses, found.direction) == (0, 30, -1)
    assert compare(theirs, ours).direction == 1
    assert record(ours[:2], theirs[:2]).higher_is_better is False


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
def test_samples_without_a_score_of_both_models_are_left_out_and_counted(nothing):
    model = Scores.mean_of([0.2, nothing, 0.6, 0.4, 0.8])
    baseline = Scores.mean_of([0.1, 0.9, 0.5, nothing, 0.9])
    assert estimate(model) == estimate(Scores.mean_of([0.2, 0.6, 0.4, 0.8]))
    found = compare(model, baseline)
    whole = compare(Scores.mean_of([0.2, 0.6, 0.8]), Scores.mean_of([0.1, 0.5, 0.9]))
    assert (found.candidate, found.baseline, found.difference) == (
        whole.candidate,
        whole.baseline,
        whole.difference,
    )
    assert (found.scored, found.unscored) == (3, 2)
    assert (found.wins, found.ties, found.losses) == (2, 0, 1)


@pytest.mark.parametrize(("is_better", "worst"), [(True, 0.0), (False, 1.0)])
def test_bounds_of_the_record_count_what_has_no_score_as_failed(is_better, worst):
    values = np.linspace(0.2, 0.9, 40)
    values[[3, 17]] = np.nan
    baseline = np.linspace(0.1, 0.8, 40)
    baseline[[3, 5]] = np.nan
    settings = {"limits": TO_ONE, "higher_is_better": is_better}
    found = record(Scores.mean_of(values, **settings), Scores.mean_of(baseline, **settings))
    filled = estimate(Scores.mean_of(np.where(np.isnan(values), worst, values), TO_ONE))
    assert (found.rows_scored, found.rows_unscored, found.pairs_scored) == (38, 2, 37)
    assert found.candidate.value == pytest.approx(np.nanmean(values), abs=1e-6)
    assert found.baseline.value == pytest.approx(np.nanmean(baseline), abs=1e-6)
    assert found.worst_case == pytest.approx(filled.value, abs=1e-6)
    assert found.candidate.lower == pytest.approx(filled.lower, rel=1e-3)
    assert found.candidate.upper == pytest.approx(filled.upper, rel=1e-3)
    both = np.isfinite(values) & np.isfinite(baseline)
    assert found.difference.value == pytest.approx((values - baseline)[both].mean(), abs=1e-6)


def test_numbers_that_are_cut_short_are_never_nearer_for_it():
    found = estimate(Scores.mean_of(np.random.default_rng(2).random(50), TO_ONE))
    written = found.record()
    assert written.low <= found.low < found.high <= written.high
    for short, end in zip([*written.lower], found.lower, strict=True):
        assert short <= end == pytest.approx(short, rel=1e-3)
    for short, end in zip([*written.upper], found.upper, strict=True):
        assert short >= end == pytest.approx(short, rel=1e-3)
    assert len(str(written.low)) <= 6


def test_without_any_score_there_is_nothing_but_the_count():
    assert estimate(Scores.mean_of([np.nan, np.inf])) is None
    assert record(Scores.mean_of([np.nan, np.nan]), Scores.mean_of([0.5, np.nan])).model_dump() == {
        "higher_is_better": True,
        "candidate": None,
        "baseline": {"value": 0.5, "low": 0.5, "high": 0.5},
        "difference": None,
        "worst_case": None,
        "rows_scored": 0,
        "rows_unscored": 2,
        "pairs_scored": 0,
    }
