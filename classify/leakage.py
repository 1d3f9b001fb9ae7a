"""What copies across two splits do to the accuracy, and whether the splits differ."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.duplicates import Indices
from classify.oddities import auc_interval
from classify.out_of_fold import kept_together, out_of_fold
from classify.statistics import Interval, wilson_interval
from classify.training import Training
from data.store import Samples

_SHIFT_PICTURES = 10_000  # as many say whether two splits differ
_FEWEST = 10  # pictures of a split, below which the splits are not compared

Mask = npt.NDArray[np.bool_]


def accuracy_with_and_without(training: Training, test: Samples, copied: Mask) -> dict[str, Any]:
    """Measure a head on all test pictures and on those without a copy in its training set.

    Parameters
    ----------
    training : Training
        Of the head.
    test : Samples
        Labelled pictures.
    copied : ndarray of shape (n,), bool
        Which of them have a copy, exact or near, among the training pictures.

    Returns
    -------
    dict
        ``n, copied, accuracy, accuracy_without, difference`` and their ``_ci95``; null where nothing is left.
    """
    right = training.head.predict(training.scaler.transform(test.X)) == test.y
    n, clean = len(right), int((~copied).sum())
    difference, interval = _difference(right, copied)
    return {
        "n": n,
        "copied": n - clean,
        "accuracy": float(right.mean()),
        "accuracy_ci95": wilson_interval(int(right.sum()), n),
        "accuracy_without": float(right[~copied].mean()) if clean else None,
        "accuracy_without_ci95": wilson_interval(int(right[~copied].sum()), clean) if clean else None,
        "difference": difference,
        "difference_ci95": interval,
    }


def tell_splits_apart(
    samples: Samples,
    sides: tuple[Mask, Mask],
    group: Indices,
    *,
    folds: int = 5,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any] | None:
    """Let a logistic regression tell which split a picture is from, out of fold.

    Pictures with a copy on the other side are left out; labels play no part. After a random split nothing can be told
    and the AUC is 0.5.

    Parameters
    ----------
    samples : Samples
        All pictures.
    sides : tuple of ndarray of shape (n,), bool
        Which pictures are of the one split and of the other.
    group : ndarray of shape (n,), int64
        Copies have one number.

    Returns
    -------
    dict or None
        ``auc, auc_ci95, differ`` (whether the interval lies above 0.5); None where a side has fewer than 10 pictures.
    """
    shared = np.intersect1d(group[sides[0]], group[sides[1]])
    rows = np.flatnonzero((sides[0] | sides[1]) & ~np.isin(group, shared))
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:_SHIFT_PICTURES])
    is_test = sides[1][rows]
    if min(is_test.sum(), (~is_test).sum()) < _FEWEST:
        return None
    task = kept_together(samples, group).take(rows)
    task = dataclasses.replace(task, y=is_test.astype(np.int32), classes=["one", "other"])
    p = out_of_fold(task, "lr", folds=folds, seed=seed, params={}, on_progress=on_progress)
    held = ~np.isnan(p[:, 0])
    auc, interval = auc_interval(p[held, 1], is_test[held])
    return {"auc": auc, "auc_ci95": interval, "differ": interval[0] > 0.5}


def _difference(right: Mask, copied: Mask) -> tuple[float | None, Interval | None]:
    """Return accuracy on all less that without copies, and its interval.

    All are a mixture of copied and clean, so the difference is the share of the copied times (accuracy on the copied
    less accuracy on the clean), which are independent: Newcombe's interval of two proportions (1998, method 10).
    """
    n, m = len(right), int(copied.sum())
    if m == n:
        return None, None
    if not m:
        return 0.0, (0.0, 0.0)
    a, b = float(right[copied].mean()), float(right[~copied].mean())
    a_low, a_high = wilson_interval(int(right[copied].sum()), m)
    b_low, b_high = wilson_interval(int(right[~copied].sum()), n - m)
    low = a - b - float(np.hypot(a - a_low, b_high - b))
    high = a - b + float(np.hypot(a_high - a, b - b_low))
    share = m / n
    return share * (a - b), (share * low, share * high)
