"""Gaussian naive Bayes."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from classify.head import ClassWeight, Floats, Head, Vectors, check_number
from data.errors import HeadError


class BayesHead(Head):
    """Naive Bayes with a normal distribution for each class and feature, independent of each other.

    The scores are the joint log-likelihoods. Penultimate features are far from independent, so that the same evidence
    counts many times over: the answers bear it (Domingos and Pazzani 1997, Machine Learning 29), the probabilities do
    not, and need the calibration that `classify.selection` fits on held-out pictures.

    Parameters
    ----------
    var_smoothing : float
        Share of the largest variance of any feature that is added to every variance, as in scikit-learn's GaussianNB.
        The more, the nearer to a centroid head with priors.
    priors : sequence of float, optional
        Probability of each class, in the order of the labels; by default its share of the training weights, so that
        ``class_weight="balanced"`` makes them equal.
    class_weight : "balanced", dict or None
        Multiplies the weights of a class's pictures.
    random_state : int
        Not used.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.array([[0.0], [1.0], [4.0], [6.0]]), np.array([0, 0, 1, 1])
    >>> BayesHead(var_smoothing=1e-3).fit(X, y).predict(np.array([[0.4], [5.0]]))
    array([0, 1])
    """

    grid: ClassVar = {"var_smoothing": (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-5, 1e-9)}
    arrays = ("theta_", "var_", "log_prior_")

    def __init__(
        self,
        var_smoothing: float = 1e-1,
        priors: Sequence[float] | None = None,
        class_weight: ClassWeight = None,
        random_state: int = 0,
    ) -> None:
        self.var_smoothing = var_smoothing
        self.priors = priors
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        check_number("var_smoothing", self.var_smoothing, "a number of 0 or more", low=0.0)
        weights = np.ones(len(y)) if weights is None else weights
        k, of_class = len(self.classes_), np.bincount(y, weights)
        shares = csr_array((weights / of_class[y], (y, np.arange(len(y)))), shape=(k, len(y)))
        # two passes, in slices of columns: 64 columns of 100,000 pictures are 51 MB in float64
        self.theta_, self.var_ = np.empty((k, X.shape[1])), np.empty((k, X.shape[1]))
        largest = 0.0
        for start in range(0, X.shape[1], 64):
            part = X[:, start : start + 64].astype(np.float64)
            theta = shares @ part
            self.theta_[:, start : start + 64] = theta
            self.var_[:, start : start + 64] = shares @ (part - theta[y]) ** 2
            mean = np.average(part, axis=0, weights=weights)
            largest = max(largest, float(np.average((part - mean) ** 2, axis=0, weights=weights).max()))
        # a feature that is constant in a class, and no smoothing, would divide by zero
        self.var_ += max(self.var_smoothing * largest, 1e-300 if largest == 0 else 1e-15 * largest)
        self.log_prior_ = np.log(of_class / of_class.sum() if self.priors is None else self._given_priors())

    def _given_priors(self) -> Floats:
        priors = np.asarray(self.priors, dtype=np.float64)
        if priors.shape != (len(self.classes_),) or not (priors > 0).all() or abs(priors.sum() - 1) > 1e-6:
            raise HeadError(
                f"priors must be {len(self.classes_)} numbers above 0, one for each class, that sum to 1, not "
                f"{priors.tolist()}: leave them out to take the classes' shares of the training pictures"
            )
        return priors

    def _scores(self, X: Vectors) -> Floats:
        """Return the joint log-likelihood of each class."""
        # (x - m)^2 / v as three products; about the mean of the classes, or the large terms would cancel
        centre = self.theta_.mean(axis=0)
        theta, precision = self.theta_ - centre, 1 / self.var_
        constant = self.log_prior_ - 0.5 * (np.log(2 * np.pi * self.var_) + theta**2 * precision).sum(axis=1)
        scores = np.empty((len(X), len(self.classes_)))
        for start in range(0, len(X), 1024):
            x = X[start : start + 1024] - centre
            scores[start : start + 1024] = constant + x @ (theta * precision).T - 0.5 * (x**2 @ precision.T)
        return scores

    def _width(self) -> int:
        return int(self.theta_.shape[1])
