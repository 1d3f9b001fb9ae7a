"""The head with hidden layers."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp
from threadpoolctl import threadpool_limits

from classify.head import Array, ClassWeight, Floats, Head, Vectors
from classify.network import Recipe, train
from data.errors import HeadError


class MLPHead(Head):
    """A few small networks of rectified units, whose probabilities are averaged.

    The networks see the same mini-batches with other first weights and other units dropped, and each is stopped on
    another tenth of the training pictures, taken class by class; a class of fewer than five is never held out, and
    where fewer than ten pictures would be, all epochs are run. Copies of a picture are one picture that weighs more.

    Parameters
    ----------
    hidden : int or sequence of int
        Units of the hidden layer, or of each of them.
    n_seeds : int
        How many networks.
    dropout : float
        Share of hidden units that is dropped in each step.
    alpha : float
        Decay of the weights in each step, as a multiple of the learning rate.
    learning_rate : float
        Adam's, in the first step; it falls to 0 as a cosine over `epochs`.
    epochs : int
        How often the training pictures are gone through at most.
    early_stopping : bool
        Whether each network is stopped, and taken back, to where its held-out loss was the lowest.
    patience : int
        Epochs without a better loss after which to stop.
    label_smoothing : float
        Share of a label that is spread over all classes.
    class_weight : "balanced", dict or None
        Multiplies the weights of a class's pictures.
    random_state : int
        Decides everything random: one seed gives one result, whatever the order of the pictures.

    Attributes
    ----------
    coefs_ : list of ndarray, float32
        Of the first layer (d, n_seeds * h), the networks side by side; then (n_seeds, h, h').
    intercepts_ : list of ndarray, float32
        (n_seeds * h,), then (n_seeds, 1, h').
    """

    grid: ClassVar = {}

    def __init__(
        self,
        hidden: int | Sequence[int] = 64,
        n_seeds: int = 4,
        dropout: float = 0.5,
        alpha: float = 1.0,
        learning_rate: float = 2e-3,
        epochs: int = 30,
        early_stopping: bool = True,
        patience: int = 5,
        label_smoothing: float = 0.0,
        class_weight: ClassWeight = None,
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.n_seeds = n_seeds
        self.dropout = dropout
        self.alpha = alpha
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.early_stopping = early_stopping
        self.patience = patience
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        recipe = self._recipe()
        rng = np.random.default_rng(_random_state(self.random_state).randint(2**31))
        # one thread: the result does not hang on their number, and small products gain little from more
        with threadpool_limits(1, user_api="blas"):
            networks = train(X, y, weights, len(self.classes_), recipe, rng)
        self.coefs_, self.intercepts_ = networks.weights, networks.biases

    def _recipe(self) -> Recipe:
        hidden: list[Any] = list(self.hidden) if isinstance(self.hidden, list | tuple) else [self.hidden]
        if not 1 <= len(hidden) <= 2 or not all(_is_count(units) for units in hidden):
            raise HeadError(f"hidden must be the units of one or two layers, such as 64 or 64,32, not {self.hidden}")
        for name in ("n_seeds", "epochs", "patience"):
            if not _is_count(getattr(self, name)):
                raise HeadError(f"{name} must be a whole number above 0, not {getattr(self, name)}")
        for name, low, high, words in (
            ("dropout", 0.0, 1.0, "from 0 to below 1"),
            ("label_smoothing", 0.0, 1.0, "from 0 to below 1"),
            ("alpha", 0.0, math.inf, "0 or more"),
            ("learning_rate", 1e-300, math.inf, "above 0"),
        ):
            value = getattr(self, name)
            if not isinstance(value, Real) or not low <= float(value) < high:
                raise HeadError(f"{name} must be a number {words}, not {value}")
        return Recipe(
            hidden=tuple(int(h) for h in hidden),
            count=int(self.n_seeds),
            dropout=self.dropout,
            weight_decay=self.alpha,
            learning_rate=self.learning_rate,
            epochs=int(self.epochs),
            patience=int(self.patience),
            early_stopping=self.early_stopping,
            label_smoothing=self.label_smoothing,
        )

    def _scores(self, X: Vectors) -> Floats:
        """Return the logarithm of the networks' mean probabilities."""
        coefs = [w.astype(np.float64) for w in self.coefs_]
        count, width = len(coefs[-1]), coefs[0].shape[1]
        scores = np.empty((len(X), coefs[-1].shape[2]))
        for start in range(0, len(X), 1024):  # in float64, so that a row's score is the same alone and among others
            wide = np.maximum(X[start : start + 1024].astype(np.float64) @ coefs[0] + self.intercepts_[0], 0)
            hidden = wide.reshape(len(wide), count, width // count).transpose(1, 0, 2)
            for i in range(1, len(coefs)):
                hidden = (np.maximum(hidden, 0) if i > 1 else hidden) @ coefs[i] + self.intercepts_[i]
            scores[start : start + 1024] = logsumexp(log_softmax(hidden, axis=2), axis=0) - np.log(count)
        return scores

    def state(self) -> dict[str, Array]:
        """Return the learnt arrays by name: ``coefs_0``, ``intercepts_0`` and so on."""
        layers = [("coefs", self.coefs_), ("intercepts", self.intercepts_)]
        return {f"{name}_{i}": np.ascontiguousarray(a) for name, arrays in layers for i, a in enumerate(arrays)}

    def restore(
        self, arrays: dict[str, Array], n_classes: int, scale: float | Floats, bias: float | Floats = 0.0
    ) -> None:
        """Take back what `state` gave, or the arrays of the first heads, with one network of one hidden layer."""
        if "hidden_" in arrays:
            arrays = _of_first_heads(arrays)
        layers = range(len(arrays) // 2)
        self.coefs_, self.intercepts_ = (
            [arrays[f"coefs_{i}"] for i in layers],
            [arrays[f"intercepts_{i}"] for i in layers],
        )
        super().restore(arrays, n_classes, scale, bias)

    def _width(self) -> int:
        return int(self.coefs_[0].shape[0])


def _random_state(seed: Any) -> Any:
    """Return numpy's old generator for a seed, or what else scikit-learn takes for one."""
    if isinstance(seed, int):
        return np.random.RandomState(seed)  # its numbers are those of all heads so far
    from sklearn.utils import check_random_state

    return check_random_state(seed)


def _is_count(value: object) -> bool:
    return isinstance(value, Real) and float(value) >= 1 and float(value).is_integer()


def _of_first_heads(arrays: dict[str, Array]) -> dict[str, Array]:
    output, bias = arrays["output_"], arrays["output_bias_"]
    if len(bias) == 1:  # two classes had one output, which is the difference of two
        output, bias = np.hstack([-output / 2, output / 2]), np.concatenate([-bias / 2, bias / 2])
    return {
        "coefs_0": arrays["hidden_"],
        "intercepts_0": arrays["hidden_bias_"],
        "coefs_1": output[None],
        "intercepts_1": bias[None, None],
    }
