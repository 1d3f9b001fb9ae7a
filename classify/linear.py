"""The linear heads: logistic regression, linear SVM, ridge, discriminant analysis and class means."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from classify.head import ClassWeight, Floats, LinearHead, Vectors


class LogisticHead(LinearHead):
    """Multinomial logistic regression with an L2 penalty; C is the inverse of its weight, per sum of losses."""

    grid: ClassVar = {"C": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)}

    def __init__(self, C: float = 1e-2, class_weight: ClassWeight = None, random_state: int = 0) -> None:
        self.C = C
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=self.C, max_iter=2000).fit(X, y, sample_weight=weights)
        self.converged_ = bool((model.n_iter_ < 2000).all())
        self._keep(model.coef_, model.intercept_)


class SVMHead(LinearHead):
    """Linear support vector machine, one class against the rest, squared hinge loss and L2 penalty (liblinear)."""

    grid: ClassVar = {"C": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)}
    thread_safe = False  # liblinear has one random number generator for the whole process

    def __init__(self, C: float = 1e-4, class_weight: ClassWeight = None, random_state: int = 0) -> None:
        self.C = C
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        from sklearn.svm import LinearSVC

        model = LinearSVC(C=self.C, dual=True, random_state=self.random_state, max_iter=20_000)
        model.fit(X, y, sample_weight=weights)
        self.converged_ = bool(np.max(model.n_iter_) < 20_000)
        self._keep(model.coef_, model.intercept_)


class RidgeHead(LinearHead):
    """Least squares on targets of -1 and 1 with an L2 penalty alpha."""

    grid: ClassVar = {"alpha": (1e6, 1e5, 1e4, 1e3, 1e2, 1e1)}

    def __init__(self, alpha: float = 1e3, class_weight: ClassWeight = None, random_state: int = 0) -> None:
        self.alpha = alpha
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        from sklearn.linear_model import RidgeClassifier

        # in float64: with few pictures and a small alpha the normal equations are near singular
        model = RidgeClassifier(alpha=self.alpha).fit(X.astype(np.float64), y, sample_weight=weights)
        self._keep(model.coef_, model.intercept_)


class LDAHead(LinearHead):
    """Linear discriminant analysis with shrinkage; ``auto`` is Ledoit and Wolf's (2004)."""

    grid: ClassVar = {"shrinkage": ("auto",)}

    def __init__(
        self, shrinkage: str | float = "auto", class_weight: ClassWeight = None, random_state: int = 0
    ) -> None:
        self.shrinkage = shrinkage
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        k = len(self.classes_)
        if len(X) <= k:  # one picture of each class: nothing varies within one, so every direction counts the same
            nearest = CentroidHead().fit(X, y)
            self.coef_, self.intercept_ = nearest.coef_, nearest.intercept_
            return
        shares = None if weights is None else np.bincount(y, weights)
        priors = None if shares is None else shares / shares.sum()
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=self.shrinkage, priors=priors).fit(X, y)
        self._keep(model.coef_, model.intercept_)


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
