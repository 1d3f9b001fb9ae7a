"""The linear heads: logistic regression, linear SVM, ridge, discriminant analysis and class means."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from classify.closed_form import lda_path, ridge_path
from classify.head import Array, ClassWeight, Floats, Head, LinearHead, Vectors, check_number
from classify.paths import Fit, Task, logistic_path, svm_path
from classify.rows import Moments, Rows
from classify.solver import OnStep, Stopping
from data.errors import HeadError

SOLVERS = ("penult", "sklearn")

# Rows x columns x classes up to which float64 and a few steps more cost nothing one would notice: the solution then
# has all digits of float32, and a weight of two is the same as two copies.
_SMALL = 1 << 17
_EXACT = 1e-21  # of the penalty: the squared relative error of the coefficients, halved
_MAX_ITER = 1000


class PathHead(LinearHead):
    """A linear head that is fitted for a whole path of its parameter, and in every fold, at once.

    Attributes
    ----------
    gap_ : float
        How far the objective may be above its optimum, relatively: a duality gap, zero for closed forms.
    n_iter_ : int
        Steps of the solver, at most over the classes.
    multilabel_ : bool
        Whether a row may bear several labels.
    """

    # Name of the parameter that the path runs along.
    along: ClassVar[str]
    # Whether the optimum is found step by step.
    stepwise: ClassVar[bool] = False
    # Whether the intercept is free, so that rows may be centred without changing the problem.
    centred: ClassVar[bool] = True
    # Whether a row may bear several labels.
    several: ClassVar[bool] = True

    multilabel_: bool = False

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> Self:
        """Learn from vectors and labels, one a row or, as an indicator matrix, several.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Vectors; converted to float32.
        y : ndarray of shape (n,) or (n, k)
            Labels of at least two classes; or 0 and 1 for each of k labels that a row may bear beside others
            (`ridge`, `lr` and `svm`).
        sample_weight : ndarray of shape (n,), optional
            How much each row counts; multiplied by the class weights, where labels are one a row.

        Raises
        ------
        HeadError
            If there is one class only.
        ValueError
            If X or y is no valid input by scikit-learn's rules.
        """
        self.multilabel_ = _bear_several(y)
        if not self.multilabel_:
            return super().fit(X, y, sample_weight)
        from sklearn.utils.validation import _check_sample_weight, validate_data

        X, y = validate_data(self, X, y, dtype=np.float32, multi_output=True)
        if not self.several:
            raise HeadError(f"{type(self).__name__} takes one label a row, got {y.shape[1]}: use lr, svm or ridge")
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        self.classes_ = np.arange(y.shape[1])
        self.scale_, self.bias_, self.converged_ = 1.0, 0.0, True
        self._fit(X, np.asarray(y), weights)
        return self

    def decision_function(self, X: Array) -> Floats:
        """Return the scores as scikit-learn does: (n, k), or (n,) of the second class where there are two."""
        return self.scores(X) if self.multilabel_ else super().decision_function(X)

    def predict_proba(self, X: Array) -> Floats:
        """Return probabilities, (n, k) float64: rows sum to one, but not where a row may bear several labels."""
        return expit(self.scale_ * self.scores(X)) if self.multilabel_ else super().predict_proba(X)

    def predict(self, X: Array) -> Array:
        """Return the most likely label of each row, (n,); or 0 and 1 for each of several labels, (n, k)."""
        return (self.scores(X) > 0).astype(np.int64) if self.multilabel_ else super().predict(X)

    def restore(
        self, arrays: dict[str, Array], n_classes: int, scale: float | Floats, bias: float | Floats = 0.0
    ) -> None:
        """Take back what `state` gave; labels become 0 .. n_classes - 1, one a row."""
        super().restore(arrays, n_classes, scale, bias)
        self.multilabel_ = False

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn whether a row may bear several labels."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = self.several
        return tags

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        rows = Rows([X])
        w = None if weights is None else weights[:, None].astype(np.float32)
        mean = near = np.zeros((1, X.shape[1]))
        if self.centred:
            moments = Moments.of(rows, w)
            rows, about = rows.about(moments)
            mean, near = moments.mean, about.mean
        self._solve(Task(rows, y, len(self.classes_), w, Moments(near, np.ones_like(near))))
        self.intercept_ = self.intercept_ - self.coef_.astype(np.float64) @ mean[0]

    def fit_task(self, task: Task, start: Vectors | None = None, on_step: OnStep | None = None) -> None:
        """Learn from a task with one fold: the head is for rows standardised by its moments, of classes 0 .. k - 1.

        Parameters
        ----------
        task : Task
            What is to be learnt.
        start : ndarray of shape (k, d + 1), optional
            Where to start.
        on_step : callable, optional
            Told of each step of the solver.
        """
        self.classes_ = np.arange(task.n_classes)
        self.n_features_in_ = task.rows.shape[1]
        self.scale_, self.bias_, self.converged_, self.multilabel_ = 1.0, 0.0, True, False
        self._solve(task, start, on_step)

    def check(self) -> None:
        """Raise if the parameter that the path runs along makes no sense.

        Raises
        ------
        HeadError
            With what it may be.
        """
        value = getattr(self, self.along)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < np.inf:
            raise HeadError(f"{self.along} must be a number above 0, got {value!r}")

    def _solve(self, task: Task, start: Vectors | None = None, on_step: OnStep | None = None) -> None:
        self.check()
        task, stopping = self.precisely(task, dataclasses.replace(self.stopping(), on_step=on_step))
        (fit,) = self.path(task, [getattr(self, self.along)], stopping, start)
        self._keep(fit.coef[0], fit.intercept[0])
        self.gap_, self.n_iter_ = fit.gap, max(fit.steps, 1)
        self.converged_ = fit.gap <= getattr(self, "tol", 0.0)

    def precisely(self, task: Task, stopping: Stopping) -> tuple[Task, Stopping]:
        """Return a task and when to stop: in float64 and to all digits where that costs nothing one would notice."""
        if not self.stepwise or len(task.rows) * task.rows.shape[1] * task.n_classes > _SMALL:
            return task, stopping
        exact = dataclasses.replace(task, rows=dataclasses.replace(task.rows, dtype=np.float64))
        return exact, dataclasses.replace(stopping, tolerance=min(stopping.tolerance, _EXACT), stall=0.0)

    def path(
        self, task: Task, values: Sequence[Any], stopping: Stopping, start: Vectors | None = None
    ) -> Iterator[Fit]:
        """Yield a fit for each value of the parameter that the path runs along."""
        raise NotImplementedError

    def stopping(self) -> Stopping:
        """Return when the solver stops, for heads that have one."""
        return Stopping()


class SolverHead(PathHead):
    """A head whose objective is minimised step by step, by our solver or by scikit-learn's.

    Parameters
    ----------
    C : float
        Factor on the sum of losses: one divided by the weight of the penalty.
    solver : str
        ``penult``: `classify.solver`; ``sklearn``: LogisticRegression or LinearSVC in float64, without a path.
    tol : float
        Largest relative duality gap at which the solver stops, small problems apart, which are solved to all digits;
        for scikit-learn's solvers the tolerance that they know.
    max_iter : int, optional
        Most steps; by default 1,000, of scikit-learn's solvers 2,000 (`lr`) and 20,000 (`svm`).
    class_weight, random_state
        As everywhere; the result does not depend on the seed, but for scikit-learn's LinearSVC.
    """

    along = "C"
    stepwise = True

    def __init__(
        self,
        C: float = 1e-2,
        solver: str = "penult",
        tol: float = 1e-4,
        max_iter: int | None = None,
        class_weight: ClassWeight = None,
        random_state: int = 0,
    ) -> None:
        self.C = C
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.random_state = random_state

    def check(self) -> None:
        """Raise if C, the tolerance or the number of steps makes no sense."""
        super().check()
        check_number("tol", self.tol, "a number of 0 or more", low=0.0)
        if self.max_iter is not None:
            check_number("max_iter", self.max_iter, "a whole number above 0", low=1)

    def stopping(self) -> Stopping:
        """Return when the solver stops."""
        return Stopping(self.tol, _MAX_ITER if self.max_iter is None else self.max_iter, self.tol / 10)

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        if self.solver not in SOLVERS:
            raise HeadError(f"no solver {self.solver!r}: choose one of {', '.join(SOLVERS)}")
        if self.solver == "penult":
            super()._fit(X, y, weights)
            return
        self.check()
        if self.multilabel_:
            raise HeadError("solver 'sklearn' takes one label a row: use solver 'penult'")
        model = self._peer().fit(X.astype(np.float64), y, sample_weight=weights)
        self.gap_, self.n_iter_ = np.nan, int(np.max(model.n_iter_))
        self.converged_ = bool(np.max(model.n_iter_) < model.max_iter)
        self._keep(model.coef_, model.intercept_)

    def _peer(self) -> Any:
        """Return scikit-learn's estimator of the same objective."""
        raise NotImplementedError


class LogisticHead(SolverHead):
    """Multinomial logistic regression with an L2 penalty and a free intercept; binary where there are two classes."""

    grid: ClassVar = {"C": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)}

    def path(
        self, task: Task, values: Sequence[Any], stopping: Stopping, start: Vectors | None = None
    ) -> Iterator[Fit]:
        """Yield logistic regression for each C, smallest first."""
        return logistic_path(task, values, stopping, start)

    def _peer(self) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=self.C, tol=self.tol, max_iter=self.max_iter or 2000)


class SVMHead(SolverHead):
    """Linear support vector machine, one class against the rest, with LinearSVC's squared hinge and L2 penalty."""

    grid: ClassVar = {"C": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)}
    centred = False  # the intercept is penalised, as LinearSVC has it

    def __init__(
        self,
        C: float = 1e-4,
        solver: str = "penult",
        tol: float = 1e-4,
        max_iter: int | None = None,
        class_weight: ClassWeight = None,
        random_state: int = 0,
    ) -> None:
        super().__init__(C, solver, tol, max_iter, class_weight, random_state)

    # liblinear has one random number generator for the whole process
    @property
    def thread_safe(self) -> bool:  # type: ignore[override]
        """Whether several may be fitted at once in threads and still give the same result each time."""
        return self.solver == "penult"

    def path(
        self, task: Task, values: Sequence[Any], stopping: Stopping, start: Vectors | None = None
    ) -> Iterator[Fit]:
        """Yield the machine for each C, smallest first."""
        return svm_path(task, values, stopping, start)

    def _peer(self) -> Any:
        from sklearn.svm import LinearSVC

        # dual: the primal method takes minutes on features
        return LinearSVC(
            C=self.C, tol=self.tol, dual=True, random_state=self.random_state, max_iter=self.max_iter or 20_000
        )


class RidgeHead(PathHead):
    """Least squares on targets of -1 and 1 with an L2 penalty alpha and a free intercept."""

    grid: ClassVar = {"alpha": (1e6, 1e5, 1e4, 1e3, 1e2, 1e1)}
    along = "alpha"

    def __init__(self, alpha: float = 1e3, class_weight: ClassWeight = None, random_state: int = 0) -> None:
        self.alpha = alpha
        self.class_weight = class_weight
        self.random_state = random_state

    def path(
        self, task: Task, values: Sequence[Any], stopping: Stopping, start: Vectors | None = None
    ) -> Iterator[Fit]:
        """Yield ridge for each penalty, strongest first."""
        return ridge_path(task, values)


class LDAHead(PathHead):
    """Linear discriminant analysis with shrinkage of the pooled covariance; ``auto`` is Ledoit and Wolf's (2004)."""

    grid: ClassVar = {"shrinkage": ("auto",)}
    along = "shrinkage"
    several = False

    def __init__(
        self, shrinkage: str | float = "auto", class_weight: ClassWeight = None, random_state: int = 0
    ) -> None:
        self.shrinkage = shrinkage
        self.class_weight = class_weight
        self.random_state = random_state

    def check(self) -> None:
        """Raise if the shrinkage is neither ``auto`` nor between 0 and 1."""
        number = isinstance(self.shrinkage, (int, float)) and 0 <= self.shrinkage <= 1
        if self.shrinkage != "auto" and not number:
            raise HeadError(f"shrinkage must be auto or a number from 0 to 1, got {self.shrinkage!r}")

    def path(
        self, task: Task, values: Sequence[Any], stopping: Stopping, start: Vectors | None = None
    ) -> Iterator[Fit]:
        """Yield the analysis for each shrinkage."""
        return lda_path(task, values)


class CentroidHead(LinearHead):
    """Nearest class mean in Euclidean distance, which is linear in X; every class weighs the same.

    Class weights that are given one by one count as prior odds, as in discriminant analysis with one variance for
    all features.
    """

    def __init__(self, class_weight: ClassWeight = None, random_state: int = 0) -> None:
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        rows = [y == i for i in range(len(self.classes_))]
        # relative to the class's largest weight, so that equal weights are exactly 1
        shares = [None if weights is None else weights[mine] / max(weights[mine].max(), 1e-300) for mine in rows]
        means = np.stack(
            [np.average(X[mine].astype(np.float64), axis=0, weights=w) for mine, w in zip(rows, shares, strict=True)]
        )
        # |x - m|^2 / -2 = x.m - |m|^2 / 2 - |x|^2 / 2, whose last term is the same for every class
        self.coef_ = means.astype(np.float32)
        self.intercept_ = -(means**2).sum(axis=1) / 2
        if isinstance(self.class_weight, dict):
            odds = [self.class_weight.get(label, 1.0) for label in self.classes_.tolist()]
            variance = np.average(((X - means[y]) ** 2).mean(axis=1), weights=weights)
            self.intercept_ += variance * np.log(odds)


@contextlib.contextmanager
def unwarned(head: Head) -> Iterator[None]:
    """Silence the warning of scikit-learn's solvers that they have not converged, where a head may use them."""
    with warnings.catch_warnings():
        if getattr(head, "solver", "penult") == "sklearn":
            from sklearn.exceptions import ConvergenceWarning

            warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _bear_several(y: Array) -> bool:
    """Whether labels are an indicator matrix: several for each row."""
    if isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype.kind in "iu":
        return False
    from sklearn.utils.multiclass import type_of_target

    return bool(type_of_target(y) == "multilabel-indicator")
