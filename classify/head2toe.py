"""The head that selects columns over all features, early layers included, by group lasso."""

import collections
import hashlib
import threading
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from classify.blocks import check_widths, decisions
from classify.head import Array, ClassWeight, Floats, Head, Vectors, two_sided
from classify.lasso import group_lasso_path
from classify.linear import LogisticHead
from data.errors import HeadError

Ranking = tuple[npt.NDArray[np.int32], bool]  # columns, best first; whether the lasso converged


class Head2ToeHead(Head):
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
        if not 0 < self.fraction <= 1:
            raise HeadError(f"head2toe keeps a fraction above 0 and up to 1 of the columns, got {self.fraction}")
        factors = self._factors(X.shape[1])
        X = X * factors
        with threadpool_limits(1, user_api="blas"):  # products with few columns: threads would wait for each other
            ranking, converged = _ranking(X, y, weights)
        kept = np.sort(ranking[: max(len(self.classes_), round(self.fraction * len(ranking)))])
        linear = LogisticHead(C=self.C, random_state=self.random_state)
        linear.fit(np.ascontiguousarray(X[:, kept]), y, sample_weight=weights)
        self.converged_ = converged and linear.converged_
        self.kept_ = kept
        self.coef_ = np.ascontiguousarray(linear.coef_ * factors[kept], dtype=np.float32)
        self.intercept_ = np.asarray(linear.intercept_, dtype=np.float64)
        self.columns_ = np.array([X.shape[1]], dtype=np.int32)

    def _factors(self, d: int) -> Vectors:
        """Return what each column is multiplied by, (d,), with squares that sum to d."""
        widths = np.array(check_widths(self.widths, d, "head2toe"))
        shares = np.repeat((d / len(widths) / widths) ** self.balance, widths)
        return np.asarray(np.sqrt(shares * d / shares.sum()), dtype=np.float32)

    def _scores(self, X: Vectors) -> Floats:
        return two_sided(decisions(X, self.kept_, self.coef_, self.intercept_))

    def _width(self) -> int:
        return int(self.columns_[0])


# Candidates of one fold differ in what they keep, not in the ranking: the last ones are remembered by content.
_REMEMBERED = 4
_rankings: collections.OrderedDict[bytes, Ranking] = collections.OrderedDict()
_lock = threading.Lock()


def _ranking(X: Vectors, y: Array, weights: Floats | None) -> Ranking:
    """Return the columns of X, best first, and whether the lasso converged."""
    digest = hashlib.blake2b(repr(X.shape).encode())
    for array in (X, y) if weights is None else (X, y, weights):
        digest.update(array.tobytes())
    key = digest.digest()
    with _lock:  # whoever comes second waits for the first one's
        if key not in _rankings:
            path = group_lasso_path(X, y, weights)
            order = np.lexsort((-path.slopes, -path.norms.sum(axis=0)))
            _rankings[key] = order.astype(np.int32), path.converged
            while len(_rankings) > _REMEMBERED:
                _rankings.popitem(last=False)
        return _rankings[key]
