"""The head with a hidden layer."""

import math
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from classify.head import Floats, Head, Vectors, two_sided


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

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        from sklearn.neural_network import MLPClassifier

        counts = np.bincount(y)
        # a tenth must hold a picture of every class, else the stopping rule has nothing to go by
        early = counts.min() >= 2 and len(y) // 10 >= len(counts)
        n_train = len(y) - math.ceil(len(y) / 10) if early else len(y)
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

    def _scores(self, X: Vectors) -> Floats:
        hidden = np.maximum(X @ self.hidden_ + self.hidden_bias_, 0)
        return two_sided((hidden @ self.output_ + self.output_bias_).astype(np.float64))

    def _width(self) -> int:
        return int(self.hidden_.shape[0])
