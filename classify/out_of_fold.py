"""Probabilities for every picture from a head that has not seen it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from classify.calibration import fit_scale
from classify.duplicates import Indices
from classify.folds import Design
from classify.head import Floats, softmax
from classify.heads import HEADS
from classify.linear import unwarned
from classify.rows import BLOCK
from classify.selection import train
from classify.trials import trials
from data.errors import HeadError
from data.store import Samples
from data.views import Digests


def out_of_fold(
    samples: Samples,
    kind: str = "lr",
    *,
    folds: int = 5,
    seed: int = 0,
    params: dict[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Floats:
    """Return each picture's probabilities by a head that was trained on the other folds.

    Copies of a content go to one fold; `kept_together` makes groups of near duplicates count as one content.

    Parameters
    ----------
    samples : Samples
        Labelled pictures of at least two classes, every class of which occurs.
    kind : str
        Key of `classify.heads.HEADS`.
    folds : int
        At most; at least two.
    seed : int
        Of the folds and of the head.
    params : dict, optional
        Parameters of the head; without them cross-validation chooses them on all of `samples`, once.
    on_progress : callable, optional
        Called with the number of fits done and in all.

    Returns
    -------
    ndarray of shape (n, k), float64
        Rows sum to one, calibrated by one temperature for all. A picture that cannot be held out, being the only
        content of its class, has a row of NaN.

    Raises
    ------
    HeadError
        If there are fewer than two folds or classes, or a class does not occur.
    """
    if folds < 2:
        raise HeadError(f"pictures are held out in at least 2 folds, got {folds}")
    report = on_progress or (lambda done, total: None)
    if params is None:
        params = train(kind, samples, seed=seed, on_progress=on_progress).params
    design = Design.cross_validation(samples, folds, seed)
    probabilities = np.full((len(samples), len(samples.classes)), np.nan)
    if design.n_folds:
        head = HEADS[kind](**params, random_state=seed)
        with unwarned(head):  # an answer from a solver that stopped early still says which labels look odd
            (trial,) = trials(
                [head],
                design,
                None,
                kept=slice(None),
                block=BLOCK,
                report=lambda done: report(done, design.n_folds),
            )
        probabilities[design.held_out] = softmax(fit_scale(trial.scores, design.truth) * trial.scores)
    return probabilities


def kept_together(samples: Samples, group: Indices) -> Samples:
    """Return the samples with one digest for each group, so that no group straddles a fold.

    Parameters
    ----------
    samples : Samples
    group : ndarray of shape (n,), int64
        Pictures of one number belong together.
    """
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    digests: Digests = samples.digests[first][inverse]
    return dataclasses.replace(samples, digests=digests)
