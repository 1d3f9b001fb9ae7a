import dataclasses
import itertools
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import SPEC
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.svm import LinearSVC

from classify.certificate import balanced
from classify.closed_form import ridge_left_out, ridge_path
from classify.heads import HEADS
from classify.losses import Columns, logistic, multinomial, squared_hinge
from classify.paths import Task, logistic_path, svm_path
from classify.problems import Problems
from classify.rows import Moments, Rows, Spectrum
from classify.selection import train
from classify.solver import Stopping, minimise
from data.store import Samples

every_size = pytest.mark.parametrize("n_classes", [2, 4])
every_shape = pytest.mark.parametrize(("n", "d"), [(150, 20), (30, 80)])  # n above d, and below
weighted = pytest.mark.parametrize("weighted", [False, True])


def problem(n, d, n_classes, seed=0):
    """Return rows whose columns differ in mean and size, (n, d) float32, and overlapping classes."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    X = rng.normal(size=(n_classes, d))[y] * 0.4 + rng.normal(size=(n, d))
    return (X * rng.uniform(0.1, 5, d) + rng.normal(size=d) * 3).astype(np.float32), y


def task_of(X, y, weights=None):
    rows = Rows([X], block=1 << 10)  # several blocks
    mask = None if weights is None else (weights > 0).astype(np.float32)
    return Task(rows, y, int(y.max()) + 1, weights, Moments.of(rows, mask))


def standardised(X, weights=None):
    inside = X if weights is None else X[weights > 0]
    return (X - inside.mean(axis=0, dtype=float)) / inside.std(axis=0, dtype=float)


def lr_objective(Z, y, coef, intercept, C, w):
    scores = Z @ coef.T + intercept
    if len(coef) == 1:
        losses = np.logaddexp(0, -np.where(y == 1, 1, -1) * scores[:, 0])
    else:
        losses = logsumexp(scores, axis=1) - scores[np.arange(len(y)), y]
    return (coef**2).sum() / 2 + C * (w * losses).sum()


def svm_objective(Z, y, coef, intercept, C, w):
    labels = np.array([1]) if len(coef) == 1 else np.arange(len(coef))
    signs = np.where(y[:, None] == labels, 1, -1)
    short = np.maximum(0, 1 - signs * (Z @ coef.T + intercept))
    return ((coef**2).sum() + (intercept**2).sum()) / 2 + C * (w[:, None] * short**2).sum()


@every_size
@every_shape
@weighted
@pytest.mark.parametrize("kind", ["lr", "svm"])
def test_the_objective_is_that_of_scikit_learn(kind, n, d, n_classes, weighted):
    X, y = problem(n, d, n_classes)
    w = np.random.default_rng(1).uniform(0.2, 3, n) if weighted else np.ones(n)
    weights = w[:, None].astype(np.float32) if weighted else None
    Z = standardised(X)
    path, objective = {"lr": (logistic_path, lr_objective), "svm": (svm_path, svm_objective)}[kind]
    for fit in path(task_of(X, y, weights), [1.0, 1e-3, 0.05]):
        C = fit.value
        peer = (
            LogisticRegression(C=C, tol=1e-9, max_iter=100_000, solver="newton-cg")
            if kind == "lr"
            else LinearSVC(C=C, dual=False, tol=1e-9, max_iter=100_000)
        ).fit(Z, y, sample_weight=w)
        best = objective(Z, y, peer.coef_, peer.intercept_, C, w)
        ours = objective(Z, y, fit.coef[0].astype(float), fit.intercept[0], C, w)
        assert ours - best <= 1e-4 * best
        assert best - ours <= 1e-6 * best  # or the peer is no yardstick
        assert ours - best <= fit.gap * ours + 1e-6 * ours
        assert fit.gap <= 1e-4


@pytest.mark.filterwarnings("ignore")  # the peer's doubts about C = 1e5
@every_size
@weighted
@pytest.mark.parametrize("apart", [0.0, 3.0])
def test_the_gap_is_a_bound_wherever_the_solver_is_stopped(n_classes, weighted, apart):
    for (n, d), one_sided in itertools.product([(60, 8), (25, 30)], [False, True]):
        X, y = problem(n, d, n_classes)
        if one_sided:
            y[: n // 2] = 0
        rng = np.random.default_rng(1)
        X += (apart * rng.normal(size=(n_classes, d))[y] * X.std(axis=0)).astype(np.float32)
        w = (rng.uniform(0.1, 3, n) if weighted else np.ones(n)).astype(np.float32)
        task, Z = task_of(X, y, w[:, None]), standardised(X)
        for C in (1e-6, 1e-2, 1.0, 1e2, 1e5):
            peer = LogisticRegression(C=C, tol=1e-10, max_iter=1000, solver="newton-cg").fit(Z, y, sample_weight=w)
            best = lr_objective(Z, y, peer.coef_, peer.intercept_, C, w)
            for steps in (0, 2, 8, 500):
                (fit,) = logistic_path(task, [C], Stopping(max_steps=steps, stall=1e-5))
                ours = lr_objective(Z, y, fit.coef[0].astype(float), fit.intercept[0], C, w)
                assert ours - best <= fit.gap * ours + 2e-6 * ours  # rounding of float32


def test_the_gap_is_a_bound_in_every_fold_where_one_lacks_a_class():
    X, y = problem(90, 10, 4)
    fold = np.arange(90) % 3
    fold[y == 2] = 1
    masks = (fold[:, None] != np.arange(3)).astype(np.float32)
    task = task_of(X, y, masks)
    for fit in logistic_path(task, [0.01, 1.0], Stopping(max_steps=3)):
        objectives, optima = [], []
        for f in range(3):
            Z = (X - task.moments.mean[f]) / task.moments.scale[f]
            objectives.append(lr_objective(Z, y, fit.coef[f].astype(float), fit.intercept[f], fit.value, masks[:, f]))
            peer = LogisticRegression(C=fit.value, tol=1e-9, solver="newton-cg").fit(Z[fold != f], y[fold != f])
            optima.append(
                lr_objective(
                    Z[fold != f],
                    np.searchsorted(peer.classes_, y[fold != f]),
                    peer.coef_,
                    peer.intercept_,
                    fit.value,
                    masks[fold != f, f],
                )
            )
        excess = (np.array(objectives) - optima) / objectives
        assert excess.max() <= fit.gap + 2e-6
        assert fit.gap < 1


def test_flows_are_cut_to_what_comes_back():
    rng = np.random.default_rng(0)
    for k in (2, 3, 20):
        for _ in range(20):
            flow = np.exp(rng.normal(size=(k, k)) * 4) * ~np.eye(k, dtype=bool)
            cut = balanced(flow)
            assert (cut >= 0).all()
            assert (cut <= 1).all()
            left = flow * (1 - cut)
            np.testing.assert_allclose(left.sum(axis=0), left.sum(axis=1), atol=1e-9 * flow.sum())
            assert left.sum() > 0
    level = rng.uniform(1, 2, (6, 6))
    assert np.abs(balanced(level + level.T)).max() < 1e-12  # what is level already is left alone
    dead_end = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(balanced(dead_end)[:2, 2], 1)


@pytest.mark.parametrize("kind", ["lr", "svm", "ridge", "lda"])
@pytest.mark.parametrize("n", [150, 2500])
def test_features_far_from_zero_give_the_model_of_those_near_it(kind, n):
    X, y = problem(n, 20, 4)
    X = np.round(X * 64) / 64  # so that shifting loses nothing in float32
    far = X + np.float32(1e5)
    assert np.array_equal(far - np.float32(1e5), X)
    near_task, far_task = (
        Task(rows, y, 4, None, Moments.of(rows)) for rows in (Rows([X], 1 << 12), Rows([far], 1 << 12))
    )
    head = HEADS[kind]()
    values = [getattr(head, head.along)]
    stopping = Stopping(1e-6)
    (a,), (b,) = (list(head.path(task, values, stopping)) for task in (near_task, far_task))
    np.testing.assert_allclose(b.coef, a.coef, atol=1e-3 * np.abs(a.coef).max())
    np.testing.assert_allclose(b.intercept, a.intercept, atol=1e-3)
    if kind != "svm":  # whose penalised intercept is for rows near zero
        probabilities = [HEADS[kind]().fit(rows, y).predict_proba(rows) for rows in (X, far)]
        np.testing.assert_allclose(*probabilities, atol=2e-3)


def test_what_is_far_from_zero_is_measured_as_what_is_near_it():
    X, y = problem(200, 20, 3)
    X = np.round(X * 64) / 64
    digests = np.array([f"{i:064x}" for i in range(200)], dtype="S64")
    near, far = (
        Samples(rows, y.astype(np.int32), list("abc"), digests.tolist(), digests, SPEC, "toys", "train")
        for rows in (X, X + np.float32(1e5))
    )
    a, b = (train("lr", samples) for samples in (near, far))
    for one, other in zip(a.candidates, b.candidates, strict=True):
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.0051)  # a picture
        assert one.log_loss == pytest.approx(other.log_loss, abs=2e-3)


@pytest.mark.parametrize("kind", ["ridge", "lda"])
def test_folds_share_memory_for_one_gram_matrix_each(kind):
    d, folds = 700, 5
    X, y = problem(900, d, 3)
    task = task_of(X, y, (np.arange(900)[:, None] % folds != np.arange(folds)).astype(np.float32))
    task = dataclasses.replace(task, rows=Rows([X], block=1 << 12))  # 256 rows at a time
    values = {"ridge": [10.0, 1000.0], "lda": ["auto", 0.5]}[kind]
    tracemalloc.start()
    try:
        list(HEADS[kind]().path(task, values, Stopping()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / (8 * d * d) < folds + 3


@pytest.fixture(scope="module")
def caltech():
    folder = os.environ.get("PENULT_REAL_DATA")
    if not folder:
        pytest.skip("PENULT_REAL_DATA is not set: no real features")
    with np.load(Path(folder) / "caltech101_lite0_features.npz", allow_pickle=False) as file:
        X, names = file["X"].astype(np.float32), file["y"]
    kept, counts = np.unique(names, return_counts=True)
    return X, names, kept[np.argsort(-counts, kind="stable")]


@pytest.mark.parametrize(("classes", "n", "d"), [(2, 300, 1280), (2, 500, 100), (10, 300, 1280), (10, 800, 100)])
@weighted
def test_real_features_reach_the_optimum_of_scikit_learn(caltech, classes, n, d, weighted):
    X, names, order = caltech
    rows = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(names, order[:classes])))[:n]
    X, y = X[rows, :d], np.unique(names[rows], return_inverse=True)[1]
    w = np.random.default_rng(1).uniform(0.5, 2, n) if weighted else np.ones(n)
    Z = standardised(X)
    for kind, path, objective in (("lr", logistic_path, lr_objective), ("svm", svm_path, svm_objective)):
        (fit,) = path(task_of(X, y, w[:, None].astype(np.float32)), [1e-2])
        peer = (
            LogisticRegression(C=1e-2, tol=1e-6, max_iter=10_000)
            if kind == "lr"
            else LinearSVC(C=1e-2, tol=1e-8, dual=n < d, max_iter=200_000, random_state=0)
        ).fit(Z, y, sample_weight=w)
        best = objective(Z, y, peer.coef_, peer.intercept_, 1e-2, w)
        ours = objective(Z, y, fit.coef[0].astype(float), fit.intercept[0], 1e-2, w)
        assert abs(ours - best) <= 1e-4 * best


@every_size
@pytest.mark.parametrize("kind", ["lr", "svm", "ridge", "lda"])
def test_folds_beside_each_other_are_the_fits_of_their_rows_alone(kind, n_classes):
    X, y = problem(120, 15, n_classes)
    fold = np.arange(120) % 3
    masks = (fold[:, None] != np.arange(3)).astype(np.float32)
    head = HEADS[kind](**({"tol": 1e-8} if kind in ("lr", "svm") else {}))
    values = {"lr": [0.01, 1.0], "svm": [0.001, 0.1], "ridge": [100.0, 1.0], "lda": ["auto", 0.5]}[kind]
    together = {fit.value: fit for fit in head.path(task_of(X, y, masks), values, head.stopping())}
    for f in range(3):
        inside = fold != f
        for fit in head.path(task_of(X[inside], y[inside]), values, head.stopping()):
            np.testing.assert_allclose(together[fit.value].coef[f], fit.coef[0], atol=2e-3)
            np.testing.assert_allclose(together[fit.value].intercept[f], fit.intercept[0], atol=2e-3)


@every_shape
def test_ridge_on_rows_and_on_columns_equals_scikit_learn(n, d):
    X, y = problem(n, d, 3)
    w = np.random.default_rng(1).uniform(0.5, 2, n)
    for fit in ridge_path(task_of(X, y, w[:, None].astype(np.float32)), [0.1, 10.0, 1000.0]):
        peer = RidgeClassifier(alpha=fit.value).fit(standardised(X), y, sample_weight=w)
        np.testing.assert_allclose(fit.coef[0], peer.coef_, atol=1e-4)
        np.testing.assert_allclose(fit.intercept[0], peer.intercept_, atol=1e-4)


@every_shape
@weighted
def test_what_ridge_says_without_a_group_is_the_fit_without_it(n, d, weighted):
    X, y = problem(n, d, 3)
    X = X.astype(float)
    signs = np.where(y[:, None] == np.arange(3), 1.0, -1.0)
    w = np.random.default_rng(1).uniform(0.5, 2, n) if weighted else np.ones(n)
    groups = np.arange(n) // 2 * (np.arange(n) < 20) + np.arange(n) * (np.arange(n) >= 20)  # ten pairs, then singles
    answers = ridge_left_out(X, signs, w, groups, [5.0, 500.0])
    for penalty, answer in zip([5.0, 500.0], answers, strict=True):
        for group in (0, 3, 25, n - 1):
            out = groups == group
            mean, target = (np.average(a[~out], axis=0, weights=w[~out]) for a in (X, signs))
            A = (X[~out] - mean) * w[~out, None]
            coef = np.linalg.solve(A.T @ (X[~out] - mean) + penalty * np.eye(d), A.T @ (signs[~out] - target))
            np.testing.assert_allclose(answer[out], (X[out] - mean) @ coef + target, atol=1e-7)


@pytest.mark.parametrize("loss", [multinomial, logistic, squared_hinge])
@weighted
def test_slopes_and_curvatures_are_the_derivatives_of_the_losses(loss, weighted):
    rng = np.random.default_rng(0)
    n, width = 6, 3 if loss is multinomial else 1
    Z = rng.normal(size=(n, 6)).astype(np.float32)
    targets = rng.integers(0, 3, n) if loss is multinomial else rng.choice(np.array([-1, 1], dtype=np.int8), (n, 6))
    weights = rng.uniform(0.5, 2, (n, 6 // width)).astype(np.float32) if weighted else None
    slopes = Z.copy()
    value, curvature = loss(slopes, targets, weights, width)
    assert value.shape == (6 // width,)
    step, second = 1e-2, np.zeros(6)
    for i in range(n):
        for j in range(6):
            moved = [Z.copy() for _ in range(2)]
            for other, sign in zip(moved, (1, -1), strict=True):
                other[i, j] += sign * step
            up, down = (loss(other.copy(), targets, weights, width)[0].sum() for other in moved)
            assert slopes[i, j] == pytest.approx((up - down) / (2 * step), abs=2e-3)
            ahead, behind = moved[0], moved[1]
            loss(ahead, targets, weights, width)
            loss(behind, targets, weights, width)
            second[j] += (ahead[i, j] - behind[i, j]) / (2 * step)
    np.testing.assert_allclose(curvature, second, atol=5e-2)


def test_the_rows_are_left_alone_and_may_be_half_precision():
    X, y = problem(150, 20, 3)
    half = X.astype(np.float16)
    kept = half.copy()
    (a,), (b,) = (list(logistic_path(task_of(rows, y), [0.1])) for rows in (half, half.astype(np.float32)))
    assert np.array_equal(half, kept)
    assert np.array_equal(a.coef, b.coef)


def test_the_size_of_the_blocks_changes_nothing_that_counts():
    X, y = problem(150, 20, 3)
    small, large = (
        next(logistic_path(dataclasses.replace(task_of(X, y), rows=Rows([X], block)), [0.1], Stopping(1e-8)))
        for block in (1 << 6, 1 << 20)
    )
    np.testing.assert_allclose(small.coef, large.coef, atol=1e-4)


def test_views_below_each_other_are_rows_like_others():
    X, y = problem(100, 10, 2)
    (a,), (b,) = (
        list(svm_path(dataclasses.replace(task_of(X, y), rows=Rows(sources)), [0.1]))
        for sources in ([X], [X[:40], X[40:]])
    )
    np.testing.assert_allclose(a.coef, b.coef, atol=1e-5)


def test_moments_bear_a_large_mean_and_constant_columns():
    X = (np.random.default_rng(0).normal(size=(1000, 3)) * [1e-3, 1, 0] + [1e4, 1e4, 7]).astype(np.float32)
    moments = Moments.of(Rows([X], block=900))
    np.testing.assert_allclose(moments.mean[0], X.mean(axis=0, dtype=float), rtol=1e-12)
    np.testing.assert_allclose(moments.scale[0, :2], X.std(axis=0, dtype=float)[:2], rtol=1e-6)
    assert moments.scale[0, 2] == 1


def test_a_column_that_only_a_held_out_row_fills_is_constant_in_its_fold():
    X = np.random.default_rng(0).normal(size=(1300, 40)).astype(np.float32)
    X[:, 20:] = 0
    X[0, 20:] = np.random.default_rng(1).uniform(0.1, 5, 20)
    masks = np.ones((1300, 2), dtype=np.float32)
    masks[0, 0] = 0
    moments = Moments.of(Rows([X]), masks)
    assert (moments.scale[0, 20:] == 1).all()
    np.testing.assert_allclose(moments.scale[1], X.std(axis=0, dtype=float), rtol=1e-6)


@every_shape
def test_the_spectrum_is_that_of_the_standardised_rows(n, d):
    X, _ = problem(n, d, 2)
    rows = Rows([X])
    spectrum = Spectrum.of(rows, Moments.of(rows))
    Z = standardised(X)
    expected = np.linalg.eigvalsh(Z.T @ Z / n)[::-1]
    np.testing.assert_allclose(spectrum.values[::-1], expected[: len(spectrum.values)], atol=1e-3)
    np.testing.assert_allclose(spectrum.vectors.T @ spectrum.vectors, np.eye(spectrum.vectors.shape[1]), atol=1e-3)


def test_a_problem_that_is_cut_short_says_how_far_it_got():
    X, y = problem(150, 20, 4)
    (fit,) = logistic_path(task_of(X, y), [1.0], Stopping(max_steps=2))
    (good,) = logistic_path(task_of(X, y), [1.0], Stopping(1e-8))
    assert fit.steps == 2
    assert fit.gap > 1e-3
    Z, w = standardised(X), np.ones(150)
    cut, best = (lr_objective(Z, y, f.coef[0].astype(float), f.intercept[0], 1.0, w) for f in (fit, good))
    assert best < cut <= best / (1 - fit.gap)
    head = HEADS["lr"](C=1.0, max_iter=2).fit(X, y)
    assert not head.converged_


def test_a_step_is_never_uphill():
    X, y = problem(60, 40, 4)
    rows = Rows([X])
    moments = Moments.of(rows)
    columns = Columns(np.arange(4), np.zeros(4, dtype=np.int64), np.full(4, 100.0), 4)
    problems = Problems(rows, y, multinomial, columns, None, moments, Spectrum.of(rows, moments), False)
    values = []
    for steps in range(12):
        values.append(minimise(problems, np.zeros((4, 41), np.float32), Stopping(max_steps=steps)).objective[0])
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(values))
    assert values[-1] < values[0] / 2


@pytest.mark.parametrize("kind", ["lr", "svm", "ridge"])
def test_several_labels_a_row_are_as_many_binary_heads(kind):
    X, _ = problem(100, 12, 2)
    X = standardised(X).astype(np.float32)
    rng = np.random.default_rng(0)
    Y = (X @ rng.normal(size=(12, 3)) + rng.normal(size=(100, 3)) > 0).astype(int)
    tight = {} if kind == "ridge" else {"tol": 1e-8}
    head = HEADS[kind](**tight).fit(X, Y)
    assert head.predict(X).shape == (100, 3)
    assert head.predict_proba(X).shape == (100, 3)
    assert ((head.predict_proba(X) > 0.5) == head.predict(X)).all()
    for j in range(3):
        alone = HEADS[kind](**tight).fit(X, Y[:, j])
        np.testing.assert_allclose(head.decision_function(X)[:, j], alone.decision_function(X), atol=2e-3)


def test_scikit_learns_solver_can_be_chosen():
    X, y = problem(100, 12, 3)
    X = standardised(X).astype(np.float32)
    for kind, peer in (("lr", LogisticRegression(C=0.01, max_iter=2000)), ("svm", LinearSVC(C=0.01, random_state=0))):
        head = HEADS[kind](C=0.01, solver="sklearn").fit(X, y)
        np.testing.assert_allclose(head.coef_, peer.fit(X.astype(float), y).coef_, atol=1e-3)
        with pytest.warns(ConvergenceWarning):
            cut_short = HEADS[kind](C=0.01, solver="sklearn", max_iter=1, tol=1e-12).fit(X, y)
        assert (cut_short.n_iter_, cut_short.converged_) == (1, False)
        assert HEADS[kind](C=0.01, solver="sklearn", tol=10.0).fit(X, y).n_iter_ < head.n_iter_
        with pytest.raises(ValueError, match=r"^no solver 'magic': choose one of penult, sklearn$"):
            HEADS[kind](solver="magic").fit(X, y)
