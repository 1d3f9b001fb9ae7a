"""What heads on several features share: the features' columns, and folds within the training rows."""

import hashlib

import numpy as np
import numpy.typing as npt

from classify.folds import with_every_class
from classify.head import Array, Floats, Vectors
from data.errors import HeadError


def check_widths(widths: tuple[int, ...] | None, d: int, kind: str) -> tuple[int, ...]:
    """Return the widths of the features that vectors of length d consist of.

    Raises
    ------
    HeadError
        If they do not sum to d.
    """
    if widths is None:
        return (d,)
    if sum(widths) != d or min(widths) < 1:
        raise HeadError(f"the widths of {kind} must be above 0 and sum to the {d} columns of X, got {tuple(widths)}")
    return tuple(widths)


def decisions(X: Vectors, columns: slice | npt.NDArray[np.int32], coef: Vectors, intercept: Floats) -> Floats:
    """Return ``X[:, columns] @ coef.T + intercept`` in float64, by 1,024 rows, as `LinearHead` computes it."""
    decision = np.empty((len(X), len(coef)))
    exact = coef.T.astype(np.float64)
    for start in range(0, len(X), 1024):
        decision[start : start + 1024] = X[start : start + 1024, columns].astype(np.float64) @ exact
    return decision + intercept


def inner_folds(X: Vectors, y: Array, n_folds: int, views: int, seed: int) -> npt.NDArray[np.int64]:
    """Deal rows over folds, class by class, by their content: equal rows, and all views of a picture, stay together.

    The fold depends on the row and the seed, not on the order of the rows or on how often one stands there, so that a
    weight of two is the same as two copies.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Rows; `views` views of n / views pictures, one view after the other.
    y : ndarray of shape (n,)
        Labels.
    n_folds : int
        At most.
    views, seed : int
        See above.

    Returns
    -------
    ndarray of shape (n,), int64
        Fold of each row; -1 for what always trains, so that every class does: the only content of its class.

    Raises
    ------
    HeadError
        If there are not as many rows of each view.
    """
    if len(X) % views:
        raise HeadError(f"{len(X)} rows are not {views} views of the same pictures: leave no row of one view out")
    n = len(X) // views
    key = f"fold {seed}".encode()
    contents = [hashlib.blake2b(row.tobytes(), key=key, digest_size=16).digest() for row in X[:n]]
    fold_of: dict[bytes, int] = {}
    offset = 0
    for label in np.unique(y):
        mine = sorted({contents[i] for i in np.flatnonzero(y[:n] == label).tolist()} - fold_of.keys())
        if len(mine) > 1:
            fold_of |= {content: (offset + i) % n_folds for i, content in enumerate(mine)}
            offset += len(mine)  # so that small classes do not all fall into the first folds
    fold = np.array([fold_of.get(content, -1) for content in contents], dtype=np.int64)
    return np.tile(with_every_class(fold, y[:n], np.array(contents, dtype="S16")), views)
