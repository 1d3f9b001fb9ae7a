"""Transferability scores against their definitions, by their invariances, and on inputs that invite NaN."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf

from classify.transferability import h_score, ledoit_wolf, leep, log_me, nce


def problem(n=40, d=6, k=3, seed=0, signal=1.0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    X = rng.normal(size=(n, d)) + signal * rng.normal(size=(k, d))[y] + 0.5
    return X.astype(np.float32), y


def probabilities(n=40, classes=5, seed=0):
    P = np.random.default_rng(seed).gamma(0.5, size=(n, classes))
    return P / P.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (12, 20)])
def test_log_me_is_the_largest_evidence_of_the_gaussian_model(n, d):
    X, y = problem(n, d)
    X = X.astype(np.float64)

    def loss(logs, target):
        covariance = np.exp(logs[0]) * X @ X.T + np.exp(logs[1]) * np.eye(n)
        return -multivariate_normal.logpdf(target, cov=covariance) / n

    best = [
        min(
            minimize(loss, start, args=((y == c).astype(float),), method="Nelder-Mead", options={"maxiter": 800}).fun
            for start in itertools.product((-4, 0), (-4, 0))
        )
        for c in range(3)
    ]
    assert log_me(X, y) == pytest.approx(-np.mean(best), abs=1e-3)


def test_log_me_knows_neither_rotation_nor_scale_nor_the_names_of_classes():
    X, y = problem()
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    for same in (X @ rotation, 1000 * X, np.hstack([X, np.zeros((40, 3))])):
        assert log_me(same, y) == pytest.approx(log_me(X, y), abs=1e-6)
    assert log_me(X, 7 - y) == pytest.approx(log_me(X, y), abs=1e-9)


def test_h_score_is_the_trace_and_the_bound_is_reached():
    X, y = problem()
    F = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    means = np.stack([F[y == c].mean(axis=0) for c in range(3)])[y]
    naive = np.trace(np.linalg.inv(F.T @ F / 40) @ (means.T @ means / 40))
    assert h_score(X, y, shrunken=False) == pytest.approx(naive)
    assert h_score(np.eye(3)[y], y, shrunken=False) == pytest.approx(2)
    A = np.random.default_rng(2).normal(size=(6, 6))
    assert h_score(X @ A + 5, y, shrunken=False) == pytest.approx(naive, rel=1e-4)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (20, 50)])
def test_the_shrunken_h_score_is_that_of_ledoit_and_wolf(n, d):
    X, y = problem(n, d)
    F = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    found = LedoitWolf(assume_centered=True).fit(F)
    assert ledoit_wolf(F)[0] == pytest.approx(found.shrinkage_)
    means = np.stack([F[y == c].mean(axis=0) for c in range(3)])[y]
    naive = (1 - found.shrinkage_) * np.trace(np.linalg.inv(found.covariance_) @ (means.T @ means / n))
    assert h_score(X, y) == pytest.approx(naive)


def test_leep_and_nce_are_their_sums():
    P, y = probabilities(), np.arange(40) % 3
    total = 0.0
    for i in range(40):
        likelihood = 0.0
        for z in range(5):
            likelihood += P[y == y[i], z].sum() / P[:, z].sum() * P[i, z]
        total += np.log(likelihood) / 40
    assert leep(P, y) == pytest.approx(total)
    said = P.argmax(axis=1)
    entropy = 0.0
    for z, c in itertools.product(range(5), range(3)):
        both = ((said == z) & (y == c)).mean()
        if both:
            entropy -= both * np.log(both / (said == z).mean())
    assert nce(P, y) == pytest.approx(-entropy)


def test_a_classifier_that_knows_the_labels_has_the_best_scores_and_one_that_knows_nothing_their_entropy():
    y = np.arange(40) % 4
    for score in (leep, nce):
        assert score(np.eye(9)[y], y) == pytest.approx(0)
        assert score(np.full((40, 9), 1 / 9), y) == pytest.approx(-np.log(4))


def test_better_features_have_higher_scores():
    weak, y = problem(60, 6, signal=0.3)
    strong, _ = problem(60, 6, signal=3.0)
    assert log_me(strong, y) > log_me(weak, y)
    assert h_score(strong, y) > h_score(weak, y)


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((6, 4)),
        np.ones((6, 4)),
        np.hstack([np.ones((6, 1)), np.arange(6)[:, None]]),
        np.repeat(np.eye(3), 2, axis=0),
        np.random.default_rng(0).normal(size=(6, 40)),
        1e18 * np.random.default_rng(0).normal(size=(6, 2)),
        1e-18 * np.random.default_rng(0).normal(size=(6, 2)),
    ],
    ids=["zero", "constant", "a constant column", "exact", "few rows", "huge", "tiny"],
)
@pytest.mark.parametrize("y", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 4], [3] * 6, [0, 1, 2, 3, 4, 5]])
def test_no_input_gives_nan(X, y):
    y = np.array(y)
    for value in (log_me(X, y), h_score(X, y), h_score(X, y, shrunken=False)):
        assert np.isfinite(value)
    for P in (np.eye(6), np.full((6, 3), 1 / 3), np.tile([1.0, 0.0], (6, 1))):
        assert leep(P, y) <= 1e-12
        assert nce(P, y) <= 1e-12
