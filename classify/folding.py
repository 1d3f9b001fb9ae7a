"""A linear head as plain weight and bias on raw vectors, for whoever starts a network's last layer from it."""

import numpy as np

from classify.head import Floats, LinearHead
from classify.selection import train
from classify.trials import Scaler
from data.errors import HeadError
from data.store import Samples


def fold(head: LinearHead, scaler: Scaler) -> tuple[Floats, Floats]:
    """Return weight (k, d) and bias (k,), float64, of a linear head with its scaler and its calibration folded in."""
    coef, intercept = head.coef_.astype(np.float64), head.intercept_
    if len(coef) == 1:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    if np.ndim(head.scale_):
        coef, intercept = coef - coef.mean(axis=0), intercept - intercept.mean()
    factor = np.asarray(head.scale_)
    weight = factor[..., None] * coef / scaler.scale
    return weight, factor * intercept + head.bias_ - weight @ scaler.mean.astype(np.float64)


def fit_probe(samples: Samples, seed: int = 0) -> tuple[Floats, Floats]:
    """Fit logistic regression, C by cross-validation, and fold its scaler in.

    Parameters
    ----------
    samples : Samples
        n training pictures of k classes.
    seed : int
        Of the folds.

    Returns
    -------
    weight : ndarray of shape (k, d), float64
        For raw vectors.
    bias : ndarray of shape (k,), float64

    Raises
    ------
    HeadError
        If a class has no picture.
    """
    training = train("lr", samples, seed=seed)
    if not isinstance(training.head, LinearHead):
        raise HeadError("lr is no linear head")
    return fold(training.head, training.scaler)
