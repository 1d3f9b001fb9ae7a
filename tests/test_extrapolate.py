"""Forecasts of learning curves against simulated curves whose truth is known."""

import numpy as np
import pytest
from scipy.stats import binom, norm

from classify.extrapolate import HELP, LITTLE, UNKNOWN, _fit, extrapolate, last_doubling


def simulated(seed, law, n=1000, measured=400, repeats=5, spread=0.15):
    """Return sizes, and which pictures each repeat gets right, of a curve whose error is law(n) on average.

    The luck of the n pictures at hand is shared by all sizes, as far as their parts share pictures.
    """
    rng = np.random.default_rng(seed)
    sizes = np.unique(np.geomspace(max(8, n // 64), n, 10).round()).astype(int)
    ease, luck = rng.normal(size=measured), rng.normal()
    rights = []
    for size in sizes:
        shared = size / n
        deviation = spread * law(size) * (size / sizes[0]) ** -0.25
        error = law(size) + deviation * (np.sqrt(shared) * luck + np.sqrt(1 - shared) * rng.normal(size=repeats))
        bound = norm.ppf(np.clip(error, 1e-3, 1 - 1e-3))
        noise = rng.normal(size=(repeats, measured))
        rights.append(np.sqrt(0.7) * ease + np.sqrt(0.3) * noise > bound[:, None])
    return sizes.tolist(), rights


@pytest.mark.parametrize(
    "law", [lambda n: 0.05 + 1.5 * n**-0.6, lambda n: 0.9 * n**-0.4], ids=["with a floor", "without a floor"]
)
def test_the_intervals_cover_the_truth_where_the_error_is_a_power_law(law):
    trials, told, hits = 20, 0, {2: 0, 4: 0}
    for seed in range(trials):
        found = extrapolate(*simulated(seed, law), seed=seed)
        told += len(found.forecasts) == 2
        for forecast in found.forecasts:
            low, high = forecast.accuracy_ci95
            assert low <= forecast.accuracy <= high
            assert high - low < 0.25
            hits[forecast.factor] += low <= 1 - law(forecast.size) <= high
    assert told >= 0.8 * trials
    for factor, count in hits.items():
        assert count >= binom.ppf(0.001, told, 0.95), factor


@pytest.mark.parametrize(
    "law",
    [lambda n: 0.08 + 0.4 * np.exp(-n / 250), lambda n: 0.1 if n > 400 else 0.5 - n / 1000],
    ids=["exponential", "kinked"],
)
def test_curves_that_follow_no_power_law_are_not_led_on(law):
    for seed in range(5):
        found = extrapolate(*simulated(seed, law), seed=seed)
        assert found.law is None
        assert found.forecasts == []
        assert "power law" in found.reason or "the law predicts" in found.reason


def test_a_curve_without_a_rise_is_not_led_on():
    found = extrapolate(*simulated(0, lambda n: 0.2), seed=0)
    assert found.forecasts == []
    assert found.reason.startswith("no rise beyond chance: from 15 to 1000 pictures the accuracy changed by ")


def doublings(accuracies, n, repeats=3):
    """Return three sizes and answers with these accuracies: each repeat misses the first pictures of n."""
    right = [np.tile(np.arange(n) >= round((1 - a) * n), (repeats, 1)) for a in accuracies]
    return [50, 100, 200], right


@pytest.mark.parametrize(
    ("accuracies", "n", "says"),
    [
        ((0.70, 0.80, 0.87), 1000, HELP),
        ((0.90, 0.90, 0.90), 1000, LITTLE),
        ((0.60, 0.65, 0.67), 13, UNKNOWN),  # too few pictures to see anything
        ((0.58, 0.45, 0.66), 200, UNKNOWN),  # a dip makes the last doubling look large
    ],
)
def test_the_last_doubling_says_whether_more_pictures_help(accuracies, n, says):
    slope = last_doubling(*doublings(accuracies, n))
    assert slope.says == says
    assert slope.interval[0] <= slope.gain <= slope.interval[1]
    assert ("gains shrink" in slope.sentence) == (accuracies[1] < accuracies[0])


def test_a_short_curve_and_a_single_repeat_tell_nothing():
    sizes, rights = simulated(0, lambda n: 0.9 * n**-0.4)
    assert "too short: 4 sizes up to half" in extrapolate(sizes[-4:], rights[-4:]).reason
    assert "one repeat" in extrapolate(sizes, [right[:1] for right in rights]).reason
    # enough for twice the pictures, too little for four times
    found = extrapolate(sizes[-6:], rights[-6:])
    assert [f.factor for f in found.forecasts] in ([2], [])
    if found.forecasts:
        assert found.reason == "the curve is too short to try a forecast of 4 times the pictures"


def test_a_backtest_asks_about_what_was_measured():
    sizes, rights = simulated(1, lambda n: 0.05 + 1.5 * n**-0.6)
    found = extrapolate(sizes, rights)
    assert [b.factor for b in found.backtests] == [2, 4]
    for test in found.backtests:
        assert test.fitted_to == max(s for s in sizes if s <= sizes[-1] / test.factor)
        assert test.measured == pytest.approx(rights[-1].mean())


def test_the_fit_finds_the_law_without_noise():
    sizes = np.geomspace(20, 2000, 10)
    for a, b, c in ((0.05, 1.5, 0.5), (0.0, 0.9, 0.3), (0.1, 0.0, 0.5)):
        error = (a + b * sizes**-c)[:, None]
        got_a, got_b, got_c, loss = (x[0] for x in _fit(sizes, error, np.ones(10)))
        np.testing.assert_allclose(got_a + got_b * sizes**-got_c, error[:, 0], atol=2e-3)
        assert min(got_a, got_b, got_c) >= 0
        assert loss < 1e-4


def test_a_rising_error_gets_a_law_that_does_not_fall():
    sizes = np.geomspace(20, 2000, 10)
    a, b, _, _ = _fit(sizes, (0.1 + 1e-4 * sizes)[:, None], np.ones(10))
    assert b[0] == 0
    assert a[0] == pytest.approx(0.1 + 1e-4 * sizes.mean())


def test_the_same_seed_gives_the_same_forecast():
    curve = simulated(2, lambda n: 0.9 * n**-0.4)
    assert extrapolate(*curve, seed=3).as_json() == extrapolate(*curve, seed=3).as_json()
    assert extrapolate(*curve, seed=3).as_json() != extrapolate(*curve, seed=4).as_json()
