"""The stack: a head for each feature, averaged or weighed by a regression on what they say of held-out rows."""

import numpy as np
import pytest
from test_heads import blobs

from classify.blocks import check_widths, inner_folds
from classify.linear import LogisticHead
from classify.stack import BASES, StackHead
from data.errors import HeadError


def two_features(n=60, seed=0, noise=12, n_classes=3, distance=0.8):
    """Return X and y: four columns that tell the classes apart, and `noise` columns that tell nothing."""
    X, y = blobs([n // n_classes] * n_classes, dim=4, distance=distance, seed=seed)
    rng = np.random.default_rng(seed + 100)
    return np.hstack([X, rng.normal(size=(len(X), noise)).astype(np.float32)]), y, (4, noise)


every_way = pytest.mark.parametrize("how", ["average", "stacking"])


@every_way
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_base_learns(how, base, n_classes):
    X, y, widths = two_features(90, n_classes=n_classes, distance=1.5)
    fresh, truth, _ = two_features(90, seed=1, n_classes=n_classes, distance=1.5)
    head = StackHead(base=base, how=how, widths=widths).fit(X, y)
    assert head.score(fresh, truth) > 0.75
    assert head.coef_.shape == (1 if n_classes == 2 else 3, 16)


def test_the_average_is_the_normalised_product_of_the_calibrated_probabilities():
    X, y, widths = two_features()
    head = StackHead(how="average", widths=widths).fit(X, y)
    product = np.ones((len(X), 3))
    for i, columns in enumerate((slice(0, 4), slice(4, 16))):
        scores = head.scales_[i] * (X[:, columns].astype(float) @ head.coef_[:, columns].T + head.intercepts_[i])
        odds = np.exp(scores)
        product *= odds / odds.sum(axis=1, keepdims=True)
    want = np.sqrt(product)
    np.testing.assert_allclose(head.predict_proba(X), want / want.sum(axis=1, keepdims=True), atol=1e-6)


def test_the_base_heads_are_what_they_would_be_alone():
    X, y, widths = two_features()
    head = StackHead(how="average", widths=widths).fit(X, y)
    nearest = min(
        np.abs(LogisticHead(C=C).fit(np.ascontiguousarray(X[:, :4]), y).coef_ - head.coef_[:, :4]).max()
        for C in LogisticHead.grid["C"]
    )
    assert nearest < 5e-3  # both are within a relative gap of 1e-4, from other starts


def test_a_feature_of_noise_says_little():
    X, y, widths = two_features(120, noise=300)
    fresh, truth, _ = two_features(120, seed=1, noise=300)
    stack = StackHead(widths=widths).fit(X, y).score(fresh, truth)
    beside = LogisticHead(C=1.0).fit(X, y).score(fresh, truth)
    assert stack > beside + 0.05
    # memorised training rows would make the noise look perfect; held-out ones do not
    of_noise = np.abs(StackHead(widths=widths).fit(X, y).mixture_[:, 3:]).sum()
    of_signal = np.abs(StackHead(widths=widths).fit(X, y).mixture_[:, :3]).sum()
    assert of_signal > 3 * of_noise


def test_without_widths_there_is_one_feature():
    X, y, _ = two_features()
    whole, told = StackHead().fit(X, y), StackHead(widths=(16,)).fit(X, y)
    assert np.array_equal(whole.predict_proba(X), told.predict_proba(X))


@every_way
def test_the_order_of_the_rows_does_not_matter(how):
    X, y, widths = two_features()
    order = np.random.default_rng(1).permutation(len(X))
    one, other = (StackHead(how=how, widths=widths).fit(X[rows], y[rows]) for rows in (np.arange(len(X)), order))
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), atol=2e-2)


def test_folds_keep_equal_rows_and_views_of_a_picture_together():
    X, y, _ = two_features(60)
    X[7], y[7] = X[3], y[3]
    views = np.vstack([X, X + 1, X - 1])
    folds = inner_folds(views, np.tile(y, 3), 5, 3, 0)
    assert folds[7] == folds[3]
    assert np.array_equal(folds[:60], folds[60:120])
    assert np.array_equal(folds[:60], folds[120:])
    counts = np.array([np.bincount(folds[:60][y == c], minlength=5) for c in range(3)])
    assert counts.max() - counts.min() <= 2  # stratified, but for the copy
    assert not np.array_equal(folds, inner_folds(views, np.tile(y, 3), 5, 3, 1))  # by seed


def test_the_only_row_of_a_class_always_trains():
    X, y, widths = two_features()
    y[0] = 3
    assert inner_folds(X, y, 5, 1, 0)[0] == -1
    assert StackHead(widths=widths).fit(X, y).predict_proba(X).shape == (60, 4)


def test_every_class_trains_in_every_inner_fold_where_its_contents_bear_another_label_too():
    X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    X, y = np.concatenate([X, X[:1]]), np.array([0] * 10 + [1] * 10 + [2])  # the only picture of class 2 is one of 0
    folds = inner_folds(X, y, 5, 1, 0)
    assert folds[0] == folds[-1] == -1
    assert (folds[1:20] >= 0).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"base": "tree"}, r"^stack has no base 'tree': choose one of lr, svm, ridge, lda$"),
        ({"how": "vote"}, r"^stack knows no way 'vote': choose one of average, stacking$"),
        ({"widths": (4, 4)}, r"^the widths of stack must be above 0 and sum to the 16 columns of X, got \(4, 4\)$"),
        ({"C": 0}, r"^C must be a number above 0, got 0$"),
        ({"views": 7}, r"^60 rows are not 7 views of the same pictures"),
    ],
)
def test_what_cannot_be_is_refused(params, message):
    X, y, _ = two_features()
    with pytest.raises(HeadError, match=message):
        StackHead(**params).fit(X, y)


def test_no_width_is_zero():
    with pytest.raises(HeadError, match="above 0"):
        check_widths((0, 3), 3, "stack")
