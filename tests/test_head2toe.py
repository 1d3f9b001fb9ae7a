"""Group lasso by its optimality conditions, and the head that keeps the columns it ranks highest."""

import numpy as np
import pytest
from conftest import SPEC, digest_of
from test_heads import blobs

import classify.head2toe
from classify.head import softmax
from classify.head2toe import Head2ToeHead
from classify.lasso import GAP, group_lasso_path
from classify.linear import LogisticHead
from classify.selection import train
from data.errors import HeadError
from data.store import Samples


def hidden(n=120, d=60, told=5, n_classes=3, seed=0):
    """Return X and y of which the first `told` columns alone tell anything."""
    X, y = blobs([n // n_classes] * n_classes, dim=told, distance=1.0, seed=seed)
    X = np.hstack([X, np.random.default_rng(seed + 50).normal(size=(len(X), d - told))]).astype(np.float32)
    return (X - X.mean(axis=0)) / X.std(axis=0), y


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_solution_is_within_its_gap_of_the_optimum(n_classes, weighted):
    X, y = hidden(n_classes=n_classes)
    weights = np.random.default_rng(3).uniform(0.2, 3, size=len(y)) if weighted else None
    path = group_lasso_path(X, y, weights)
    assert path.converged
    assert (path.gaps >= -1e-6).all()
    assert (path.gaps <= GAP).all()
    # an independent solver: plain proximal gradient steps, long enough
    Y, share = np.eye(n_classes)[y], (np.ones(len(y)) if weights is None else weights)
    share = share / share.sum()
    step = 1 / (0.5 * np.linalg.norm((X * np.sqrt(share)[:, None]), 2) ** 2 + 0.5)
    W, b = np.zeros((X.shape[1], n_classes)), np.zeros(n_classes)
    for penalty, norms in zip(path.penalties, path.norms, strict=True):
        for _ in range(1500):
            residual = share[:, None] * (softmax(X @ W + b) - Y)
            U = W - step * X.T @ residual
            b = b - step * residual.sum(axis=0)
            lengths = np.linalg.norm(U, axis=1, keepdims=True)
            W = U * np.maximum(0, 1 - step * penalty / np.maximum(lengths, 1e-12))
        np.testing.assert_allclose(norms, np.linalg.norm(W, axis=1), atol=0.06 * max(norms.max(), 0.1))


def test_at_the_strongest_penalty_few_columns_enter_and_more_at_weaker_ones():
    X, y = hidden()
    path = group_lasso_path(X, y)
    entered = (path.norms > 0).sum(axis=1)
    assert 0 < entered[0] <= 5
    assert entered[-1] > entered[0]
    assert (np.diff(path.penalties) < 0).all()
    assert (path.slopes <= path.penalties[-1] * 1.05).all()


def test_columns_that_vary_with_nothing_give_an_empty_path():
    path = group_lasso_path(np.zeros((10, 4), dtype=np.float32), np.arange(10) % 2)
    assert not path.norms.any()
    assert path.converged


def test_huge_and_tiny_columns_end():
    X, y = hidden()
    for factor in (1e-6, 1e6):
        path = group_lasso_path((X * factor).astype(np.float32), y)
        assert np.isfinite(path.norms).all()


def test_the_columns_that_tell_are_kept():
    X, y = hidden()
    head = Head2ToeHead(fraction=5 / 60).fit(X, y)
    assert set(head.kept_.tolist()) == set(range(5))
    assert head.kept_.dtype == np.int32
    assert head.coef_.shape == (3, 5)
    fresh, truth = hidden(seed=1)
    assert head.score(fresh, truth) > LogisticHead(C=0.1).fit(X, y).score(fresh, truth)


def test_all_columns_kept_is_logistic_regression():
    X, y = hidden()
    head = Head2ToeHead(fraction=1.0, C=0.1).fit(X, y)
    assert head.kept_.tolist() == list(range(60))
    np.testing.assert_allclose(head.coef_, LogisticHead(C=0.1).fit(X, y).coef_, atol=5e-3)


def test_balance_gives_a_narrow_feature_the_say_of_a_wide_one():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 200)
    X = (rng.normal(size=(400, 44)) + 0.5 * (y[:, None] - 0.5)).astype(np.float32)  # every column tells as much
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    says = {}
    for balance in (0.0, 1.0):
        coef = Head2ToeHead(fraction=1.0, C=1e-5, balance=balance, widths=(4, 40)).fit(X, y).coef_[0]
        says[balance] = coef[:4].sum() / coef[4:].sum()
    assert says[0.0] == pytest.approx(0.1, rel=0.3)
    assert says[1.0] == pytest.approx(1.0, rel=0.3)


def test_columns_are_chosen_within_each_fold(monkeypatch):
    """Noise of many columns: chosen on all rows it would tell the held-out classes; within folds it cannot."""
    rng = np.random.default_rng(0)
    n, d = 60, 1000
    X, y = rng.normal(size=(n, d)).astype(np.float32), (np.arange(n) % 2).astype(np.int32)
    digests = np.array([digest_of(i) for i in range(n)], dtype="S64")
    samples = Samples(X, y, ["cat", "dog"], [f"{i}.png" for i in range(n)], digests, SPEC, "toys", "train")
    seen = []
    honest = classify.head2toe.group_lasso_path
    monkeypatch.setattr(
        classify.head2toe, "group_lasso_path", lambda X, *rest: (seen.append(len(X)), honest(X, *rest))[1]
    )
    training = train("head2toe", samples, params={"fraction": 0.02})
    assert training.cv_accuracy < 0.7
    leaking = training.head.fit(training.scaler.transform(X), y)
    assert leaking.score(training.scaler.transform(X), y) > 0.9
    assert sorted(set(seen)) == [48, 60]
    assert seen.count(48) == 5  # once for each fold, not for each setting


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"fraction": 0.0}, r"^fraction must be a number above 0 and up to 1, got 0.0$"),
        ({"fraction": 1.5}, r"got 1.5$"),
        ({"C": -1.0}, r"^C must be a number above 0, got -1.0$"),
        ({"widths": (3, 3)}, r"^the widths of head2toe must be above 0 and sum to the 60 columns of X, got \(3, 3\)$"),
    ],
)
def test_what_cannot_be_is_refused(params, message):
    X, y = hidden()
    with pytest.raises(HeadError, match=message):
        Head2ToeHead(**params).fit(X, y)


def test_settings_fitted_together_are_what_each_is_alone():
    X, y = hidden()
    settings = [{"fraction": f, "balance": b, "C": C} for f in (0.1, 0.5) for b in (0.0, 1.0) for C in (0.01, 1.0)]
    heads = [Head2ToeHead(**setting) for setting in settings]
    assert len({head.shared(60) for head in heads}) == 1  # of one feature every balance is the same
    assert len({Head2ToeHead(balance=b, widths=(20, 40)).shared(60) for b in (0.0, 1.0)}) == 2
    together = list(Head2ToeHead.fit_together(heads, X, y))
    assert [head.get_params() for head in together] == [head.get_params() for head in heads]
    for setting, head in zip(settings, together, strict=True):
        alone = Head2ToeHead(**setting).fit(X, y)
        assert head.kept_.tolist() == alone.kept_.tolist()
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=0.02)
