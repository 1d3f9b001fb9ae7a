import numpy as np
import pytest
import sklearn.metrics
from scipy.special import expit
from sklearn.calibration import _sigmoid_calibration

from classify.calibration import (
    METHODS,
    calibrate,
    calibration_error,
    error_by_chance,
    fit_platt,
    fit_scale,
    log_loss,
)
from classify.head import logits, softmax
from data.errors import HeadError


def held_out(n=600, k=2, factor=5.0, shift=0.0, seed=0):
    """Return scores that are far too sure, labels and folds."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, size=n)
    scores = factor * (np.eye(k)[y] + 0.8 * rng.normal(size=(n, k)))
    scores[:, 0] += shift
    if k == 2:
        scores = np.diff(scores, axis=1) * [-0.5, 0.5]
    return scores, y, np.arange(n) % 5


@pytest.mark.parametrize("factor", [0.1, 5.0, 1e4])
@pytest.mark.parametrize("n", [20, 600])
def test_platt_equals_scikit_learn(factor, n):
    scores, y, _ = held_out(n, factor=factor, shift=0.3 * factor)
    decision = scores[:, 1] - scores[:, 0]
    a, b = _sigmoid_calibration(decision, y)
    scale, bias = fit_platt(scores, y)
    got = softmax(logits(scores, scale, bias))[:, 1]
    np.testing.assert_allclose(got, expit(-(a * decision + b)), atol=1e-4)


def test_platt_of_several_classes_is_at_the_optimum_of_vector_scaling():
    scores, y, _ = held_out(k=4, shift=2.0)
    scale, bias = fit_platt(scores, y)
    support = np.bincount(y)
    targets = np.ones((600, 4)) / (support[y, None] + 2) / 3
    targets[np.arange(600), y] *= 3 * (support[y] + 1)
    np.testing.assert_allclose(targets.sum(axis=1), 1)
    error = softmax(logits(scores, scale, bias)) - targets
    centred = scores - scores.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(error.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose((error * centred).mean(axis=0), 0, atol=1e-4)


def test_platt_does_not_see_what_all_scores_of_a_row_share():
    scores, y, _ = held_out(k=3)
    shifted = scores + 1000 * np.random.default_rng(1).normal(size=(600, 1))
    for a, b in zip(fit_platt(scores, y), fit_platt(shifted, y), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_platt_corrects_a_class_that_is_favoured_and_a_temperature_cannot():
    scores, y, folds = held_out(k=3, shift=4.0)
    temperature, platt = (calibrate(scores, y, folds, method) for method in ("temperature", "platt"))
    assert platt.after.log_loss < temperature.after.log_loss - 0.05
    assert (temperature.transform(scores).argmax(axis=1) == scores.argmax(axis=1)).all()
    right = [(c.transform(scores).argmax(axis=1) == y).mean() for c in (temperature, platt)]
    assert right[1] > right[0] + 0.05


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_before_is_of_the_scores_and_after_of_fits_on_the_other_folds(k, method):
    scores, y, folds = held_out(k=k)
    found = calibrate(scores, y, folds, method)
    plain = softmax(scores)
    assert found.before.log_loss == pytest.approx(sklearn.metrics.log_loss(y, plain))
    assert found.before.ece == calibration_error(plain, plain.argmax(axis=1) == y)
    crossed = np.empty_like(scores)
    for fold in range(5):
        others = calibrate(scores[folds != fold], y[folds != fold], folds[folds != fold], method)
        crossed[folds == fold] = others.transform(scores[folds == fold])
    assert found.after.log_loss == pytest.approx(sklearn.metrics.log_loss(y, crossed))
    assert found.after.ece == calibration_error(crossed, crossed.argmax(axis=1) == y)
    assert found.after.log_loss < found.before.log_loss
    assert found.after.ece < found.before.ece / 2


def test_after_does_not_flatter():
    rng = np.random.default_rng(0)
    scores, y, folds = rng.normal(size=(60, 12)), rng.integers(0, 12, size=60), np.arange(60) % 5
    found = calibrate(scores, y, folds, "platt")  # 24 numbers fitted on noise
    assert log_loss(found.transform(scores), y) < np.log(12)
    assert found.after.log_loss > np.log(12)


def test_one_fold_is_dealt_into_parts():
    scores, y, _ = held_out()
    found = calibrate(scores, y, np.zeros(600), "platt")
    assert found.after.log_loss != pytest.approx(log_loss(found.transform(scores), y), rel=1e-9)
    assert found.after.log_loss == pytest.approx(log_loss(found.transform(scores), y), rel=0.05)


def test_none_leaves_scores_as_they_are():
    scores, y, folds = held_out(k=3)
    found = calibrate(scores, y, folds, "none")
    assert np.array_equal(found.transform(scores), softmax(scores))
    assert found.before == found.after


@pytest.mark.parametrize("method", METHODS)
def test_nothing_held_out_is_no_calibration(method):
    found = calibrate(np.empty((0, 3)), np.empty(0, dtype=int), np.empty(0), method)
    assert (found.scale, found.bias, found.before, found.after) == (1.0, 0.0, None, None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(
    "scores_of", [np.zeros_like, lambda s: 1e6 * np.eye(s.shape[1])[np.arange(len(s)) % s.shape[1]]]
)
def test_scores_that_say_nothing_or_everything_and_classes_that_are_absent_are_borne(method, k, scores_of):
    for n in (1, 2, 7):
        scores = scores_of(np.zeros((n, k)))
        found = calibrate(scores, np.arange(n) % 2, np.arange(n) % 5, method)
        assert np.isfinite(found.transform(scores)).all()
        assert np.isfinite([found.after.ece, found.after.log_loss]).all()


def test_an_unknown_method_is_refused_with_those_there_are():
    with pytest.raises(HeadError, match=r"^no way to calibrate 'isotonic': choose one of temperature, platt, none$"):
        calibrate(*held_out(), "isotonic")


@pytest.mark.parametrize("factor", [1e-6, 0.1, 1.0, 30.0, 1e6])
def test_fit_scale_finds_the_lowest_log_loss_and_moves_no_decision(factor):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size=500)
    scores = (np.eye(3)[y] + rng.normal(size=(500, 3))) * factor
    scale = fit_scale(scores, y)
    assert scale > 0
    found = log_loss(softmax(scale * scores), y)
    others = [log_loss(softmax(s * scores), y) for s in scale * np.geomspace(0.1, 10, 101)]
    assert found <= min(others) + 1e-6
    assert found <= log_loss(softmax(scores), y)
    assert ((scale * scores).argmax(axis=1) == scores.argmax(axis=1)).all()


@pytest.mark.parametrize(("n", "k"), [(30, 2), (600, 5)])
def test_fit_scale_is_at_the_optimum_to_the_last_digits(n, k):
    scores, y, _ = held_out(n, k)
    weights = np.random.default_rng(1).random(n)
    for given in (None, weights):
        scale = fit_scale(scores, y, given)
        error = softmax(scale * scores) - np.eye(k)[y]
        assert abs(np.average((error * scores).sum(axis=1), weights=given)) < 1e-10


def test_fit_scale_stops_where_nothing_is_wrong_and_where_all_is():
    y = np.arange(60) % 3
    certain, upside_down = 1e-3 * np.eye(3)[y], -1e-3 * np.eye(3)[y]
    assert log_loss(softmax(fit_scale(certain, y) * certain), y) < 1e-12
    scale = fit_scale(upside_down, y)
    assert scale > 0
    assert log_loss(softmax(scale * upside_down), y) == pytest.approx(np.log(3), rel=2e-3)


def test_fit_scale_bears_scores_that_say_nothing_or_everything():
    y = np.array([0, 1, 2])
    assert np.isfinite(softmax(fit_scale(np.zeros((3, 3)), y) * np.zeros((3, 3)))).all()
    assert np.isfinite(fit_scale(np.eye(3), y))


@pytest.mark.parametrize("n_classes", [2, 5])
def test_log_loss_equals_scikit_learn(n_classes):
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.normal(size=(100, n_classes)) * 3)
    y = rng.integers(0, n_classes, size=100)
    want = sklearn.metrics.log_loss(y, probabilities, labels=range(n_classes))
    assert log_loss(probabilities, y) == pytest.approx(want, rel=1e-12)


def test_log_loss_of_a_certain_error_is_finite():
    assert log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-15))


def test_the_calibration_error_equals_a_loop_over_bins():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4) * 0.3, size=500)
    probabilities[0] = [1, 0, 0, 0]
    correct = rng.random(500) < 0.6
    confidence = probabilities.max(axis=1)
    want = 0.0
    for i in range(15):
        low, high = i / 15, (i + 1) / 15
        inside = (confidence >= low) & ((confidence < high) | ((i == 14) & (confidence <= 1)))
        if inside.any():
            want += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration_error(probabilities, correct) == pytest.approx(want)


@pytest.mark.parametrize("n", [60, 2000])
def test_probabilities_that_are_right_stay_below_the_error_by_chance(n):
    rng = np.random.default_rng(0)
    high = rng.uniform(0.5, 1, size=n)
    probabilities = np.stack([high, 1 - high], axis=1)
    limit = error_by_chance(probabilities)
    errors = [calibration_error(probabilities, rng.random(n) < high) for _ in range(300)]
    assert 0.9 < np.mean(np.array(errors) < limit) < 0.99
    assert calibration_error(probabilities, rng.random(n) < high - 0.2) > limit


def test_a_certain_head_that_is_right_has_no_calibration_error():
    assert calibration_error(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([True, True])) == 0
    assert calibration_error(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([True, False])) == 0.5
