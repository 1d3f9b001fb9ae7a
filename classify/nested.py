"""What a head is worth together with the choice of its setting: cross-validation around the cross-validation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from classify.folds import Design
from classify.training import Training
from data.store import Samples

FOLDS = 5
# Rows that are asked about at once, since all of a fold may not fit into memory.
_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Nested:
    """Accuracy on pictures that had no part in choosing the setting.

    Parameters
    ----------
    accuracy : float
        Over all outer folds.
    right, n : int
        Pictures that were right, and in all.
    folds : list of dict
        ``params``, ``accuracy`` and ``n`` of each outer fold.
    """

    accuracy: float
    right: int
    n: int
    folds: list[dict[str, Any]]


def nested(
    train_on: Callable[[Samples], Training],
    samples: Samples,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Nested:
    """Choose and train anew in each of five outer folds, and measure on what the fold holds out.

    The accuracy that chose a setting is the highest of several and so a little optimistic; this one is not (Varma and
    Simon 2006, Bias in error estimation when using cross-validation for model selection).

    Parameters
    ----------
    train_on : callable
        Trains on some samples, with all its choices.
    samples : Samples
        The training pictures.
    seed : int
        Of the outer folds.
    on_progress : callable, optional
        Called with the number of outer folds done and in all.

    Raises
    ------
    HeadError
        If a fold lacks a class.
    """
    samples = samples.labelled()
    design = Design.cross_validation(samples, FOLDS, seed)
    folds, right, n = [], 0, 0
    for f in range(design.n_folds):
        training = train_on(samples.take(design.inside(f)))
        out = np.flatnonzero(design.fold == f)
        answers = np.concatenate(
            [
                training.head.predict(training.scaler.transform(samples.X[out[a : a + _AT_ONCE]]))
                for a in range(0, len(out), _AT_ONCE)
            ]
        )
        correct = int((answers == samples.y[out]).sum())
        right, n = right + correct, n + len(out)
        folds.append({"params": training.params, "accuracy": correct / len(out), "n": len(out)})
        if on_progress is not None:
            on_progress(f + 1, design.n_folds)
    return Nested(right / max(n, 1), right, n, folds)
