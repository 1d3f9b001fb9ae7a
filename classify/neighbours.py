"""The head that keeps its training pictures: the nearest of them vote."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from classify.head import Array, ClassWeight, Floats, Head, Vectors, check_number

# Similarities this close are one: rounding unit vectors to float32 moves them by as much.
_SAME = 1e-7
# How far a similarity in float32 may be from the exact one; about 1e-6 was seen for 1,280 numbers.
_SLACK = 2e-5


class KNNHead(Head):
    """The k nearest training pictures in cosine similarity vote.

    A picture of weight w counts as w pictures, so the neighbours are the nearest ones whose weights come to k; the
    farthest of them counts in part where it is more than is needed. Pictures at the same distance share what is left
    of the votes, so that the answer does not hang on the order of the training set: it is the average over the
    choices that scikit-learn's KNeighborsClassifier might make.

    Parameters
    ----------
    k : int
        How many neighbours vote.
    class_weight : "balanced", dict or None
        Multiplies the weights of a class's pictures.
    random_state : int
        Not used.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.array([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0]]), np.array(["ant", "ant", "bee"])
    >>> KNNHead(k=1).fit(X, y).predict(np.array([[2.0, 0.3], [0.0, 9.0]]))
    array(['ant', 'bee'], dtype='<U3')
    """

    grid: ClassVar = {"k": (20, 10, 5, 3, 1)}
    arrays = ("neighbours_", "labels_", "weights_")

    def __init__(self, k: int = 5, class_weight: ClassWeight = None, random_state: int = 0) -> None:
        self.k = k
        self.class_weight = class_weight
        self.random_state = random_state

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        check_number("k", self.k, "a whole number above 0", low=1)
        self.neighbours_ = _unit(X)
        self.labels_ = y.astype(np.int32)
        self.weights_ = np.ones(len(y)) if weights is None else weights

    def restore(
        self, arrays: dict[str, Array], n_classes: int, scale: float | Floats, bias: float | Floats = 0.0
    ) -> None:
        """Take back what `state` gave; the first heads had a weight for each class instead of each picture."""
        super().restore(arrays, n_classes, scale, bias)
        if len(self.weights_) != len(self.labels_):
            self.weights_ = self.weights_[self.labels_]

    def _scores(self, X: Vectors) -> Floats:
        """Return the logarithm of each class's share of the votes, one vote added to be spread evenly."""
        votes = np.empty((len(X), len(self.classes_)))
        for start in range(0, len(X), 1024):  # 1,024 rows against 100,000 pictures: 0.4 GB
            unit = _unit(X[start : start + 1024])
            similar = unit @ self.neighbours_.T
            open_rows, among = np.arange(len(unit)), min(2 * self.k + 16, len(self.labels_))
            while len(open_rows):
                counted, settled = self._count(unit[open_rows], similar[open_rows], among)
                votes[start + open_rows[settled]] = counted[settled]
                open_rows, among = open_rows[~settled], min(4 * among, len(self.labels_))
        return np.log(votes + 1 / len(self.classes_))

    def _count(self, unit: Vectors, similar: Vectors, among: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Count votes among that many pictures, the most similar in float32; return them and in which rows they stand.

        They stand where the pictures left out are certain to be farther than the last neighbour.
        """
        n, n_classes, everyone = len(unit), len(self.classes_), among == len(self.labels_)
        near = np.tile(np.arange(among), (n, 1)) if everyone else np.argpartition(-similar, among - 1)[:, :among]
        exact = np.empty((n, among))
        step = max(1, 8_000_000 // (among * unit.shape[1]))  # 32 MB of neighbours at a time
        for start in range(0, n, step):
            rows = slice(start, start + step)
            exact[rows] = np.einsum("ij,ikj->ik", unit[rows], self.neighbours_[near[rows]], dtype=np.float64)
        order = np.argsort(-exact, axis=1, kind="stable")
        exact, near = np.take_along_axis(exact, order, axis=1), np.take_along_axis(near, order, axis=1)
        weights = self.weights_[near]
        wanted = np.minimum(self.k, weights.sum(axis=1, keepdims=True))
        # the last neighbour is the first whose weight brings the sum to what is wanted
        last = np.argmax(np.cumsum(weights, axis=1) >= wanted * (1 - 1e-12), axis=1)[:, None]
        farthest = np.take_along_axis(exact, last, axis=1)
        closer, level = exact > farthest + _SAME, np.abs(exact - farthest) <= _SAME
        left = wanted - np.where(closer, weights, 0).sum(axis=1, keepdims=True)
        share = left / np.where(level, weights, 0).sum(axis=1, keepdims=True)
        counts = np.where(closer, weights, np.where(level, weights * share, 0))
        cells = np.arange(n)[:, None] * n_classes + self.labels_[near]
        votes: Floats = np.bincount(cells.ravel(), counts.ravel(), minlength=n * n_classes).astype(np.float64)
        votes = votes.reshape(n, n_classes)
        if everyone:
            return votes, np.ones(n, dtype=bool)
        outside = np.take_along_axis(similar, near, axis=1).min(axis=1) + _SLACK  # nothing left out is more similar
        return votes, np.asarray((farthest[:, 0] > outside) & (weights.sum(axis=1) >= self.k))

    def _width(self) -> int:
        return int(self.neighbours_.shape[1])


def _unit(X: Array) -> Vectors:
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return np.asarray(X / np.where(norms > 0, norms, 1), dtype=np.float32)
