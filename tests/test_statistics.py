"""The statistics against their definitions, against scikit-learn and scipy, and against simulated truths."""

import doctest

import numpy as np
import pytest
from scipy.stats import binom, binomtest, ttest_1samp
from scipy.stats import t as student
from sklearn.metrics import balanced_accuracy_score, f1_score

import classify.statistics
from classify.statistics import (
    binomial_cdf,
    bootstrap,
    detectable_difference,
    holm,
    largest_rejected,
    mcnemar_exact,
    mcnemar_power,
    paired_bootstrap,
    percentile_interval,
    pictures_needed,
    resamples_for,
    separation,
    t_interval,
    wilson_interval,
    winners_optimism,
)

BOOTSTRAPPED = ("balanced_accuracy", "macro_f1", "log_loss")


def within(hits, trials, share):
    """Whether a count of simulated hits is where 99.9% of such counts are."""
    low, high = binom.ppf([0.0005, 0.9995], trials, share)
    return low <= hits <= high


def test_the_examples_run():
    assert doctest.testmod(classify.statistics).failed == 0


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (147, 153), (1, 1000), (5000, 10_000)])
def test_the_wilson_interval_equals_scipy(right, n):
    want = binomtest(right, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(right, n) == pytest.approx((want.low, want.high), abs=1e-12)


def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ():
    a = np.array([True] * 9 + [False] * 2 + [True] * 30 + [False] * 10)
    b = np.array([False] * 9 + [True] * 2 + [True] * 30 + [False] * 10)
    # 2 * (C(11,0) + C(11,1) + C(11,2)) / 2^11
    assert mcnemar_exact(a, b) == pytest.approx(2 * (1 + 11 + 55) / 2048)
    assert mcnemar_exact(b, a) == mcnemar_exact(a, b)
    assert mcnemar_exact(a, a) == 1.0


@pytest.mark.parametrize("p", [0.0, 1e-4, 0.1, 0.5, 0.97, 1.0])
def test_the_binomial_distribution_equals_scipy(p):
    rng = np.random.default_rng(0)
    n = rng.integers(0, 5000, size=5000)
    k = np.where(rng.random(5000) < 0.5, rng.integers(-2, 5003, size=5000), np.round(n * p))
    np.testing.assert_allclose(binomial_cdf(k, n, p), binom.cdf(k, n, p), rtol=1e-11, atol=1e-300)


def test_mcnemar_equals_scipys_binomial_test():
    for a, b in [(0, 1), (1, 1), (3, 4), (0, 40), (17, 40), (200, 260), (1000, 1000)]:
        differ = np.array([True] * a + [False] * b)
        assert mcnemar_exact(differ, ~differ) == pytest.approx(binomtest(a, a + b).pvalue, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.2, 1e-6])
def test_the_counts_that_are_rejected_are_those_of_scipys_binomial_test(alpha):
    d = np.concatenate([np.arange(400), [9_999, 123_456]])
    want = binom.ppf(alpha / 2, d, 0.5)
    want = np.where(2 * binom.cdf(want, d, 0.5) <= alpha, want, want - 1)
    assert np.array_equal(largest_rejected(d, alpha), want)


@pytest.mark.parametrize("r", [2, 3, 10, 100])
def test_the_t_interval_has_students_quantile(r):
    values = np.arange(r, dtype=float)
    low, high = t_interval(values)
    want = 2 * student.ppf(0.975, r - 1) * values.std(ddof=1) / np.sqrt(r)
    assert high - low == pytest.approx(want, rel=1e-12)


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls():
    # the ranks are 0.005 x 4, 0.01 x 3, 0.03 x 2 and 0.04 x 1, which may not fall below 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_the_wilson_interval_covers_the_truth_in_95_of_100():
    rng = np.random.default_rng(0)
    hits = 0
    for right in rng.binomial(150, 0.9, size=2000):
        low, high = wilson_interval(int(right), 150)
        hits += low <= 0.9 <= high
    assert within(hits, 2000, 0.95)


def test_the_t_interval_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(size=7)
    want = ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((want.low, want.high))
    assert t_interval(values[:1]) is None


def simulated(rng, n, k, *errors):
    """Return the truth, and answers and losses of heads that err independently, each picture with its own ease."""
    y = rng.integers(0, k, size=n)
    ease = rng.normal(size=n)
    answers, losses = [], []
    for error in errors:
        wrong = ease + rng.normal(size=n) < -1.5 + 4 * error
        answers.append(np.where(wrong, (y + rng.integers(1, k, size=n)) % k, y))
        losses.append(np.exp(0.3 * rng.normal(size=n) - ease) + 4 * error)
    return y, np.stack(answers, axis=1), np.stack(losses, axis=1)


def test_resampled_scores_are_those_of_the_pictures_drawn():
    y, answers, losses = simulated(np.random.default_rng(0), 40, 5, 0.1, 0.3)
    y[y == 4] = 0  # a class that never occurs, though a head answers it
    drawn = bootstrap(y, answers, losses, 5, resamples=30, seed=3)
    rng = np.random.default_rng(3)
    for r, rows in enumerate(rng.integers(0, 40, size=(30, 40))):
        for j in (0, 1):
            truth, answer = y[rows], answers[rows, j]
            assert drawn["accuracy"][r, j] == pytest.approx((truth == answer).mean())
            seen = np.unique(truth)
            recall = np.mean([(answer[truth == c] == c).mean() for c in seen])
            assert drawn["balanced_accuracy"][r, j] == pytest.approx(recall)
            labels = np.union1d(truth, answer)
            assert drawn["macro_f1"][r, j] == pytest.approx(f1_score(truth, answer, labels=labels, average="macro"))
            assert drawn["log_loss"][r, j] == pytest.approx(losses[rows, j].mean())


def test_resamples_are_the_same_for_every_head():
    y, answers, losses = simulated(np.random.default_rng(0), 50, 3, 0.1, 0.2)
    both = bootstrap(y, answers, losses, 3, resamples=40, seed=1)
    alone = bootstrap(y, answers[:, 1:], losses[:, 1:], 3, resamples=40, seed=1)
    for name, draws in both.items():
        np.testing.assert_array_equal(draws[:, 1], alone[name][:, 0])
    other = bootstrap(y, answers, losses, 3, resamples=40, seed=2)
    assert (other["accuracy"] != both["accuracy"]).any()


def test_the_paired_bootstrap_finds_a_difference_between_equal_heads_in_5_of_100():
    rng = np.random.default_rng(1)
    trials, hits = 400, dict.fromkeys(BOOTSTRAPPED, 0)
    for seed in range(trials):
        y, answers, losses = simulated(rng, 150, 3, 0.2, 0.2)
        drawn, observed = bootstrap(y, answers, losses, 3, resamples=199, seed=seed), scores(y, answers, losses)
        for name in BOOTSTRAPPED:
            difference = observed[name][0] - observed[name][1]
            hits[name] += paired_bootstrap(difference, drawn[name][:, 0] - drawn[name][:, 1]) <= 0.05
    for name, count in hits.items():
        assert within(count, trials, 0.05), name


def scores(y, answers, losses):
    columns = range(answers.shape[1])
    return {
        "accuracy": np.array([(answers[:, j] == y).mean() for j in columns]),
        "balanced_accuracy": np.array([balanced_accuracy_score(y, answers[:, j]) for j in columns]),
        "macro_f1": np.array([f1_score(y, answers[:, j], average="macro") for j in columns]),
        "log_loss": losses.mean(axis=0),
    }


def test_the_paired_bootstrap_finds_a_real_difference_and_none_between_twins():
    y, answers, losses = simulated(np.random.default_rng(0), 400, 3, 0.05, 0.4)
    drawn = bootstrap(y, answers, losses, 3, resamples=499)
    for name, observed in scores(y, answers, losses).items():
        assert paired_bootstrap(observed[0] - observed[1], drawn[name][:, 0] - drawn[name][:, 1]) == 1 / 500
        assert paired_bootstrap(0.0, drawn[name][:, 0] - drawn[name][:, 0]) == 1.0


def test_bootstrap_intervals_cover_the_truth_in_95_of_100():
    rng = np.random.default_rng(2)
    y, answers, losses = simulated(rng, 200_000, 3, 0.2)
    truth = scores(y, answers, losses)
    trials, hits = 600, dict.fromkeys(BOOTSTRAPPED, 0)
    for seed in range(trials):
        rows = rng.integers(0, len(y), size=200)
        drawn = bootstrap(y[rows], answers[rows], losses[rows], 3, resamples=399, seed=seed)
        for name in BOOTSTRAPPED:
            low, high = percentile_interval(drawn[name][:, 0])
            hits[name] += low <= truth[name][0] <= high
    for name, count in hits.items():
        assert within(count, trials, 0.95), name


def test_enough_resamples_that_holms_correction_can_find_something():
    for tests in (0, 1, 45, 600):
        assert tests / (1 + resamples_for(tests)) < 0.05 / 1.9


@pytest.mark.parametrize(("n", "only_a", "only_b"), [(60, 0.1, 0.02), (150, 0.06, 0.01), (500, 0.06, 0.02)])
def test_the_power_is_what_simulation_finds(n, only_a, only_b):
    rng = np.random.default_rng(n)
    trials, hits = 2000, 0
    for a, b, _ in rng.multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=trials).tolist():
        hits += bool(a + b) and binomtest(a, a + b).pvalue <= 0.05
    assert within(hits, trials, mcnemar_power(n, only_a, only_b))


@pytest.mark.parametrize(("only_a", "only_b"), [(0.06, 0.02), (0.05, 0.0), (0.031, 0.03), (0.5, 0.2)])
def test_the_pictures_needed_are_the_fewest_with_the_power(only_a, only_b):
    needed = pictures_needed(only_a, only_b)
    assert mcnemar_power(needed, only_a, only_b) >= 0.8
    assert mcnemar_power(int(0.98 * needed) - 1, only_a, only_b) < 0.8
    assert pictures_needed(only_b, only_a) == needed


def test_the_pictures_needed_agree_with_connors_formula_where_they_are_many():
    share, difference = 0.061, 0.001
    connor = (1.959964 * share**0.5 + 0.841621 * (share - difference**2) ** 0.5) ** 2 / difference**2
    assert pictures_needed(0.031, 0.03) == pytest.approx(connor, rel=0.01)
    assert pictures_needed(0.03, 0.03) is None
    assert pictures_needed(0.03001, 0.03) > 10**9


def test_no_difference_is_seen_where_too_few_pictures_tell_the_heads_apart():
    assert detectable_difference(50, 0.06) is None  # three pictures
    difference = detectable_difference(500, 0.08)
    assert mcnemar_power(500, 0.04 + difference / 2, 0.04 - difference / 2) == pytest.approx(0.8, abs=0.01)


def test_the_separation_of_two_heads_is_read_from_their_pictures():
    a, b = np.ones(400, bool), np.ones(400, bool)
    a[:8], b[8:32] = False, False
    found = separation(a, b)
    assert (found.difference, found.discordant) == (pytest.approx(0.04), pytest.approx(0.08))
    assert found.pictures == pictures_needed(0.06, 0.02)
    assert separation(a, a).pictures is None


def test_the_winners_optimism_is_what_equal_heads_show():
    rng = np.random.default_rng(3)
    real, estimated = [], []
    for seed in range(60):
        right = rng.random((200, 8)) < 0.85
        y = np.zeros(200, dtype=int)
        drawn = bootstrap(y, np.where(right, 0, 1), np.zeros((200, 8)), 2, resamples=200, seed=seed)["accuracy"]
        real.append(right.mean(axis=0).max() - 0.85)
        estimated.append(winners_optimism(right.mean(axis=0), drawn))
    # heads that were unlucky here seldom win on resamples, so the estimate falls a little short
    assert 0.7 * np.mean(real) < np.mean(estimated) < 1.1 * np.mean(real)


def test_one_head_wins_without_optimism():
    right = np.random.default_rng(0).random((300, 1)) < 0.8
    y = np.zeros(300, dtype=int)
    drawn = bootstrap(y, np.where(right, 0, 1), np.zeros((300, 1)), 2)["accuracy"]
    assert winners_optimism(right.mean(axis=0), drawn) == pytest.approx(0, abs=0.002)
