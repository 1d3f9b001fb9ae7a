"""What every head is: a scikit-learn estimator whose learnt state is a few arrays, stored without pickle."""

import math
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from classify.estimator import Estimator
from data.errors import HeadError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
# As in scikit-learn: None, "balanced", or the weight of each label.
ClassWeight = str | dict[Any, float] | None


class Head(Estimator):
    """Base of all heads: scores for each class, and probabilities from them.

    A head is used on standardised vectors (`classify.selection` standardises); it computes in float32 and keeps
    nothing but the arrays named in `arrays`. Subclasses define `_fit` and `_scores`.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        Labels, sorted.
    n_features_in_ : int
        Length of a vector.
    scale_, bias_ : float or ndarray of shape (k,)
        What makes logits of scores, see `logits`: 1 and 0 after `fit`, until `classify.calibration` fits them on
        held-out scores.
    converged_ : bool
        Whether the solver met its stopping rule.
    """

    # The values to try, from the strongest regularisation to the weakest: {name of the parameter: values}.
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {}
    arrays: ClassVar[tuple[str, ...]] = ()
    # Whether several may be fitted at once in threads of one process and still give the same result each time.
    thread_safe: ClassVar[bool] = True

    class_weight: ClassWeight
    random_state: int
    scale_: float | Floats
    bias_: float | Floats

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> Self:
        """Learn from vectors and labels.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Vectors; converted to float32.
        y : ndarray of shape (n,)
            Labels of at least two classes.
        sample_weight : ndarray of shape (n,), optional
            How much each row counts; multiplied by the class weights.

        Raises
        ------
        HeadError
            If there is one class only.
        ValueError
            If X or y is no valid input by scikit-learn's rules.
        """
        self._fit(*self._begin(X, y, sample_weight))
        return self

    def _begin(
        self, X: Array, y: Array, sample_weight: Array | None = None
    ) -> tuple[Vectors, npt.NDArray[np.intp], Floats | None]:
        """Check what is to be learnt, set what every head has, and return what `_fit` takes."""
        X, y, weights = self._checked(X, y, sample_weight)
        if weights is not None and not weights.all():
            # a row without weight is absent: its class too, if it has no other
            X, y, weights = X[weights > 0], y[weights > 0], weights[weights > 0]
        self.classes_, encoded = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise HeadError(f"one class ({self.classes_[0]}) cannot be told from others: give at least two")
        if self.class_weight is not None:
            weights = self._of_class(y, weights)[encoded] * (1.0 if weights is None else weights)
        self.scale_, self.bias_ = 1.0, 0.0
        self.converged_ = True
        return X, encoded, weights

    def _checked(self, X: Array, y: Array, sample_weight: Array | None) -> tuple[Vectors, Array, Floats | None]:
        """Return rows, labels and weights by scikit-learn's rules; what is plain keeps them without its being asked."""
        plain = _is_plain(X) and _are_classes(y, len(X)) and _are_weights(sample_weight, len(X))
        if plain and "feature_names_in_" not in self.__dict__:
            self.n_features_in_ = X.shape[1]
            return X, y, sample_weight
        from sklearn.utils.multiclass import check_classification_targets
        from sklearn.utils.validation import _check_sample_weight, validate_data

        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        if sample_weight is None:
            return X, y, None
        return X, y, _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)

    def _of_class(self, y: Array, weights: Floats | None) -> Floats:
        """Return the class weights, (k,), of labels y (n,) whose rows have `weights`."""
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            mass = np.bincount(np.searchsorted(self.classes_, y), weights)
            return np.asarray(mass.sum() / (len(mass) * mass))
        from sklearn.utils.class_weight import compute_class_weight

        of_class: Floats = compute_class_weight(self.class_weight, classes=self.classes_, y=y, sample_weight=weights)
        if not (of_class > 0).all():
            name = self.classes_[np.argmin(of_class)]
            raise HeadError(f"class {name} weighs {of_class.min():g}: give it a weight above 0, or leave its rows out")
        return of_class

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        """Learn from X (n, d), y (n,) of 0 .. k - 1 and the weight of each row, or None where all weigh 1."""
        raise NotImplementedError

    def _scores(self, X: Vectors) -> Floats:
        """Return a score for each class, (n, k) float64; binary heads give (-d/2, d/2)."""
        raise NotImplementedError

    def scores(self, X: Array) -> Floats:
        """Return a score for each class, (n, k) float64; binary heads give (-d/2, d/2)."""
        own = self.__dict__
        if not _is_plain(X) or own.get("n_features_in_") != X.shape[1] or "feature_names_in_" in own:
            from sklearn.utils.validation import check_is_fitted, validate_data

            check_is_fitted(self, "classes_")
            X = validate_data(self, X, reset=False, dtype=np.float32, ensure_min_samples=0)
        return self._scores(X) if len(X) else np.empty((0, len(self.classes_)))

    def decision_function(self, X: Array) -> Floats:
        """Return the scores as scikit-learn does: (n, k), or (n,) of the second class where there are two."""
        scores = self.scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Array) -> Floats:
        """Return probabilities, (n, k) float64, rows summing to one."""
        scores = self.scores(X)
        return softmax(logits(scores, self.scale_, self.bias_))

    def predict(self, X: Array) -> Array:
        """Return the most likely label of each row, (n,)."""
        scores = self.scores(X)
        return np.asarray(self.classes_[np.argmax(logits(scores, self.scale_, self.bias_), axis=1)])

    def state(self) -> dict[str, Array]:
        """Return the learnt arrays by name."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in self.arrays}

    def restore(
        self, arrays: dict[str, Array], n_classes: int, scale: float | Floats, bias: float | Floats = 0.0
    ) -> None:
        """Take back what `state` gave; labels become 0 .. n_classes - 1."""
        self.classes_ = np.arange(n_classes)
        self.scale_, self.bias_ = scale, bias
        for name in self.arrays:
            setattr(self, name, arrays[name])
        self.n_features_in_ = self._width()

    def _width(self) -> int:
        """Return the length of a vector, from the learnt arrays."""
        raise NotImplementedError


class SharingHead(Head):
    """A head whose settings are tried on the same rows for less than one by one."""

    def shared(self, d: int) -> bytes:
        """Return what two settings must have in common, on vectors of length d, to be fitted together."""
        raise NotImplementedError

    @staticmethod
    def fit_together(heads: Sequence[Any], X: Array, y: Array) -> Iterator[Any]:
        """Fit heads that share, as precisely as ranking them needs, and yield each in turn."""
        raise NotImplementedError


class LinearHead(Head):
    """A head whose scores are ``X @ coef_.T + intercept_``; coef_ (k, d), or (1, d) where there are two classes."""

    arrays = ("coef_", "intercept_")

    def _scores(self, X: Vectors) -> Floats:
        decision = np.empty((len(X), len(self.coef_)))
        coef = self.coef_.T.astype(np.float64)
        # in float64, or a row's score would depend, in its seventh digit, on the rows beside it; 1,024 rows of 1,280
        # are 10 MB
        for start in range(0, len(X), 1024):
            np.matmul(X[start : start + 1024].astype(np.float64), coef, out=decision[start : start + 1024])
        return two_sided(decision + self.intercept_)

    def _keep(self, coef: Array, intercept: Array) -> None:
        self.coef_ = np.ascontiguousarray(np.atleast_2d(coef), dtype=np.float32)
        self.intercept_ = np.asarray(intercept, dtype=np.float64).reshape(-1)

    def _width(self) -> int:
        return int(self.coef_.shape[1])


def _is_plain(X: Array) -> bool:
    """Whether X is an array, (n, d) float32, of finite numbers, which scikit-learn's checks would leave as it is."""
    if type(X) is not np.ndarray or X.dtype != np.float32 or X.ndim != 2 or not X.shape[1]:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(X.sum()))


def _are_classes(y: Array, n: int) -> bool:
    """Whether y is an array of n whole numbers that nobody would doubt are classes."""
    if type(y) is not np.ndarray or y.dtype.kind not in "iu" or y.shape != (n,) or not n:
        return False
    return n <= 20 or len(np.unique(y)) <= n // 2  # above that scikit-learn warns


def _are_weights(weights: Array | None, n: int) -> bool:
    """Whether weights are an array of n numbers, none below 0 and one above it; or none at all."""
    if weights is None:
        return True
    if type(weights) is not np.ndarray or weights.dtype != np.float64 or weights.shape != (n,):
        return False
    return bool(np.isfinite(weights).all() and weights.min() >= 0 and weights.max() > 0)


def check_number(name: str, value: object, words: str, *, low: float, high: float = math.inf) -> None:
    """Raise if a parameter is no number from `low` to `high`, or no whole one where `low` is an int.

    Raises
    ------
    HeadError
        With what it must be, in `words`.
    """
    kind = Integral if isinstance(low, int) else Real
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= float(value) <= high:
        raise HeadError(f"{name} must be {words}, got {value!r}")


def logits(scores: Floats, scale: float | Floats, bias: float | Floats) -> Floats:
    """Return ``scale * scores + bias``, (n, k), whose softmax are the probabilities.

    With a factor for each class, (k,), the scores of a row are taken less their mean: what they have in common says
    nothing about the classes.
    """
    if np.ndim(scale):
        scores = scores - scores.mean(axis=1, keepdims=True)
    return np.asarray(scale * scores + bias)


def softmax(scores: Floats) -> Floats:
    """Return the softmax of each row."""
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def two_sided(decision: Floats) -> Floats:
    """Return scores of both classes for one column of decisions, and several columns as they are."""
    return np.hstack([-decision / 2, decision / 2]) if decision.shape[1] == 1 else decision
