"""The head that is several: one for each feature, averaged or stacked."""

import itertools

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from classify.blocks import check_widths, decisions, inner_folds
from classify.chosen import choose
from classify.head import ClassWeight, Floats, Head, Vectors, check_number, softmax, two_sided
from classify.linear import LDAHead, LogisticHead, PathHead, RidgeHead, SVMHead
from data.errors import HeadError

BASES: dict[str, type[PathHead]] = {"lr": LogisticHead, "svm": SVMHead, "ridge": RidgeHead, "lda": LDAHead}
HOW = ("average", "stacking")
# Values of C tried for the regression on the base heads.
_MIXTURES = (1e-3, 1e-2, 1e-1, 1.0)
# Values of X times classes from which products are worth several threads: on hymenoptera, a thousandth of Caltech-101,
# two took 14 s of CPU where one takes 3.
_WIDE = 1 << 27


class StackHead(Head):
    """One linear head for each feature, whose probabilities are averaged, or weighed by a regression on them.

    Each base head's regularisation is chosen by folds within the training rows, and its scores get a factor from what
    was held out, so that they are probabilities. ``average`` is the logarithmic opinion pool, the mean of their
    logarithms (Genest and Zidek 1986); ``stacking`` a logistic regression on the logarithms of what the base heads
    say of rows that they were not trained on (Wolpert 1992; Ting and Witten 1999, arXiv:1105.5466).

    Parameters
    ----------
    base : str
        A key of `BASES`.
    how : str
        ``average`` or ``stacking``.
    C : float, optional
        Of the regression of ``stacking``; without it the same folds choose.
    folds : int
        Within the training rows.
    widths : tuple of int, optional
        Columns of each feature; without them there is one.
    views : int
        X is this many views of the same pictures, one view after the other: folds keep a picture's views together.
    class_weight, random_state
        As for every head; the seed decides the folds.

    Attributes
    ----------
    coef_ : ndarray of shape (k, d), or (1, d) where there are two classes
        Of the base heads, side by side.
    intercepts_ : ndarray of shape (b, k) or (b, 1)
        Of the base heads.
    scales_ : ndarray of shape (b,)
        Factor on each base head's scores.
    mixture_ : ndarray of shape (k, b * k) or (1, b * k)
        Coefficients on the logarithms of the base heads' probabilities.
    mixture_intercept_ : ndarray of shape (k,) or (1,)
        Its intercept.
    """

    arrays = ("coef_", "intercepts_", "scales_", "mixture_", "mixture_intercept_")

    def __init__(
        self,
        base: str = "lr",
        how: str = "stacking",
        C: float | None = None,
        folds: int = 5,
        widths: tuple[int, ...] | None = None,
        views: int = 1,
        class_weight: ClassWeight = None,
        random_state: int = 0,
    ) -> None:
        self.base = base
        self.how = how
        self.C = C
        self.folds = folds
        self.widths = widths
        self.views = views
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        small = X.size * len(self.classes_) < _WIDE
        with threadpool_limits(1 if small else None, user_api="blas"):  # in small products threads wait for each other
            self._fit_all(X, y, weights)

    def _fit_all(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        if self.base not in BASES:
            raise HeadError(f"stack has no base {self.base!r}: choose one of {', '.join(BASES)}")
        if self.how not in HOW:
            raise HeadError(f"stack knows no way {self.how!r}: choose one of {', '.join(HOW)}")
        check_number("folds", self.folds, "a whole number above 1", low=2)
        if self.C is not None:
            LogisticHead(C=self.C).check()
        fold = inner_folds(X, y, self.folds, self.views, self.random_state)
        widths = check_widths(self.widths, X.shape[1], "stack")
        k, b = len(self.classes_), len(widths)
        base = BASES[self.base]()
        heads = [
            choose(base, base.grid[base.along], np.ascontiguousarray(X[:, start:end]), y, k, weights, fold)
            for start, end in itertools.pairwise(np.cumsum((0, *widths)).tolist())
        ]
        self.scales_ = np.array([head.factor for head in heads])
        self.coef_ = np.concatenate([head.coef for head in heads], axis=1)
        self.intercepts_ = np.stack([head.intercept for head in heads])
        self.converged_ = all(head.converged for head in heads)
        held = np.flatnonzero(fold >= 0)
        if self.how == "stacking" and len(np.unique(y[held])) == k:
            logs = np.concatenate([_log_softmax(head.factor * head.held_out[held]) for head in heads], axis=1)
            some = None if weights is None else weights[held]
            values = _MIXTURES if self.C is None else (self.C,)
            mixture = choose(LogisticHead(), values, logs.astype(np.float32), y[held], k, some, fold[held])
            self.mixture_, self.mixture_intercept_ = mixture.coef, mixture.intercept
            self.converged_ &= mixture.converged
        else:
            mean = np.tile(np.eye(k, dtype=np.float32), b) / np.float32(b)  # (k, b * k)
            self.mixture_ = mean if k > 2 else mean[1:] - mean[:1]
            self.mixture_intercept_ = np.zeros(len(self.mixture_))

    def _scores(self, X: Vectors) -> Floats:
        widths = check_widths(self.widths, X.shape[1], "stack")
        edges = np.cumsum((0, *widths))
        logs = []
        for i, (start, end) in enumerate(itertools.pairwise(edges)):
            decision = decisions(X, slice(start, end), self.coef_[:, start:end], self.intercepts_[i])
            logs.append(_log_softmax(self.scales_[i] * two_sided(decision)))
        return two_sided(np.concatenate(logs, axis=1) @ self.mixture_.T.astype(np.float64) + self.mixture_intercept_)

    def _width(self) -> int:
        return int(self.coef_.shape[1])


def _log_softmax(scores: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(softmax(scores), 1e-12)))
