"""The linear heads that need no iteration: ridge and linear discriminant analysis, from sums over the rows.

One pass collects, for each fold, the sum of each class and the Gram matrix in float64; every penalty and every
shrinkage then follows. Where rows are fewer than columns ridge works on the rows' own Gram matrix instead.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, eigh

from classify.paths import Fit, Task

Double = npt.NDArray[np.float64]

_STRIP = 256  # rows of a Gram matrix that are worked on at a time


@dataclasses.dataclass
class Scatter:
    """Sums over rows: the standardised ones of a fold, or others on the way there.

    Parameters
    ----------
    weight : ndarray of shape (k,)
        Of each class.
    sums : ndarray of shape (k, d)
        Of each class's rows.
    mass : float
        Weight of all rows.
    total : ndarray of shape (d,)
        Sum of all rows.
    gram : ndarray of shape (d, d)
        Of outer products.
    """

    weight: Double
    sums: Double
    mass: float
    total: Double
    gram: Double

    @classmethod
    def empty(cls, k: int, d: int) -> "Scatter":
        """Return the sums over no rows."""
        return cls(np.zeros(k), np.zeros((k, d)), 0.0, np.zeros(d), np.zeros((d, d)))

    @classmethod
    def of(cls, task: Task) -> "Iterator[Scatter]":
        """Collect every fold's sums in one pass, and yield them fold by fold.

        The rows that a fold holds out are taken from the sums over all rows, so that k folds cost one Gram matrix, and
        k + 1 of them are in memory: a fold's takes the place of what it holds out. Rows are centred and scaled by
        their overall moments first, and by each fold's afterwards.
        """
        n, d = task.rows.shape
        f, k = task.folds, task.n_classes
        weights = np.ones((n, 1), dtype=np.float32) if task.weights is None else task.weights
        base = weights.max(axis=1).astype(np.float64)
        mean, scale = task.moments.mean.mean(axis=0), task.moments.scale.mean(axis=0)
        total = cls.empty(k, d)
        held_out = [cls.empty(k, d) for _ in range(f)]
        for start, block in task.rows.blocks(2 * d):
            X = (block - mean) / scale
            at = slice(start, start + len(X))
            out = weights[at] == 0
            alone = out.sum(axis=1) == 1  # held out by one fold, as cross-validation does it
            for i in range(f):
                held_out[i].add(X, task.y[at], base[at], np.flatnonzero(alone & out[:, i]))
            total.add(X, task.y[at], base[at], np.flatnonzero(~alone & ~out.any(axis=1)))
        for sums in held_out:
            total.take(sums)
        for i in range(f):
            fold, held_out[i] = held_out[i], None  # type: ignore[call-overload]  # so that it goes when it is done with
            fold.leave(total)
            fold.standardise((task.moments.mean[i] - mean) / scale, task.moments.scale[i] / scale)
            yield fold
            del fold

    def add(self, X: Double, y: npt.NDArray[Any], w: Double, which: npt.NDArray[np.intp]) -> None:
        """Add some rows."""
        if not len(which):
            return
        X, w = X[which], w[which]
        weighted = X * w[:, None]
        if y.ndim == 2:  # several labels a row
            member = y[which].T.astype(np.float64)
        else:
            member = np.zeros((len(self.weight), len(X)))
            member[y[which], np.arange(len(X))] = 1
        self.weight += member @ w
        self.sums += member @ weighted
        self.mass += float(w.sum())
        self.total += weighted.sum(axis=0)
        self.gram += weighted.T @ X

    def take(self, other: "Scatter") -> None:
        """Add other sums."""
        self.weight += other.weight
        self.sums += other.sums
        self.mass += other.mass
        self.total += other.total
        self.gram += other.gram

    def leave(self, whole: "Scatter") -> None:
        """Become what `whole` is without these sums."""
        self.mass = whole.mass - self.mass
        for name in ("weight", "sums", "total", "gram"):
            np.subtract(getattr(whole, name), getattr(self, name), out=getattr(self, name))

    def standardise(self, mean: Double, scale: Double) -> None:
        """Become the sums of (x - mean) / scale."""
        self.sums -= self.weight[:, None] * mean
        self.sums /= scale
        # of total, mean and both: about a mean m, the sum of (x - m)(x - m)' is that of xx' less mt' + tm' - Mmm'
        _less_products(self.gram, np.stack([self.total - self.mass * mean, mean]), np.stack([mean, self.total]))
        for start in range(0, len(self.gram), _STRIP):
            self.gram[start : start + _STRIP] /= scale[start : start + _STRIP, None] * scale
        self.total = (self.total - self.mass * mean) / scale


def _less_products(gram: Double, left: Double, right: Double) -> None:
    """Subtract left.T @ right, (d, d), without a second matrix of that size."""
    for start in range(0, len(gram), _STRIP):
        gram[start : start + _STRIP] -= left[:, start : start + _STRIP].T @ right


def ridge_path(task: Task, values: Sequence[float]) -> Iterator[Fit]:
    """Yield least squares on targets of -1 and 1 with a free intercept, for each penalty, strongest first.

    Parameters
    ----------
    task : Task
        What is to be learnt.
    values : sequence of float
        Penalties on the squared coefficients, in any order.
    """
    ordered = sorted(values, reverse=True)
    n, d = task.rows.shape
    solve = _by_rows if n < d else _by_columns
    fits = solve(task, ordered)
    for i, value in enumerate(ordered):
        coef, intercept = (np.stack([fold[part][i] for fold in fits]) for part in (0, 1))
        yield Fit(value, coef.astype(np.float32), intercept, 0.0, 0)


def _by_columns(task: Task, penalties: Sequence[float]) -> list[tuple[list[Double], list[Double]]]:
    fits = []
    binary = task.n_classes == 2 and task.y.ndim == 1
    labels = np.array([1]) if binary else np.arange(task.n_classes)
    for scatter in Scatter.of(task):
        weight, total = scatter.mass, scatter.total
        mean = total / weight
        gram = scatter.gram
        _less_products(gram, total[None], mean[None])
        target_mean = 2 * scatter.weight[labels] / weight - 1
        right = (2 * scatter.sums[labels] - total) - np.outer(weight * target_mean, mean)  # (k, d)
        coefs = []
        for penalty in penalties:
            coefs.append(_solved(gram, penalty, right))
        fits.append((coefs, [target_mean - coef @ mean for coef in coefs]))
    return fits


def _by_rows(task: Task, penalties: Sequence[float]) -> list[tuple[list[Double], list[Double]]]:
    signs = task.signs().astype(np.float64)
    X_all = np.concatenate([X for _, X in task.rows.blocks()]).astype(np.float64)
    fits = []
    for i in range(task.folds):
        w = np.ones(len(X_all)) if task.weights is None else task.weights[:, i].astype(np.float64)
        inside = np.flatnonzero(w > 0)
        root = np.sqrt(w[inside])[:, None]
        X = (X_all[inside] - task.moments.mean[i]) / task.moments.scale[i]
        mean = np.average(X, axis=0, weights=w[inside])
        target_mean = np.average(signs[inside], axis=0, weights=w[inside])
        X, Y = (X - mean) * root, (signs[inside] - target_mean) * root
        values, Q = eigh(X @ X.T, driver="evd", overwrite_a=True, check_finite=False)
        turned, back = Q.T @ Y, X.T @ Q
        coefs = [(back @ (turned / (np.maximum(values, 0) + p)[:, None])).T for p in penalties]
        fits.append((coefs, [target_mean - coef @ mean for coef in coefs]))
    return fits


def ridge_left_out(
    X: npt.NDArray[Any],
    signs: Double,
    weights: Double,
    groups: npt.NDArray[np.int64],
    penalties: Sequence[float],
) -> list[Double]:
    """Return what ridge without a row's group says of the row, (n, k), for each penalty, from one decomposition.

    With e the residuals of the fit on all rows and H its hat matrix, those of the rows B of a group without the group
    are (I - H_BB)^-1 e_B (Cook and Weisberg 1982, section 2.2): exact for a fixed standardisation.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Standardised rows.
    signs : ndarray of shape (n, k)
        Targets of -1 and 1.
    weights : ndarray of shape (n,)
        Of the rows.
    groups : ndarray of shape (n,)
        Rows of one group, such as copies of a picture or its views, are left out together.
    penalties : sequence of float
        On the squared coefficients.
    """
    root = np.sqrt(weights)[:, None]
    mean = np.average(X, axis=0, weights=weights)
    target_mean = np.average(signs, axis=0, weights=weights)
    Xc, Y = (X - mean) * root, (signs - target_mean) * root
    n, d = Xc.shape
    if n <= d:
        values, U = eigh(Xc @ Xc.T, driver="evd", overwrite_a=True, check_finite=False)
        values = np.maximum(values, 0)
    else:
        squares, V = eigh(Xc.T @ Xc, driver="evd", overwrite_a=True, check_finite=False)
        kept = squares > 1e-12 * squares[-1]
        values, U = squares[kept], Xc @ (V[:, kept] / np.sqrt(squares[kept]))
    turned = U.T @ Y
    constant = root / np.sqrt(weights.sum())  # the column of the intercept, (n, 1)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    several = [rows for rows in members if len(rows) > 1]
    answers = []
    for penalty in penalties:
        shrunk = values / (values + penalty)
        residual = Y - U @ (shrunk[:, None] * turned)
        leverage = np.einsum("nr,r,nr->n", U, shrunk, U) + constant[:, 0] ** 2
        left_out = residual / np.maximum(1 - leverage, 1e-12)[:, None]
        for rows in several:
            hat = (U[rows] * shrunk) @ U[rows].T + constant[rows] @ constant[rows].T
            left_out[rows] = np.linalg.lstsq(np.eye(len(rows)) - hat, residual[rows], rcond=None)[0]
        answers.append(np.asarray(signs - left_out / np.maximum(root, 1e-150)))
    return answers


def lda_path(task: Task, values: Sequence[float | str]) -> Iterator[Fit]:
    """Yield linear discriminant analysis for each shrinkage of the pooled covariance towards its mean variance.

    Parameters
    ----------
    task : Task
        What is to be learnt; priors are the classes' weights.
    values : sequence of float or "auto"
        0 keeps the covariance, 1 leaves the mean variance alone; ``auto`` is the intensity of Ledoit and Wolf (2004,
        A well-conditioned estimator for large-dimensional covariance matrices), on all rows about their class means.
    """
    fourth = _fourth_powers(task) if "auto" in values else np.zeros(task.folds)
    models = [_discriminants(scatter, values, fourth[i]) for i, scatter in enumerate(Scatter.of(task))]
    for i, value in enumerate(values):
        coef, intercept = (np.stack([of_fold[i][part] for of_fold in models]) for part in (0, 1))
        yield Fit(value, coef.astype(np.float32), intercept, 0.0, 0)


def _discriminants(scatter: Scatter, values: Sequence[float | str], fourth: float) -> list[tuple[Double, Double]]:
    """Return coefficients and intercepts for each shrinkage; the scatter's Gram matrix is used up."""
    total, d = scatter.weight.sum(), scatter.sums.shape[1]
    means = _class_means(scatter.weight, scatter.sums)
    spread = max(scatter.gram.max(initial=0.0), -scatter.gram.min(initial=0.0)) / total
    within = scatter.gram
    _less_products(within, means * scatter.weight[:, None], means)
    within /= total
    mean_variance = np.trace(within) / d
    alike = mean_variance <= 1e-10 * spread  # nothing varies within a class: every direction counts the same
    if alike:
        within[:], mean_variance = 0.0, 1.0
    models: list[tuple[Double, Double]] = []
    for value in values:
        shrinkage = 1.0 if alike else value
        if shrinkage == "auto":
            squared = np.vdot(within, within)
            distance = squared - d * mean_variance**2
            shrinkage = min(max((fourth / total - squared) / total, 0.0), distance) / distance if distance > 0 else 1.0
        kept, ridge = 1 - float(shrinkage), float(shrinkage) * mean_variance
        if shrinkage == 0:
            coef = np.asarray(np.linalg.lstsq(within, means.T, rcond=None)[0].T, dtype=np.float64)
        else:
            # (kept * within + ridge * I)^-1 is (within + ridge / kept * I)^-1 / kept
            coef = np.asarray(means / ridge if kept == 0 else _solved(within, ridge / kept, means) / kept)
        offset: Double = np.log(np.maximum(scatter.weight / total, 1e-300)) - np.einsum("kd,kd->k", coef, means) / 2
        if len(coef) == 2:
            coef, offset = coef[1:] - coef[:1], offset[1:] - offset[:1]
        models.append((coef, offset))
    return models


def _class_means(weight: Double, sums: Double) -> Double:
    # a class without rows, as where a fold holds all of it out, is never the answer: its prior is as good as zero
    return np.asarray(sums / np.maximum(weight, 1e-300)[:, None])


def _solved(gram: Double, ridge: float, right: Double) -> Double:
    """Return the solutions x, (k, d), of (gram + ridge I) x = right, with one matrix more in memory."""
    system = gram.copy()
    system[np.diag_indices(len(system))] += ridge
    # LAPACK works on columns: the transpose of a symmetric matrix is it, and is not copied
    factor = cho_factor(system.T, overwrite_a=True, check_finite=False)
    return np.asarray(cho_solve(factor, right.T, check_finite=False).T)


def _fourth_powers(task: Task) -> Double:
    """Return the weighted sum of |x - its class's mean|^4 for each fold."""
    n, d = task.rows.shape
    weights = np.ones((n, 1), dtype=np.float32) if task.weights is None else task.weights
    mass = np.zeros((task.folds, task.n_classes))
    sums = np.zeros((task.folds, task.n_classes, d))
    for start, block in task.rows.blocks(d):
        y, w = task.y[start : start + len(block)], weights[start : start + len(block)].astype(np.float64)
        X = block - task.moments.mean.mean(axis=0)
        for label in np.unique(y):
            mine = np.flatnonzero(y == label)
            mass[:, label] += w[mine].sum(axis=0)
            sums[:, label] += w[mine].T @ X[mine]
    totals = np.zeros(task.folds)
    means = [_class_means(mass[i], sums[i]) + task.moments.mean.mean(axis=0) for i in range(task.folds)]
    for start, block in task.rows.blocks(4 * d):
        at = slice(start, start + len(block))
        for i in range(task.folds):
            X = (block - means[i][task.y[at]]) / task.moments.scale[i]
            squares = np.einsum("nd,nd->n", X, X) ** 2
            totals[i] += squares @ weights[at, i]
    return totals
