import numpy as np
import pytest
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import recall_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.svm import LinearSVC

from classify.head import softmax
from classify.heads import HEADS
from data.errors import HeadError

every_kind = pytest.mark.parametrize("kind", HEADS)
every_size = pytest.mark.parametrize("n_classes", [2, 4])


def blobs(counts, dim=12, distance=1.5, seed=0):
    """Return a cloud for each class, (n, dim) float32 standardised, in shuffled order."""
    centres = np.random.default_rng(99).normal(size=(len(counts), dim)) * distance
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return (centres[y] + rng.normal(size=(len(y), dim))).astype(np.float32), y


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@every_kind
@every_size
def test_outputs_have_the_shapes_of_scikit_learn(kind, n_classes):
    X, y = blobs([40] * n_classes)
    head = HEADS[kind]()
    assert head.fit(X, y) is head
    assert head.predict(X).shape == (len(X),)
    assert head.scores(X).shape == (len(X), n_classes)
    assert head.scores(X).dtype == np.float64
    probabilities = head.predict_proba(X)
    assert probabilities.shape == (len(X), n_classes)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert (probabilities >= 0).all()
    assert (probabilities.argmax(axis=1) == head.predict(X)).all()
    assert head.score(X, y) > 0.8
    assert head.predict_proba(X[:0]).shape == (0, n_classes)


@every_kind
def test_the_binary_decision_is_one_number_whose_sign_is_the_answer(kind):
    X, y = blobs([40, 40], distance=0.5)
    head = HEADS[kind]().fit(X, y)
    decision = head.decision_function(X)
    assert decision.shape == (80,)
    assert ((decision > 0) == (head.predict(X) == 1)).all()
    assert 0 < (decision > 0).sum() < 80


@every_kind
def test_the_decision_of_several_classes_is_largest_at_the_answer(kind):
    X, y = blobs([40] * 3)
    head = HEADS[kind]().fit(X, y)
    assert (head.decision_function(X).argmax(axis=1) == head.predict(X)).all()


@every_kind
@every_size
def test_two_fits_with_one_seed_are_bit_equal(kind, n_classes):
    X, y = blobs([40] * n_classes)
    first, second = (HEADS[kind](random_state=3).fit(X, y) for _ in range(2))
    assert same(first.state(), second.state())
    assert np.array_equal(first.predict_proba(X), second.predict_proba(X))


def test_another_seed_gives_another_mlp():
    X, y = blobs([40] * 3)
    first, second = (HEADS["mlp"](random_state=seed).fit(X, y) for seed in (0, 1))
    assert not same(first.state(), second.state())


@every_kind
@every_size
def test_the_state_restores_a_head_bit_for_bit(kind, n_classes):
    X, y = blobs([40] * n_classes)
    head = HEADS[kind](class_weight="balanced").fit(X, y)
    head.scale_ = 1.7
    other = HEADS[kind](**head.get_params())
    other.restore(head.state(), n_classes, 1.7)
    assert np.array_equal(other.predict(X), head.predict(X))
    assert np.array_equal(other.predict_proba(X), head.predict_proba(X))
    assert np.array_equal(other.decision_function(X), head.decision_function(X))
    assert same(other.state(), head.state())


@every_kind
def test_the_state_is_arrays_without_objects(kind):
    X, y = blobs([40] * 3)
    for array in HEADS[kind]().fit(X, y).state().values():
        assert isinstance(array, np.ndarray)
        assert array.dtype.kind in "fi"
        assert array.flags["C_CONTIGUOUS"]


@every_kind
def test_fitting_and_predicting_leave_the_data_alone(kind):
    X, y = blobs([40] * 3)
    kept = X.copy(), y.copy()
    HEADS[kind]().fit(X, y).predict_proba(X)
    assert np.array_equal(X, kept[0])
    assert np.array_equal(y, kept[1])


@every_kind
def test_a_row_is_classified_the_same_alone_and_among_others(kind):
    X, y = blobs([40] * 3)
    head = HEADS[kind]().fit(X, y)
    alone = np.concatenate([head.predict_proba(X[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(alone, head.predict_proba(X)[:20], atol=1e-6)


@every_kind
def test_scikit_learn_can_clone_a_head(kind):
    head = HEADS[kind](class_weight="balanced", random_state=5)
    assert clone(head).get_params() == head.get_params()


@every_kind
def test_one_class_is_refused(kind):
    with pytest.raises(HeadError, match=r"^one class \(3\) cannot be told from others: give at least two$"):
        HEADS[kind]().fit(np.zeros((4, 2), dtype=np.float32), np.full(4, 3))


@every_kind
def test_labels_may_leave_gaps(kind):
    X, y = blobs([40] * 3)
    labels = np.array([2, 5, 9])
    head = HEADS[kind]().fit(X, labels[y])
    assert head.classes_.tolist() == [2, 5, 9]
    assert (head.predict(X) == labels[y]).mean() > 0.9


@pytest.mark.parametrize("kind", sorted(set(HEADS) - {"centroid"}))
def test_balanced_weights_find_more_of_a_rare_class(kind):
    X, y = blobs([20, 400], distance=0.35)
    params = {"k": 20} if kind == "knn" else {}
    unseen, truth = blobs([100, 2000], distance=0.35, seed=1)
    recalls = [
        recall_score(truth, HEADS[kind](**params, class_weight=weight).fit(X, y).predict(unseen), pos_label=0)
        for weight in (None, "balanced")
    ]
    assert recalls[1] > recalls[0] + 0.05


def test_balanced_weights_change_no_centroid():
    X, y = blobs([20, 100, 50])
    heads = [HEADS["centroid"](class_weight=weight).fit(X, y) for weight in (None, "balanced")]
    assert same(heads[0].state(), heads[1].state())


@every_size
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_lr_equals_scikit_learn(n_classes, class_weight):
    X, y = blobs([30, 50, 40, 20][:n_classes])
    head = HEADS["lr"](C=0.1, class_weight=class_weight).fit(X, y)
    exact = LogisticRegression(C=0.1, class_weight=class_weight, tol=1e-10, max_iter=10_000).fit(X.astype(float), y)
    assert head.converged_
    assert head.coef_.shape == exact.coef_.shape
    np.testing.assert_allclose(head.coef_, exact.coef_, atol=5e-3)
    np.testing.assert_allclose(head.predict_proba(X), exact.predict_proba(X), atol=5e-3)


@every_size
@pytest.mark.parametrize("n", [20, 5])  # n >= d, and below
def test_svm_equals_scikit_learn(n_classes, n):
    X, y = blobs([n] * n_classes, dim=32)
    head = HEADS["svm"](C=0.01).fit(X, y)
    exact = LinearSVC(C=0.01, dual=False, tol=1e-10, max_iter=100_000).fit(X.astype(float), y)
    assert head.converged_
    np.testing.assert_allclose(head.coef_, exact.coef_, atol=1e-3)
    np.testing.assert_allclose(head.decision_function(X), exact.decision_function(X), atol=5e-3)


@every_size
def test_ridge_equals_scikit_learn(n_classes):
    X, y = blobs([30] * n_classes)
    head = HEADS["ridge"](alpha=10.0).fit(X, y)
    exact = RidgeClassifier(alpha=10.0).fit(X.astype(float), y)
    np.testing.assert_allclose(head.coef_, np.atleast_2d(exact.coef_), atol=1e-6)
    np.testing.assert_allclose(head.decision_function(X), exact.decision_function(X), atol=1e-5)


def test_ridge_is_exact_where_the_normal_equations_are_near_singular():
    X, y = blobs([5, 5], dim=200)
    head = HEADS["ridge"](alpha=1e-3).fit(X, y)
    exact = RidgeClassifier(alpha=1e-3, solver="svd").fit(X.astype(float), y)
    np.testing.assert_allclose(head.decision_function(X), exact.decision_function(X), atol=1e-4)


@every_size
@pytest.mark.parametrize("shrinkage", ["auto", 0.3])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_lda_equals_scikit_learn(n_classes, shrinkage, class_weight):
    X, y = blobs([30, 50, 40, 20][:n_classes])
    head = HEADS["lda"](shrinkage=shrinkage, class_weight=class_weight).fit(X, y)
    priors = None if class_weight is None else np.full(n_classes, 1 / n_classes)
    exact = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=priors).fit(X.astype(float), y)
    np.testing.assert_allclose(head.predict_proba(X), exact.predict_proba(X), atol=1e-4)


@every_kind
@pytest.mark.parametrize("n", [1, 2])
def test_very_few_pictures_of_each_class_are_enough_to_fit(kind, n):
    X, y = np.tile(np.eye(4, dtype=np.float32) * 3, (n, 1)), np.tile(np.arange(4), n)
    X += np.random.default_rng(0).normal(scale=0.1, size=X.shape).astype(np.float32)
    head = HEADS[kind](**({"k": 1} if kind == "knn" else {})).fit(X, y)
    assert np.isfinite(head.predict_proba(X)).all()
    if kind != "svm":  # whose default C is made for a thousand columns
        assert head.score(X, y) == 1


def test_centroid_equals_scikit_learn():
    X, y = blobs([30, 50, 20], distance=0.4)
    head = HEADS["centroid"]().fit(X, y)
    assert (head.predict(X) == NearestCentroid().fit(X, y).predict(X)).all()
    assert 0.5 < head.score(X, y) < 1


@pytest.mark.parametrize("k", [1, 5, 8])
def test_knn_votes_equal_scikit_learn(k):
    X, y = blobs([30, 50, 20], distance=0.5)
    unseen, _ = blobs([30, 30, 30], distance=0.5, seed=1)
    head = HEADS["knn"](k=k).fit(X, y)
    exact = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(X, y)
    # the head spreads one vote more over the classes, so that no probability is zero
    want = (exact.predict_proba(unseen) * k + 1 / 3) / (k + 1)
    np.testing.assert_allclose(head.predict_proba(unseen), want, atol=1e-12)


def with_ties(seed):
    """Return pictures of which many lie in the same directions, their labels, and some to classify."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-1, 2, size=(60, 3)).astype(np.float32) * rng.integers(1, 3, size=(60, 1))
    return X.astype(np.float32), np.arange(60) % 3, rng.normal(size=(20, 3)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_knn_on_ties_is_the_average_over_the_orders_scikit_learn_might_take(k):
    X, y, unseen = with_ties(0)
    head = HEADS["knn"](k=k).fit(X, y)
    votes = np.exp(head.scores(unseen)) - 1 / 3
    rng, runs = np.random.default_rng(1), []
    zero = ~X.any(axis=1)
    for _ in range(400):
        order = rng.permutation(60)
        # scikit-learn's brute force takes any of those at one distance: a tilt below all gaps makes the order count
        distance = 1 - head.neighbours_[order] @ (unseen / np.linalg.norm(unseen, axis=1, keepdims=True)).T
        exact = KNeighborsClassifier(k, metric="precomputed").fit(np.zeros((60, 60)), y[order])
        runs.append(exact.predict_proba(distance.T + 1e-5 * np.arange(60)) * k)
    assert zero.any()
    assert (np.abs(votes - np.round(votes)) > 1e-9).any()  # something was shared
    np.testing.assert_allclose(votes, np.mean(runs, axis=0), atol=0.25)


def test_knn_does_not_hang_on_the_order_of_its_pictures():
    X, y, unseen = with_ties(2)
    order = np.random.default_rng(3).permutation(60)
    first, second = HEADS["knn"](k=5).fit(X, y), HEADS["knn"](k=5).fit(X[order], y[order])
    np.testing.assert_allclose(first.scores(unseen), second.scores(unseen), atol=1e-12)


def test_knn_finds_its_neighbours_among_hundreds_of_copies():
    rng = np.random.default_rng(0)
    # 500 copies of one picture with the labels 0 and 1 in turn: far more ties than are looked at first
    X = np.concatenate([np.tile(np.float32([1, 2, 3]), (500, 1)), rng.normal(size=(50, 3)).astype(np.float32)])
    y = np.concatenate([np.arange(500) % 2, np.full(50, 2)])
    shares = HEADS["knn"](k=10).fit(X, y).predict_proba(np.float32([[1, 2, 3], [2, 4, 6]]))
    np.testing.assert_allclose(shares, np.tile((np.array([5, 5, 0]) + 1 / 3) / 11, (2, 1)), atol=1e-9)


def test_knn_lets_a_picture_of_weight_w_count_as_w_pictures():
    X = np.float32([[1, 0], [1, 0.1], [1, 0.3], [0, 1]])
    head = HEADS["knn"](k=5).fit(X, [0, 1, 0, 1], sample_weight=[2, 2.5, 4, 1])
    # the third of them fills up what is wanted, and counts in part: 2 of class 0, 2.5 of class 1, 0.5 of class 0
    np.testing.assert_allclose(np.exp(head.scores(np.float32([[2, 0]]))), [[2.5 + 0.5, 2.5 + 0.5]])


def test_knn_reads_heads_that_had_a_weight_for_each_class():
    X, y = blobs([30, 10])
    head, old = HEADS["knn"](class_weight="balanced").fit(X, y), HEADS["knn"]()
    per_class = np.array([40 / 60, 40 / 20])
    old.restore({**head.state(), "weights_": per_class}, 2, 1.0)
    assert np.array_equal(old.predict_proba(X), head.predict_proba(X))


def test_knn_answers_the_same_in_slices():
    X, y = blobs([30, 30])
    head = HEADS["knn"]().fit(X, y)
    many = np.tile(X, (40, 1))  # 2,400 rows: three slices
    assert np.array_equal(head.predict_proba(many), np.tile(head.predict_proba(X), (40, 1)))


def test_knn_with_fewer_pictures_than_k_lets_all_vote():
    X, y = blobs([3, 1])
    shares = HEADS["knn"](k=20).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(shares, np.tile([3.5 / 5, 1.5 / 5], (4, 1)))


def test_knn_survives_a_vector_of_zeros():
    X, y = blobs([5, 5])
    X[0] = 0
    assert np.isfinite(HEADS["knn"]().fit(X, y).predict_proba(np.zeros((2, 12), dtype=np.float32))).all()


@every_size
@pytest.mark.parametrize("var_smoothing", [1e-9, 0.3])
@pytest.mark.parametrize("offset", [0, 1e3])
def test_bayes_equals_scikit_learn(n_classes, var_smoothing, offset):
    X, y = blobs([30, 50, 20, 40][:n_classes])
    X += np.float32(offset)
    head = HEADS["bayes"](var_smoothing=var_smoothing).fit(X, y)
    exact = GaussianNB(var_smoothing=var_smoothing).fit(X.astype(float), y)
    np.testing.assert_allclose(head.theta_, exact.theta_, rtol=1e-12)
    np.testing.assert_allclose(head.var_, exact.var_, rtol=1e-9)
    np.testing.assert_allclose(head.scores(X), exact.predict_joint_log_proba(X.astype(float)), rtol=1e-9)
    np.testing.assert_allclose(head.predict_proba(X), exact.predict_proba(X.astype(float)), atol=1e-9)


def test_bayes_with_weights_and_priors_equals_scikit_learn():
    X, y = blobs([30, 50, 20])
    weights = np.random.default_rng(0).integers(1, 4, size=100).astype(float)
    head = HEADS["bayes"](var_smoothing=0.0, priors=[0.2, 0.3, 0.5]).fit(X, y, weights)
    exact = GaussianNB(var_smoothing=0.0, priors=[0.2, 0.3, 0.5]).fit(X.astype(float), y, weights)
    np.testing.assert_allclose(head.scores(X), exact.predict_joint_log_proba(X.astype(float)), rtol=1e-9)


def test_balanced_weights_make_the_priors_of_bayes_equal():
    X, y = blobs([20, 100, 50])
    np.testing.assert_allclose(np.exp(HEADS["bayes"](class_weight="balanced").fit(X, y).log_prior_), 1 / 3)
    np.testing.assert_allclose(np.exp(HEADS["bayes"]().fit(X, y).log_prior_), np.array([20, 100, 50]) / 170)


@pytest.mark.parametrize("priors", [[0.5, 0.6], [1.0], [1.0, 0.0], [-1.0, 2.0]])
def test_priors_that_are_no_probabilities_are_refused(priors):
    X, y = blobs([5, 5])
    with pytest.raises(HeadError, match=r"^priors must be 2 numbers above 0, one for each class, that sum to 1, not "):
        HEADS["bayes"](priors=priors).fit(X, y)


def test_bayes_bears_features_that_are_constant():
    X, y = blobs([10, 10])
    X[:, 3] = 7
    X[y == 0, 4] = 1
    for smoothing in (0.0, 1e-9):
        head = HEADS["bayes"](var_smoothing=smoothing).fit(X, y)
        assert np.isfinite(head.predict_proba(X)).all()
        assert head.score(X, y) == 1
    assert np.isfinite(HEADS["bayes"]().fit(np.ones((4, 2)), [0, 0, 1, 1]).predict_proba(np.zeros((2, 2)))).all()


def test_softmax_bears_large_scores():
    got = softmax(np.array([[1e4, 0.0], [-1e4, -1e4], [np.log(3), 0.0]]))
    np.testing.assert_allclose(got, [[1, 0], [0.5, 0.5], [0.75, 0.25]])
