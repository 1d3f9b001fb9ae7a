"""Rows of vectors in blocks, whether they lie in memory or in a store, and their moments.

Whatever has a shape and gives rows by slice will do: an array, or `data.reading.StoredVectors`, which reads them.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

Single = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]

# Most values, float32, of one block of rows where nothing else is asked for: 32 MB.
BLOCK = 1 << 23

# Above so many deviations a mean is taken off the rows: float32 then keeps five digits of what is left.
_FAR = 100.0

# Above this many rows for each column, every so many rows are enough for a preconditioner.
_SPECTRUM_ROWS = 16


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one or several sources, one below the other.

    Parameters
    ----------
    sources : sequence of array-like of shape (n_i, d)
        Float16, float32 or float64; each is read by slices.
    block : int
        Most values of one block.
    origin : ndarray of shape (d,), optional
        Subtracted from every row as it is read; `about` chooses it.
    dtype : dtype
        What rows are read as, and so what is computed in: float32, or float64 where the problem is small.
    """

    sources: Sequence[Any]
    block: int = BLOCK
    origin: Double | None = None
    dtype: npt.DTypeLike = np.float32

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and their length."""
        return sum(len(source) for source in self.sources), int(self.sources[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def about(self, moments: "Moments") -> tuple["Rows", "Moments"]:
        """Return the rows less a common vector, and the moments they have then, where means are far from zero.

        Standardisation is folded into the coefficients, whose products with the rows cancel to what a row has beyond
        the mean: at a mean of m deviations that takes log10(m) digits.
        """
        if not len(self) or np.abs(moments.mean / moments.scale).max(initial=0.0) <= _FAR:
            return self, moments
        # as the rows have it, so that the difference from a row near it is exact
        shift = moments.mean.mean(axis=0).astype(np.float32).astype(np.float64)
        origin = shift if self.origin is None else self.origin + shift
        return dataclasses.replace(self, origin=origin), Moments(moments.mean - shift, moments.scale)

    def blocks(self, columns: int = 0) -> Iterator[tuple[int, Single]]:
        """Yield the number of the first row and the rows, (r, d) of `dtype`, of each block.

        Parameters
        ----------
        columns : int
            How many values the caller makes of each row: they count for the size of a block as the row itself does.
        """
        size = max(256, self.block // max(self.shape[1], columns))
        start = 0
        origin = None if self.origin is None else self.origin.astype(self.dtype)
        for source in self.sources:
            for a in range(0, len(source), size):
                X = np.asarray(source[a : a + size], dtype=self.dtype)
                yield start + a, X if origin is None else X - origin
            start += len(source)


@dataclasses.dataclass(frozen=True)
class Moments:
    """Weighted column means and deviations, (f, d) float64 each: a row for each column of the weights.

    Constant columns have deviation one.
    """

    mean: Double
    scale: Double

    @classmethod
    def of(cls, rows: Rows, weights: Single | None = None, prior: float = 0.0) -> "Moments":
        """Measure the rows in one pass, with weights (n, f); without, each row counts once and f is 1.

        The sums run over differences from the first row, so that a large mean costs no digits.

        Parameters
        ----------
        rows : Rows
            To measure.
        weights : ndarray of shape (n, f), optional
            Of each row in each fold.
        prior : float
            How many rows the mean variance of all columns counts as, beside the rows themselves, in the variance of
            each column that is not constant.
        """
        n, d = rows.shape
        f = 1 if weights is None else weights.shape[1]
        total = np.full(f, float(n)) if weights is None else weights.sum(axis=0, dtype=np.float64)
        first, second = np.zeros((f, d)), np.zeros((f, d))
        origin: Double | None = None
        for start, X in rows.blocks():
            origin = X[0].astype(np.float64) if origin is None else origin
            for a in range(0, len(X), 1024):
                D = X[a : a + 1024].astype(np.float64)
                D -= origin
                if weights is None:
                    first[0] += D.sum(axis=0)
                    second[0] += np.einsum("nd,nd->d", D, D)
                else:
                    w = weights[start + a : start + a + len(D)].astype(np.float64)
                    first += w.T @ D
                    second += w.T @ (D * D)
        first /= total[:, None]
        variance = second / total[:, None] - first * first
        mean = first + (0.0 if origin is None else origin)
        variance = np.maximum(variance, 0)
        scale = np.sqrt(variance)
        # what is left where larger numbers cancel is rounding: in the float32 of the rows, and in the sums
        rounding = np.maximum(1e-7 * np.abs(mean), 1e-6 * np.sqrt(second / total[:, None]))
        constant = scale < np.maximum(rounding, 1e-37)
        if prior:
            common = np.where(constant, 0.0, variance).mean(axis=1, keepdims=True)
            scale = np.sqrt((total[:, None] * variance + prior * common) / (total[:, None] + prior))
        scale[constant | (scale == 0)] = 1.0
        return cls(mean, scale)


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Eigenvalues, (r,), and eigenvectors, (d, r) float32, of the mean outer product of standardised rows."""

    values: Double
    vectors: Single

    @classmethod
    def of(cls, rows: Rows, moments: Moments) -> "Spectrum":
        """Decompose, by way of the smaller of the two Gram matrices.

        Of many rows every so many are taken: the result serves to precondition, and need not be exact.
        """
        n, d = rows.shape
        mean, scale = moments.mean[0].astype(rows.dtype), moments.scale[0].astype(rows.dtype)
        if n <= d:
            X = np.concatenate([(X - mean) / scale for _, X in rows.blocks()])
            values, Q = eigh(X @ X.T, driver="evd", overwrite_a=True, check_finite=False)
            kept = values > 1e-6 * values[-1]
            vectors = X.T @ (Q[:, kept] / np.sqrt(values[kept]))
            return cls(values[kept].astype(np.float64) / n, np.ascontiguousarray(vectors))
        stride = max(1, n // (_SPECTRUM_ROWS * d))
        gram = np.zeros((d, d), dtype=rows.dtype)
        counted = 0
        for start, X in rows.blocks():
            X = (X[-start % stride :: stride] - mean) / scale
            gram += X.T @ X
            counted += len(X)
        values, vectors = eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
        return cls(np.maximum(values, 0).astype(np.float64) / counted, np.ascontiguousarray(vectors))
