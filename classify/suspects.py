"""Suspect labels by confident learning, hard pictures, and classes taken for each other."""

import dataclasses

import numpy as np
import numpy.typing as npt

from classify.duplicates import Indices
from classify.head import Array, Floats
from classify.statistics import Interval, wilson_interval


@dataclasses.dataclass(frozen=True)
class Suspects:
    """What confident learning says of labels.

    Parameters
    ----------
    joint : ndarray of shape (k, k), int64
        The confident joint: pictures labelled i (rows) that confidently are j (columns).
    thresholds : ndarray of shape (k,)
        The mean probability of class j over pictures labelled j; NaN where none could be held out.
    rows : ndarray of shape (s,), int64
        Suspect pictures, the worst first.
    suggested : ndarray of shape (s,), int64
        The class that each confidently is.
    margin : ndarray of shape (s,)
        Probability of the label less that of the suggested class, between -1 and 1.
    """

    joint: Indices
    thresholds: Floats
    rows: Indices
    suggested: Indices
    margin: Floats


def find_suspects(probabilities: Floats, y: Array) -> Suspects:
    """Find labels that are probably wrong, by confident learning.

    A class's threshold is the mean probability that its own pictures get for it. A picture confidently is the class
    with the highest probability among those whose threshold it reaches; it is suspect where that is not its label,
    and its label is not the most probable class either.
    Source: Northcutt, Jiang and Chuang 2021, arXiv:1911.00068, equations 1 and 2 (the off-diagonal of the confident
    joint), ranked by the margin.

    Parameters
    ----------
    probabilities : ndarray of shape (n, k)
        Out of fold; rows of NaN are left out.
    y : ndarray of shape (n,)
        Labels as given, 0 .. k - 1.

    Returns
    -------
    Suspects

    Examples
    --------
    >>> import numpy as np
    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.95, 0.05], [0.2, 0.8], [0.1, 0.9]])
    >>> found = find_suspects(p, np.array([0, 0, 1, 1, 1]))
    >>> found.rows.tolist(), found.suggested.tolist(), found.joint.tolist()
    ([2], [0], [[1, 0], [1, 2]])
    """
    k = probabilities.shape[1]
    held = np.asarray(~np.isnan(probabilities).any(axis=1))
    thresholds = np.full(k, np.nan)
    for j in np.unique(y[held]):
        thresholds[j] = probabilities[held & (y == j), j].mean()
    # NaN compares as false: nothing confidently is a class without a threshold
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    winner = reached.argmax(axis=1)
    confident = held & (reached.max(axis=1, initial=-1.0) >= 0)
    joint = np.bincount(y[confident] * k + winner[confident], minlength=k * k).reshape(k, k).astype(np.int64)
    answers = np.where(held[:, None], probabilities, 0).argmax(axis=1)
    rows = np.flatnonzero(confident & (winner != y) & (answers != y))
    margin = probabilities[rows, y[rows]] - probabilities[rows, winner[rows]]
    order = np.lexsort((rows, margin))
    return Suspects(joint, thresholds, rows[order], winner[rows][order].astype(np.int64), margin[order])


def find_hard(probabilities: Floats, y: Array, suspects: Suspects) -> Indices:
    """Return the pictures that are answered wrongly but are not suspect, the lowest margin of the label first.

    The head prefers another class, and is not confident of it: blurred, partial, ambiguous or rare pictures.
    """
    held = np.asarray(~np.isnan(probabilities).any(axis=1))
    answers = np.where(held[:, None], probabilities, 0).argmax(axis=1)
    wrong = np.asarray(held & (answers != y))
    wrong[suspects.rows] = False
    rows = np.flatnonzero(wrong)
    return rows[np.lexsort((rows, probabilities[rows, y[rows]] - probabilities[rows, answers[rows]]))]


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Two classes that are taken for each other: counts and rates both ways, and the rate over both."""

    a: int
    b: int
    n_a: int
    n_b: int
    a_as_b: int
    b_as_a: int
    a_as_b_ci95: Interval
    b_as_a_ci95: Interval
    rate: float
    rate_ci95: Interval


def confused_classes(probabilities: Floats, y: Array) -> tuple[npt.NDArray[np.int64], list[Confusion]]:
    """Return the out-of-fold confusion matrix, (k, k), and the pairs of classes with any confusion, worst first.

    Pairs are ordered by the lower end of the interval (Wilson's) of their rate over both classes, so that one error
    among three pictures does not come before thirty among a hundred.
    """
    k = probabilities.shape[1]
    held = np.asarray(~np.isnan(probabilities).any(axis=1))
    answers = probabilities[held].argmax(axis=1)
    matrix = np.bincount(y[held] * k + answers, minlength=k * k).reshape(k, k).astype(np.int64)
    support = matrix.sum(axis=1)
    pairs = []
    for a, b in zip(*np.nonzero(np.triu(matrix + matrix.T, 1)), strict=True):
        n_a, n_b, ab, ba = int(support[a]), int(support[b]), int(matrix[a, b]), int(matrix[b, a])
        pairs.append(
            Confusion(
                a=int(a),
                b=int(b),
                n_a=n_a,
                n_b=n_b,
                a_as_b=ab,
                b_as_a=ba,
                a_as_b_ci95=wilson_interval(ab, n_a) if n_a else (0.0, 1.0),
                b_as_a_ci95=wilson_interval(ba, n_b) if n_b else (0.0, 1.0),
                rate=(ab + ba) / (n_a + n_b),
                rate_ci95=wilson_interval(ab + ba, n_a + n_b),
            )
        )
    pairs.sort(key=lambda p: (-p.rate_ci95[0], p.a, p.b))
    return matrix, pairs
