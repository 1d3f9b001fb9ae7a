"""The losses of the linear heads: values, slopes and curvatures on a block of scores, in float32.

Scores come as (n, q): a column for each class of each problem. Each function overwrites them with the weighted slopes,
so that a block of rows needs no more memory than its scores and a few temporaries of the same size.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Single = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which class, which weights and which C each column of scores stands for.

    Parameters
    ----------
    label : ndarray of shape (q,), int64
        The class of a column.
    weighting : ndarray of shape (q,), int64
        The column of the row weights, one for each fold.
    C : ndarray of shape (q,), float64
        Factor on the sum of losses.
    width : int
        How many columns belong to one problem: all classes for the multinomial loss, else 1.
    """

    label: npt.NDArray[np.int64]
    weighting: npt.NDArray[np.int64]
    C: Double
    width: int

    def __len__(self) -> int:
        return len(self.label)

    def of(self, problems: npt.NDArray[np.int64]) -> "Columns":
        """Return the columns of some problems."""
        chosen = (problems[:, None] * self.width + np.arange(self.width)).ravel()
        return Columns(self.label[chosen], self.weighting[chosen], self.C[chosen], self.width)


# scores (n, q), targets, weights (n, q / width) or None, width -> losses (q / width,), curvatures (q,)
Loss = Callable[[Single, npt.NDArray[Any], Single | None, int], tuple[Double, Double]]


def multinomial(Z: Single, y: npt.NDArray[Any], weights: Single | None, width: int) -> tuple[Double, Double]:
    """Return -log softmax of the true class, summed over rows, and the sums of p (1 - p); y (n,) of 0 .. width - 1."""
    n = len(Z)
    z = Z.reshape(n, -1, width)
    z -= z.max(axis=2, keepdims=True)
    at = (np.arange(n)[:, None], np.arange(z.shape[1])[None, :], y[:, None])
    of_truth = z[at]  # (n, m)
    np.exp(z, out=z)
    total = z.sum(axis=2)
    losses = np.log(total) - of_truth
    z /= total[:, :, None]
    if weights is None:
        curvature = z.sum(axis=0, dtype=np.float64) - np.einsum("nmc,nmc->mc", z, z, dtype=np.float64)
        z[at] -= 1
    else:
        losses *= weights
        spread = z * (1 - z)
        curvature = np.einsum("nmc,nm->mc", spread, weights, dtype=np.float64)
        z *= weights[:, :, None]
        z[at] -= weights
    return losses.sum(axis=0, dtype=np.float64), curvature.reshape(-1)


def logistic(Z: Single, signs: npt.NDArray[Any], weights: Single | None, width: int) -> tuple[Double, Double]:
    """Return log(1 + exp(-margin)), summed over rows, and the sums of p (1 - p); signs (n, q) of -1 and 1."""
    margin = Z * signs
    small = np.exp(-np.abs(margin))
    losses = np.log1p(small) + np.maximum(-margin, 0)
    wrong = np.where(margin > 0, small, 1) / (1 + small)  # the probability of the other side
    spread = wrong * (1 - wrong)
    np.multiply(wrong, signs, out=Z)
    Z *= -1
    if weights is not None:
        losses *= weights
        spread *= weights
        Z *= weights
    return losses.sum(axis=0, dtype=np.float64), spread.sum(axis=0, dtype=np.float64)


def squared_hinge(Z: Single, signs: npt.NDArray[Any], weights: Single | None, width: int) -> tuple[Double, Double]:
    """Return max(0, 1 - margin)^2, summed over rows, and twice the rows within the margin; signs (n, q) of -1 and 1."""
    short = 1 - Z * signs
    np.maximum(short, 0, out=short)
    inside = short > 0
    np.multiply(short, signs, out=Z)
    Z *= -2
    if weights is None:
        return np.einsum("nq,nq->q", short, short, dtype=np.float64), 2.0 * inside.sum(axis=0)
    Z *= weights
    return (
        np.einsum("nq,nq,nq->q", short, short, weights, dtype=np.float64),
        2.0 * np.einsum("nq,nq->q", inside, weights, dtype=np.float64),
    )
