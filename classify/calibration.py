"""Scores made probabilities."""

import numpy as np
from scipy.optimize import minimize_scalar

from classify.head import Array, Floats, softmax


def fit_scale(scores: Floats, y: Array) -> float:
    """Return the factor on held-out scores, (n, k), that gives the lowest log-loss of their softmax.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599): it moves no decision.
    """
    spread = max(float(np.abs(scores - scores.max(axis=1, keepdims=True)).mean()), 1e-12)
    found = minimize_scalar(
        lambda log_scale: log_loss(softmax(np.exp(log_scale) / spread * scores), y),
        bounds=(-7, 7),
        method="bounded",
    )
    return float(np.exp(found.x) / spread)


def log_loss(probabilities: Floats, y: Array) -> float:
    """Return the mean negative log-likelihood, in nats; a probability below 1e-15 counts as 1e-15."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(y)), y], 1e-15)).mean()) if len(y) else float("nan")
