"""Every head is an estimator by scikit-learn's own checks, and weighs its rows as they ask."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from classify.heads import HEADS
from data.errors import HeadError

every_kind = pytest.mark.parametrize("kind", HEADS)


@parametrize_with_checks([head() for head in HEADS.values()])
@pytest.mark.filterwarnings("ignore")  # the checks warn of their own inputs
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def clouds(counts=(30, 20, 25), dim=6):
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    X = rng.normal(size=(len(counts), dim))[y] + rng.normal(size=(len(y), dim))
    return X.astype(np.float32), y


def close(kind):
    return {"rtol": 0, "atol": {"lr": 1e-3, "svm": 1e-3, "stack": 2e-2, "head2toe": 2e-2}.get(kind, 1e-6)}


def tight(kind):
    return {"tol": 1e-8} if kind in ("lr", "svm") else {}


@every_kind
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_whole_weight_is_so_many_copies(kind, class_weight):
    X, y = clouds()
    weights = np.random.default_rng(1).integers(0, 4, size=len(y))
    head = HEADS[kind](**tight(kind), class_weight=class_weight).fit(X, y, sample_weight=weights)
    copies = HEADS[kind](**tight(kind), class_weight=class_weight).fit(
        np.repeat(X, weights, axis=0), np.repeat(y, weights)
    )
    np.testing.assert_allclose(head.predict_proba(X), copies.predict_proba(X), **close(kind))
    plain = HEADS[kind](class_weight=class_weight).fit(X, y)
    assert np.abs(plain.predict_proba(X) - head.predict_proba(X)).max() > 1e-3


@every_kind
def test_a_row_without_weight_is_absent(kind):
    X, y = clouds()
    weights = np.ones(len(y))
    weights[::3] = 0
    head = HEADS[kind](**tight(kind)).fit(X, y, sample_weight=weights)
    without = HEADS[kind](**tight(kind)).fit(X[weights > 0], y[weights > 0])
    np.testing.assert_allclose(head.predict_proba(X), without.predict_proba(X), **close(kind))


@every_kind
def test_a_class_without_weight_is_absent(kind):
    X, y = clouds()
    assert HEADS[kind]().fit(X, y, sample_weight=(y != 1).astype(float)).classes_.tolist() == [0, 2]


@every_kind
def test_class_weights_are_keyed_by_label(kind):
    X, y = clouds()
    names = np.array(["ant", "bee", "cat"])[y]
    odds = {"ant": 1e3, "bee": 1e-3, "cat": 1e-3}
    assert (HEADS[kind](class_weight=odds).fit(X, names).predict(X) == "ant").mean() > 0.5


@every_kind
def test_a_class_that_weighs_nothing_is_refused_by_name(kind):
    X, y = clouds()
    message = r"^class 1 weighs 0: give it a weight above 0, or leave its rows out$"
    with pytest.raises(HeadError, match=message):
        HEADS[kind](class_weight={0: 1.0, 1: 0.0, 2: 1.0}).fit(X, y)
