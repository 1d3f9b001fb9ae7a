"""Linear problems over the same rows: their objectives and gradients, in shared products with the rows."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.losses import Columns, Loss
from classify.rows import Moments, Rows, Single, Spectrum

Double = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Problems:
    """Several linear problems over the same rows.

    Parameters
    ----------
    rows : Rows
        n rows of d columns, not standardised.
    targets : ndarray
        Class of each row, (n,), for the multinomial loss; else -1 or 1 for each class, (n, k) int8.
    loss : Loss
        One of `classify.losses`.
    columns : Columns
        q columns of coefficients, `width` to a problem.
    weights : ndarray of shape (n, f), float32, or None
        Weight of each row in each fold: zero where it is held out.
    moments : Moments
        Means and deviations of each fold.
    spectrum : Spectrum
        Of all rows.
    penalised : bool
        Whether the intercept is.
    """

    rows: Rows
    targets: npt.NDArray[Any]
    loss: Loss
    columns: Columns
    weights: Single | None
    moments: Moments
    spectrum: Spectrum
    penalised: bool

    def of(self, problems: Indices) -> "Problems":
        """Return some of the problems."""
        return dataclasses.replace(self, columns=self.columns.of(problems))

    def unfolded(self, P: Single) -> tuple[Single, Single]:
        """Return coefficients (q, d) and intercepts (q,), in the precision of P, for rows as they are."""
        d = P.shape[1] - 1
        mean, scale = self._fold("mean"), self._fold("scale")
        W = P[:, :d] / scale
        return W, (P[:, d] - np.einsum("qd,qd->q", W, np.broadcast_to(mean, W.shape))).astype(P.dtype)

    def evaluate(self, P: Single) -> tuple[Double, Single, Double]:
        """Return each problem's objective, the gradient (q, d + 1) and the curvature of each column, in one pass."""
        q, width, d = len(P), self.columns.width, P.shape[1] - 1
        W, offset = self.unfolded(P)
        along, slopes = np.zeros((q, d), dtype=P.dtype), np.zeros(q)
        losses, curvature = np.zeros(q // width), np.zeros(q)
        for start, X in self.rows.blocks(q):
            Z = X @ W.T
            Z += offset
            some_losses, some_curvature = self.loss(Z, *self.of_block(start, len(X)), width)
            losses += some_losses
            curvature += some_curvature
            along += Z.T @ X
            slopes += Z.sum(axis=0, dtype=np.float64)
        C = self.columns.C
        gradient = self.gradient(P, along, slopes)
        squares = squares_of(P[:, :d])
        of_intercept = C * slopes
        if self.penalised:
            squares += P[:, d].astype(np.float64) ** 2
            of_intercept += P[:, d]
        objective = squares.reshape(-1, width).sum(axis=1) / 2 + C[::width] * losses
        full = np.concatenate([gradient, of_intercept[:, None].astype(P.dtype)], axis=1)
        return objective, full, C * curvature

    def gradient(self, P: Single, along: Single, slopes: Double) -> Single:
        """Return the gradient of the coefficients, (q, d), in place of `along`.

        Parameters
        ----------
        P : ndarray of shape (q, d + 1)
            Where.
        along : ndarray of shape (q, d)
            Sum of slope times row, as the rows are.
        slopes : ndarray of shape (q,)
            Sum of the slopes.
        """
        along -= slopes[:, None].astype(P.dtype) * self._fold("mean")
        along /= self._fold("scale")
        along *= self.columns.C[:, None].astype(P.dtype)
        along += P[:, :-1]
        return along

    def _fold(self, name: str) -> Single:
        values = getattr(self.moments, name)
        if len(values) > 1:
            values = values[self.columns.weighting]
        return np.asarray(values, dtype=self.rows.dtype)

    def of_block(self, start: int, n: int) -> tuple[npt.NDArray[Any], Single | None]:
        """Return the targets and the weights of a block of rows, for each column or problem."""
        targets = self.targets[start : start + n]
        if targets.ndim == 2:
            targets = targets[:, self.columns.label]
        if self.weights is None:
            return targets, None
        return targets, self.weights[start : start + n][:, self.columns.weighting[:: self.columns.width]]


def squares_of(a: Single) -> Double:
    """Return the square of the norm of each row, (q,)."""
    return np.asarray(np.einsum("qd,qd->q", a, a, dtype=np.float64))
