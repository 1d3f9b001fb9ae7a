"""The head that is several: one for each feature, averaged or stacked."""

import itertools
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from classify.blocks import check_widths, decisions, inner_folds
from classify.calibration import fit_scale, log_loss
from classify.head import Array, ClassWeight, Floats, Head, LinearHead, Vectors, softmax, two_sided
from classify.linear import LDAHead, LogisticHead, RidgeHead, SVMHead
from data.errors import HeadError

BASES: dict[str, type[LinearHead]] = {"lr": LogisticHead, "svm": SVMHead, "ridge": RidgeHead, "lda": LDAHead}
HOW = ("average", "stacking")
# Values of C tried for the regression on the base heads.
_MIXTURES = (1e-3, 1e-2, 1e-1, 1.0)
# From strong to weak regularisation the loss falls and then rises: once so far above the best, it is not tried on.
_HOPELESS = 1.05


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
    thread_safe: ClassVar[bool] = False  # as its base may be

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
        with threadpool_limits(1, user_api="blas"):  # many small fits: threads would wait for each other
            self._fit_all(X, y, weights)

    def _fit_all(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        if self.base not in BASES:
            raise HeadError(f"stack has no base {self.base!r}: choose one of {', '.join(BASES)}")
        if self.how not in HOW:
            raise HeadError(f"stack knows no way {self.how!r}: choose one of {', '.join(HOW)}")
        fold = inner_folds(X, y, self.folds, self.views, self.random_state)
        widths = check_widths(self.widths, X.shape[1], "stack")
        held = np.flatnonzero(fold >= 0)
        held_weights = None if weights is None else weights[held]
        heads, outputs = [], []
        for start, end in itertools.pairwise(np.cumsum((0, *widths)).tolist()):
            block = np.ascontiguousarray(X[:, start:end])
            head, scores = self._choose(BASES[self.base], BASES[self.base].grid, block, y, weights, fold)
            heads.append(head)
            outputs.append(scores)
        self.scales_ = np.array([_scale(s[held], y[held], held_weights) for s in outputs])
        self.coef_ = np.concatenate([head.coef_ for head in heads], axis=1)
        self.intercepts_ = np.stack([head.intercept_ for head in heads])
        self.converged_ = all(head.converged_ for head in heads)
        k, b = len(self.classes_), len(widths)
        if self.how == "stacking" and len(np.unique(y[held])) == k:
            logs = np.concatenate([_log_softmax(f * s) for f, s in zip(self.scales_, outputs, strict=True)], axis=1)
            values = _MIXTURES if self.C is None else (self.C,)
            inputs = logs[held].astype(np.float32), y[held], held_weights
            mixture, _ = self._choose(LogisticHead, {"C": values}, *inputs, fold[held])
            self.mixture_, self.mixture_intercept_ = mixture.coef_, mixture.intercept_
            self.converged_ &= mixture.converged_
        else:
            mean = np.tile(np.eye(k, dtype=np.float32), b) / np.float32(b)  # (k, b * k)
            self.mixture_ = mean if k > 2 else mean[1:] - mean[:1]
            self.mixture_intercept_ = np.zeros(len(self.mixture_))

    def _choose(
        self,
        kind: type[LinearHead],
        grid: dict[str, tuple[Any, ...]],
        X: Vectors,
        y: npt.NDArray[np.intp],
        weights: Floats | None,
        fold: npt.NDArray[np.int64],
    ) -> tuple[LinearHead, Floats]:
        """Return a head fitted on all rows with the setting of the least held-out loss, and its held-out scores."""
        ((name, values),) = grid.items()
        held = np.flatnonzero(fold >= 0)
        if not len(held):  # one content of each class: nothing can be held out
            return kind(random_state=self.random_state).fit(X, y, sample_weight=weights), np.zeros((len(y), 1))
        some = None if weights is None else weights[held]
        best: tuple[float, LinearHead, Floats] | None = None
        for value in values:
            made = kind(**{name: value}, random_state=self.random_state)
            scores = _held_out(made, X, y, weights, fold, len(self.classes_))
            factor = _scale(scores[held], y[held], some)
            loss = log_loss(softmax(factor * scores[held]), y[held], some)
            if best is None or loss < best[0]:
                best = loss, made, scores
            elif loss > _HOPELESS * best[0]:
                break
        assert best is not None
        return best[1].fit(X, y, sample_weight=weights), best[2]

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


def _held_out(
    made: LinearHead, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None, fold: Array, k: int
) -> Floats:
    """Return the scores of each row, (n, k), by a head like `made` that was fitted without its fold."""
    scores = np.zeros((len(y), k))
    for f in np.unique(fold[fold >= 0]):
        inside, out = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        if len(np.unique(y[inside])) < 2:
            continue
        head = made.fit(X[inside], y[inside], sample_weight=None if weights is None else weights[inside])
        answers = head.scores(X[out])
        # a class that is in this fold alone is last
        scores[out] = np.repeat(answers.min(axis=1, keepdims=True) - 1, k, axis=1)
        scores[np.ix_(out, head.classes_)] = answers
    return scores


def _scale(scores: Floats, y: Array, weights: Floats | None) -> float:
    """Return the factor of `fit_scale`; 1 where nothing was held out, or the scores say nothing."""
    return fit_scale(scores, y, weights) if len(y) and np.ptp(scores, axis=1).max() > 1e-12 else 1.0


def _log_softmax(scores: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(softmax(scores), 1e-12)))
