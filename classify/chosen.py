"""The linear heads inside others: a path's value chosen by folds within the training rows, and the head it makes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.calibration import fit_scale, log_loss
from classify.head import Floats, Vectors, softmax, two_sided
from classify.linear import PathHead
from classify.paths import Fit, Task
from classify.rows import Moments, Rows
from classify.trials import for_ranking

# From strong to weak regularisation the loss falls and then rises: once so far above the best, it is not tried on.
_HOPELESS = 1.05


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A linear model of all rows, and what models like it say of rows that they were not trained on.

    Parameters
    ----------
    coef : ndarray of shape (k, d), float32
        k is 1 where there are two classes.
    intercept : ndarray of shape (k,), float64
        Likewise.
    converged : bool
        Whether the solver met its stopping rule.
    held_out : ndarray of shape (n, k), float64
        Scores of each row by the model that was fitted without its fold; zero where nothing was held out.
    factor : float
        On these scores, for the lowest log-loss of their softmax; 1 where they say nothing.
    """

    coef: Vectors
    intercept: Floats
    converged: bool
    held_out: Floats
    factor: float


def choose(
    head: PathHead,
    values: Sequence[Any],
    X: Vectors,
    y: npt.NDArray[np.intp],
    n_classes: int,
    weights: Floats | None,
    fold: npt.NDArray[np.int64],
) -> Chosen:
    """Fit a head for the value of the least held-out loss, by one path over all values and folds.

    Parameters
    ----------
    head : PathHead
        Of the kind that is wanted; where nothing can be held out, its own value is taken.
    values : sequence
        To choose from.
    X : ndarray of shape (n, d), float32
        Rows, which are not standardised.
    y : ndarray of shape (n,)
        Labels 0 .. k - 1, each of which occurs.
    n_classes : int
        k.
    weights : ndarray of shape (n,), optional
        How much each row counts.
    fold : ndarray of shape (n,), int64
        The fold that holds a row out, -1 for none.
    """
    of_row = np.ones(len(y), dtype=np.float32) if weights is None else weights.astype(np.float32)
    held = np.flatnonzero(fold >= 0)
    some = None if weights is None else weights[held]
    # a fold without which one class alone would train is not measured
    folds = [f for f in np.unique(fold[held]) if len(np.unique(y[fold != f])) > 1]
    value, start = getattr(head, head.along), None
    scores, factor = np.zeros((len(y), n_classes)), 1.0
    if folds:
        masks = np.stack([of_row * (fold != f) for f in folds], axis=1)
        task, stopping = head.precisely(centred_task(head, X, y, n_classes, masks), for_ranking(head.stopping()))
        least = np.inf
        for fit in head.path(task, values, stopping):
            tried = _held_out(fit, task, fold, folds)
            scale = _scale(tried[held], y[held], some)
            loss = log_loss(softmax(scale * tried[held]), y[held], some)
            if loss < least:
                least, value, start, scores, factor = loss, fit.value, fit.start, tried, scale
            elif loss > _HOPELESS * least:
                break
    task = centred_task(head, X, y, n_classes, None if weights is None else of_row[:, None])
    task, stopping = head.precisely(task, head.stopping())
    (fit,) = head.path(task, [value], stopping, start)
    coef, intercept = fit.on_rows(task.moments)
    converged = fit.gap <= getattr(head, "tol", 0.0)
    return Chosen(coef[0], intercept[0], converged, scores, factor)


def centred_task(
    head: PathHead, X: Vectors, y: npt.NDArray[np.intp], n_classes: int, weights: npt.NDArray[np.float32] | None
) -> Task:
    """Return what is to be learnt, with weights (n, f), from rows that are centred where the head allows it.

    They are not scaled: whoever fits a head inside another has done that.
    """
    rows = Rows([X])
    mean = Moments.of(rows, weights).mean
    moments = Moments(mean if head.centred else np.zeros_like(mean), np.ones_like(mean))
    return Task(rows, y, n_classes, weights, moments)


def _held_out(fit: Fit, task: Task, fold: npt.NDArray[np.int64], folds: Sequence[int]) -> Floats:
    """Return the scores of each row, (n, k), by the model that was fitted without its fold."""
    W, offset = fit.on_rows(task.moments)
    scores = np.zeros((len(fold), task.n_classes))
    for i, f in enumerate(folds):
        out = np.flatnonzero(fold == f)
        scores[out] = two_sided((task.rows.sources[0][out] @ W[i].T).astype(np.float64) + offset[i])
    return scores


def _scale(scores: Floats, y: npt.NDArray[np.intp], weights: Floats | None) -> float:
    """Return the factor of `fit_scale`; 1 where the scores say nothing."""
    return fit_scale(scores, y, weights) if np.ptp(scores, axis=1).max() > 1e-12 else 1.0
