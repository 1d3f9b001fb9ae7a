"""The classifiers, as scikit-learn estimators whose learnt state is a few arrays.

Each head trains through scikit-learn where that has the method, keeps only arrays, and predicts with numpy alone:
that is what lets it be stored without pickle. X is standardised by the caller (`classify.selection`).
"""

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from data.errors import HeadError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


class Head(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Base of all heads: scores for each class, and probabilities from them.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        Labels, sorted.
    scale_ : float
        Factor on the scores before the softmax: one divided by the temperature, which `classify.selection` fits on
        held-out scores.
    converged_ : bool
        Whether the solver met its stopping rule.
    """

    # The values to try, from the strongest regularisation to the weakest: {name of the parameter: values}.
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {}
    arrays: ClassVar[tuple[str, ...]] = ()
    # Whether several may be fitted at once in threads of one process and still give the same result each time.
    thread_safe: ClassVar[bool] = True

    def _begin(self, y: Array) -> npt.NDArray[np.intp]:
        self.classes_, encoded = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise HeadError(f"one class ({self.classes_[0]}) cannot be told from others: give at least two")
        self.scale_ = 1.0
        self.converged_ = True
        return encoded

    def scores(self, X: Array) -> Floats:
        """Return a score for each class, (n, k) float64; binary heads give (-d/2, d/2)."""
        raise NotImplementedError

    def decision_function(self, X: Array) -> Floats:
        """Return the scores as scikit-learn does: (n, k), or (n,) of the second class where there are two."""
        scores = self.scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Array) -> Floats:
        """Return probabilities, (n, k) float64, rows summing to one."""
        return softmax(self.scale_ * self.scores(X))

    def predict(self, X: Array) -> Array:
        """Return the most likely label of each row, (n,)."""
        return np.asarray(self.classes_[np.argmax(self.scores(X), axis=1)])

    def state(self) -> dict[str, Array]:
        """Return the learnt arrays by name."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in self.arrays}

    def restore(self, arrays: dict[str, Array], n_classes: int, scale: float) -> None:
        """Take back what `state` gave; labels become 0 .. n_classes - 1."""
        self.classes_ = np.arange(n_classes)
        self.scale_ = scale
        for name in self.arrays:
            setattr(self, name, arrays[name])


class LinearHead(Head):
    """A head whose scores are ``X @ coef_.T + intercept_``; coef_ (k, d), or (1, d) where there are two classes."""

    arrays = ("coef_", "intercept_")

    def scores(self, X: Array) -> Floats:
        """Return a score for each class, (n, k) float64."""
        decision = (X @ self.coef_.T).astype(np.float64) + self.intercept_
        return np.hstack([-decision / 2, decision / 2]) if decision.shape[1] == 1 else decision

    def _keep(self, estimator: Any) -> None:
        self.coef_ = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float32))
        self.intercept_ = np.asarray(estimator.intercept_, dtype=np.float64).reshape(-1)


class LogisticHead(LinearHead):
    """Multinomial logistic regression with an L2 penalty; C is the inverse of its weight, per sum of losses."""

    grid: ClassVar = {"C": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)}

    def __init__(self, C: float = 1e-2, class_weight: str | None = None, random_state: int = 0) -> None:
        self.C = C
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: Array, y: Array) -> "LogisticHead":
        """Fit by L-BFGS."""
        from sklearn.linear_model import LogisticRegression

        self._begin(y)
        model = LogisticRegression(C=self.C, class_weight=self.class_weight, max_iter=2000).fit(X, y)
        self.converged_ = bool((model.n_iter_ < 2000).all())
        self._keep(model)
        return self


class SVMHead(LinearHead):
    """Linear support vector machine, one class against the rest, squared hinge loss and L2 penalty (liblinear)."""

    grid: ClassVar = {"C": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)}
    thread_safe = False  # liblinear has one random number generator for the whole process

    def __init__(self, C: float = 1e-4, class_weight: str | None = None, random_state: int = 0) -> None:
        self.C = C
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: Array, y: Array) -> "SVMHead":
        """Fit by liblinear's dual coordinate descent; its primal method takes minutes on the same features."""
        from sklearn.svm import LinearSVC

        self._begin(y)
        model = LinearSVC(
            C=self.C,
            class_weight=self.class_weight,
            dual=True,
            random_state=self.random_state,
            max_iter=20_000,
        ).fit(X, y)
        self.converged_ = bool(np.max(model.n_iter_) < 20_000)
        self._keep(model)
        return self


class RidgeHead(LinearHead):
    """Least squares on targets of -1 and 1 with an L2 penalty alpha."""

    grid: ClassVar = {"alpha": (1e6, 1e5, 1e4, 1e3, 1e2, 1e1)}

    def __init__(self, alpha: float = 1e3, class_weight: str | None = None, random_state: int = 0) -> None:
        self.alpha = alpha
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: Array, y: Array) -> "RidgeHead":
        """Fit by Cholesky decomposition."""
        from sklearn.linear_model import RidgeClassifier

        self._begin(y)
        # in float64: with few pictures and a small alpha the normal equations are near singular
        self._keep(RidgeClassifier(alpha=self.alpha, class_weight=self.class_weight).fit(X.astype(np.float64), y))
        return self


class LDAHead(LinearHead):
    """Linear discriminant analysis with shrinkage; ``auto`` is Ledoit and Wolf's (2004)."""

    grid: ClassVar = {"shrinkage": ("auto",)}

    def __init__(self, shrinkage: str | float = "auto", class_weight: str | None = None, random_state: int = 0) -> None:
        self.shrinkage = shrinkage
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: Array, y: Array) -> "LDAHead":
        """Fit by least squares on the shrunk covariance; balanced classes get equal priors."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        self._begin(y)
        k = len(self.classes_)
        if len(X) <= k:  # one picture of each class: nothing varies within one, so every direction counts the same
            nearest = CentroidHead().fit(X, y)
            self.coef_, self.intercept_ = nearest.coef_, nearest.intercept_
            return self
        priors = np.full(k, 1 / k) if self.class_weight == "balanced" else None
        self._keep(LinearDiscriminantAnalysis(solver="lsqr", shrinkage=self.shrinkage, priors=priors).fit(X, y))
        return self


class CentroidHead(LinearHead):
    """Nearest class mean in Euclidean distance, which is linear in X; every class weighs the same."""

    def __init__(self, class_weight: str | None = None, random_state: int = 0) -> None:
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: Array, y: Array) -> "CentroidHead":
        """Average the rows of each class."""
        encoded = self._begin(y)
        means = np.stack([X[encoded == i].mean(axis=0, dtype=np.float64) for i in range(len(self.classes_))])
        # |x - m|^2 / -2 = x.m - |m|^2 / 2 - |x|^2 / 2, whose last term is the same for every class
        self.coef_ = means.astype(np.float32)
        self.intercept_ = -(means**2).sum(axis=1) / 2
        return self


class KNNHead(Head):
    """The k nearest training pictures in cosine similarity vote."""

    grid: ClassVar = {"k": (20, 10, 5, 3, 1)}
    arrays = ("neighbours_", "labels_", "weights_")

    def __init__(self, k: int = 5, class_weight: str | None = None, random_state: int = 0) -> None:
        self.k = k
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: Array, y: Array) -> "KNNHead":
        """Keep the rows at unit length."""
        encoded = self._begin(y)
        self.neighbours_ = _unit(X)
        self.labels_ = encoded.astype(np.int32)
        counts = np.bincount(encoded)
        balanced = len(encoded) / (len(counts) * counts)
        self.weights_ = balanced if self.class_weight == "balanced" else np.ones(len(counts))
        return self

    def scores(self, X: Array) -> Floats:
        """Return the logarithm of each class's share of the votes, one vote added to be spread evenly."""
        k, classes = min(self.k, len(self.labels_)), len(self.weights_)
        shares = np.empty((len(X), classes))
        for start in range(0, len(X), 1024):  # 1,024 rows against 100,000 pictures: 0.4 GB
            similar = _unit(X[start : start + 1024]) @ self.neighbours_.T
            nearest = (
                np.argpartition(-similar, k - 1, axis=1)[:, :k]
                if k < similar.shape[1]
                else np.tile(np.arange(k), (len(similar), 1))
            )
            cells = np.arange(len(nearest))[:, None] * classes + self.labels_[nearest]
            votes = np.bincount(cells.ravel(), minlength=len(nearest) * classes).reshape(-1, classes)
            shares[start : start + 1024] = votes * self.weights_ + 1 / classes
        return np.log(shares)


class MLPHead(Head):
    """One hidden layer of rectified units trained by Adam, stopped early on a tenth of the training pictures."""

    grid: ClassVar = {"alpha": (10.0, 1.0, 1e-1, 1e-3)}
    arrays = ("hidden_", "hidden_bias_", "output_", "output_bias_")

    def __init__(
        self, alpha: float = 1e-1, hidden: int = 128, class_weight: str | None = None, random_state: int = 0
    ) -> None:
        self.alpha = alpha
        self.hidden = hidden
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: Array, y: Array) -> "MLPHead":
        """Fit scikit-learn's MLPClassifier."""
        from sklearn.neural_network import MLPClassifier

        encoded = self._begin(y)
        counts = np.bincount(encoded)
        weights = (len(encoded) / (len(counts) * counts))[encoded] if self.class_weight == "balanced" else None
        # a tenth must hold a picture of every class, else the stopping rule has nothing to go by
        early = counts.min() >= 2 and len(encoded) // 10 >= len(counts)
        n_train = len(encoded) - math.ceil(len(encoded) / 10) if early else len(encoded)
        model = MLPClassifier(
            (self.hidden,),
            alpha=self.alpha,
            random_state=self.random_state,
            early_stopping=early,
            max_iter=200,
            batch_size=min(128, n_train),
        ).fit(X, y, sample_weight=weights)
        self.converged_ = bool(model.n_iter_ < 200)
        (self.hidden_, self.output_) = (np.asarray(w, dtype=np.float32) for w in model.coefs_)
        (self.hidden_bias_, self.output_bias_) = (np.asarray(b, dtype=np.float32) for b in model.intercepts_)
        return self

    def scores(self, X: Array) -> Floats:
        """Return the output layer's values, (n, k) float64."""
        hidden = np.maximum(X @ self.hidden_ + self.hidden_bias_, 0)
        output = (hidden @ self.output_ + self.output_bias_).astype(np.float64)
        return np.hstack([-output / 2, output / 2]) if output.shape[1] == 1 else output


HEADS: dict[str, type[Head]] = {
    "lr": LogisticHead,
    "svm": SVMHead,
    "mlp": MLPHead,
    "knn": KNNHead,
    "centroid": CentroidHead,
    "ridge": RidgeHead,
    "lda": LDAHead,
}


def softmax(scores: Floats) -> Floats:
    """Return the softmax of each row."""
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _unit(X: Array) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return np.asarray(X / np.where(norms > 0, norms, 1), dtype=np.float32)
