"""The head that selects columns over all features, early layers included, by group lasso."""

import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from classify.blocks import check_widths, decisions
from classify.chosen import centred_task
from classify.head import Array, ClassWeight, Floats, SharingHead, Vectors, check_number, two_sided
from classify.lasso import group_lasso_path
from classify.linear import LogisticHead
from classify.paths import Fit, Task
from classify.trials import for_ranking

Columns = npt.NDArray[np.int32]


class Head2ToeHead(SharingHead):
    """Logistic regression on the columns that a group lasso ranks highest, after Head2Toe.

    Evci et al. 2022 (arXiv:2201.03529): a linear layer is learnt on the outputs of all layers with a penalty on the
    norm of each column's coefficients; the columns with the largest norms are kept, and a linear layer is learnt on
    them anew. Here the norms are summed over a path of penalties, and columns that never enter follow in the order of
    how steep the loss still is in them.

    Parameters
    ----------
    fraction : float
        Share of the columns that is kept; at least as many are as there are classes.
    C : float
        Of the logistic regression on them.
    balance : float
        1: every feature has the same variance in all, however many columns it has, so that narrow early layers count
        as much as wide late ones; 0: every column has the same variance; between them in proportion of the logarithm.
    widths : tuple of int, optional
        Columns of each feature; without them there is one.
    class_weight, random_state
        As for every head.

    Attributes
    ----------
    kept_ : ndarray of shape (m,), int32
        The columns that are kept, ascending.
    coef_, intercept_ : ndarray of shape (k, m) and (k,), or (1, m) and (1,) where there are two classes
        The linear model on them.
    """

    grid: ClassVar = {
        "fraction": (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0),
        "balance": (0.0, 1.0),
        "C": (1e-2, 1e-1, 1.0),
    }
    arrays = ("kept_", "coef_", "intercept_", "columns_")

    def __init__(
        self,
        fraction: float = 0.4,
        C: float = 1e-1,
        balance: float = 1.0,
        widths: tuple[int, ...] | None = None,
        class_weight: ClassWeight = None,
        random_state: int = 0,
    ) -> None:
        self.fraction = fraction
        self.C = C
        self.balance = balance
        self.widths = widths
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        self._check()
        factors = self._factors(X.shape[1])
        X = X * factors
        ranking, converged = _ranking(X, y, weights)
        kept = self._kept(ranking, len(self.classes_))
        head = LogisticHead(C=self.C)
        task, stopping = head.precisely(_task(head, X, kept, y, weights), head.stopping())
        # along a path from strong penalties the last value takes a fraction of the steps that it does from zero
        start = None
        for fit in head.path(task, [C for C in self.grid["C"] if C < self.C], for_ranking(head.stopping())):
            start = fit.start
        (fit,) = head.path(task, [self.C], stopping, start)
        self._keep(kept, fit, task, factors, converged and fit.gap <= head.tol)

    def shared(self, d: int) -> bytes:
        """Return what two settings must have in common, on vectors of length d, to be fitted together."""
        return self._factors(d).tobytes()

    @staticmethod
    def fit_together(heads: "Sequence[Head2ToeHead]", X: Array, y: Array) -> "Iterator[Head2ToeHead]":
        """Fit heads that share, as precisely as ranking them needs, and yield each in turn.

        The columns are ranked once, and each fraction of them has one path over the values of C.
        """
        for head in heads:
            head._check()
            given = head._begin(X, y)
        X, y, weights = given
        factors = heads[0]._factors(X.shape[1])
        X = X * factors
        ranking, converged = _ranking(X, y, weights)
        linear = LogisticHead()
        for _, some in itertools.groupby(heads, key=lambda head: head.fraction):
            alike = list(some)
            kept = alike[0]._kept(ranking, len(alike[0].classes_))
            task = _task(linear, X, kept, y, weights)
            values = sorted({head.C for head in alike})
            fits = {fit.value: fit for fit in linear.path(task, values, for_ranking(linear.stopping()))}
            for head in alike:
                fit = fits[head.C]
                head._keep(kept, fit, task, factors, converged and fit.gap <= linear.tol)
                yield head

    def _check(self) -> None:
        check_number("fraction", self.fraction, "a number above 0 and up to 1", low=1e-300, high=1)
        check_number("balance", self.balance, "a number from 0 to 1", low=0.0, high=1)
        LogisticHead(C=self.C).check()

    def _kept(self, ranking: Columns, n_classes: int) -> Columns:
        return np.sort(ranking[: max(n_classes, round(self.fraction * len(ranking)))])

    def _keep(self, kept: Columns, fit: Fit, task: Task, factors: Vectors, converged: bool) -> None:
        coef, intercept = fit.on_rows(task.moments)
        self.converged_ = converged
        self.kept_ = kept
        self.coef_ = np.ascontiguousarray(coef[0] * factors[kept], dtype=np.float32)
        self.intercept_ = intercept[0]
        self.columns_ = np.array([len(factors)], dtype=np.int32)

    def _factors(self, d: int) -> Vectors:
        """Return what each column is multiplied by, (d,), with squares that sum to d."""
        widths = np.array(check_widths(self.widths, d, "head2toe"))
        shares = np.repeat((d / len(widths) / widths) ** self.balance, widths)
        return np.asarray(np.sqrt(shares * d / shares.sum()), dtype=np.float32)

    def _scores(self, X: Vectors) -> Floats:
        return two_sided(decisions(X, self.kept_, self.coef_, self.intercept_))

    def _width(self) -> int:
        return int(self.columns_[0])


def _ranking(X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> tuple[Columns, bool]:
    """Return the columns of X, best first, and whether the lasso converged."""
    with threadpool_limits(1, user_api="blas"):  # products with few columns: threads would wait for each other
        path = group_lasso_path(X, y, weights)
    return np.lexsort((-path.slopes, -path.norms.sum(axis=0))).astype(np.int32), path.converged


def _task(head: LogisticHead, X: Vectors, kept: Columns, y: npt.NDArray[np.intp], weights: Floats | None) -> Task:
    of_row = None if weights is None else weights[:, None].astype(np.float32)
    return centred_task(head, np.ascontiguousarray(X[:, kept]), y, int(y.max()) + 1, of_row)
