"""Training a head honestly: standardisation, the choice of regularisation, calibration; test is never seen."""

import dataclasses
import itertools
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from classify.calibration import fit_scale, log_loss
from classify.head import Array, Floats, Head, softmax
from classify.heads import GIVEN, HEADS, given_by
from data.errors import HeadError
from data.store import Samples

TUNE = ("cv", "val", "none")
_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Scaler:
    """Column means and deviations of the training vectors, (d,) float32 each; constant columns divide by one."""

    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, X: Array) -> "Scaler":
        """Measure the columns of X, (n, d)."""
        mean = X.mean(axis=0, dtype=np.float64)
        scale = X.std(axis=0, dtype=np.float64)
        scale[scale < 1e-7 * np.maximum(np.abs(mean), 1e-30)] = 1.0
        scale[scale == 0] = 1.0
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def transform(self, X: Array) -> npt.NDArray[np.float32]:
        """Return X, (n, d), with zero mean and unit deviation of the training columns."""
        return (X.astype(np.float32, copy=False) - self.mean) / self.scale


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One setting that was tried: its parameters, and its accuracy and log-loss on held-out pictures."""

    params: dict[str, Any]
    accuracy: float
    log_loss: float


@dataclasses.dataclass(frozen=True)
class Training:
    """A trained head and how it came about.

    Parameters
    ----------
    kind : str
        Key of `classify.heads.HEADS`.
    head : Head
        Fitted on the standardised training vectors.
    scaler : Scaler
        The standardisation.
    params : dict
        The chosen parameters.
    candidates : list of Candidate
        Everything that was tried; empty where no picture could be held out to try it on.
    cv_accuracy : float or None
        Accuracy over all held-out folds at the chosen parameters, the highest of all settings and so a little
        optimistic; balanced accuracy where classes weigh the same; None where val chose.
    tuned_on : str
        ``cv``, ``val`` or ``none``.
    folds, seed : int
        Of the cross-validation.
    seconds : float
        Wall time.
    notes : list of str
        What a user would want to know.
    """

    kind: str
    head: Head
    scaler: Scaler
    params: dict[str, Any]
    candidates: list[Candidate]
    cv_accuracy: float | None
    tuned_on: str
    folds: int
    seed: int
    seconds: float
    notes: list[str]


def train(
    kind: str,
    samples: Samples,
    *,
    tune: str = "cv",
    val: Samples | None = None,
    params: dict[str, Any] | None = None,
    class_weight: str | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Training:
    """Train a head on a split, with its regularisation chosen by cross-validation on that split alone.

    Of equal accuracies the lower log-loss wins, and of equal log-losses the stronger regularisation. The
    scores get a factor, fitted on the held-out scores of the chosen setting, that turns them into probabilities: it
    makes scores of an SVM probabilities at all, and those of a strongly regularised model less timid.

    Parameters
    ----------
    kind : str
        Key of `HEADS`.
    samples : Samples
        The training pictures, in every view that they come in; those without a label are left out. Held-out
        pictures are measured in their first view alone.
    tune : str
        ``cv``: five stratified folds; ``val``: train on `samples` and choose on `val`; ``none``: the head's
        default parameters, with the folds only to measure them.
    val : Samples, optional
        For ``val``.
    params : dict, optional
        Parameters to set rather than choose.
    class_weight : str, optional
        ``balanced``: each class weighs the same whatever its size.
    seed : int
        Of the folds and of the head's own randomness.
    on_progress : callable, optional
        Called with the number of fits done and in all.

    Returns
    -------
    Training

    Raises
    ------
    HeadError
        If a class has no training picture, there is only one class, or a parameter is unknown.
    """
    start = time.perf_counter()
    samples = samples.labelled()
    _check_classes(samples)
    fixed = dict(params or {})
    grid = _grid(kind, fixed, tune)
    outsides = _outsides(samples, tune, val, seed)
    if not outsides:  # one picture of each class: nothing can be held out
        grid = _grid(kind, fixed, "none")
    given = given_by(samples, kind)
    made = [lambda p=p: HEADS[kind](**p, **given, class_weight=class_weight, random_state=seed) for p in grid]
    total = len(outsides) * len(grid) + 1
    report = on_progress or (lambda done, total: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the final head's `converged_` is reported instead
        # of lda, where a class has one picture, which then adds nothing to the covariance
        warnings.filterwarnings("ignore", message="Only one sample available", category=UserWarning)
        outputs, truth = _held_out_scores(samples, outsides, made, lambda done: report(done, total))
        candidates, scales = _judge(grid, outputs, truth, class_weight == "balanced")
        best = min(
            range(len(candidates)), key=lambda i: (-candidates[i].accuracy, candidates[i].log_loss, i), default=0
        )
        X, y = samples.training()
        scaler = Scaler.fit(X)
        head = made[best]().fit(scaler.transform(X), y)
    head.scale_ = scales[best] if scales else 1.0
    notes = [] if head.converged_ else [f"the solver of {kind} stopped before it had converged"]
    if len(grid) > 1 and best == len(grid) - 1:
        setting = ", ".join(f"{k} = {v}" for k, v in grid[best].items())
        notes.append(f"the weakest regularisation that was tried won ({setting}); --param sets one beyond it")
    report(total, total)
    return Training(
        kind=kind,
        head=head,
        scaler=scaler,
        params=grid[best],
        candidates=candidates,
        cv_accuracy=candidates[best].accuracy if candidates and tune != "val" else None,
        tuned_on=tune,
        folds=0 if tune == "val" else len(outsides),
        seed=seed,
        seconds=time.perf_counter() - start,
        notes=notes,
    )


@dataclasses.dataclass(frozen=True)
class _Outside:
    """Training rows of a fold, and what is held out from them: other rows, or the val split."""

    inside: Array
    X: Callable[[], Array]
    y: Array


def _outsides(samples: Samples, tune: str, val: Samples | None, seed: int) -> list[_Outside]:
    y = samples.y
    if tune == "val":
        val = val.labelled() if val is not None else None
        if val is None or not len(val):
            raise HeadError("--tune val needs labelled pictures in a split named val: use --tune cv")
        held = val.X
        return [_Outside(np.arange(len(y)), lambda: held, val.y)]
    folds = stratified_folds(y, samples.digests, _FOLDS, seed)
    held_out = []
    for f in range(int(folds.max(initial=-1)) + 1):
        inside, out = np.flatnonzero(folds != f), np.flatnonzero(folds == f)
        if len(np.unique(y[inside])) > 1:  # else, in tiny sets with copies, there is nothing to learn
            held_out.append(_Outside(inside, lambda out=out: samples.X[out], y[out]))  # type: ignore[misc]
    return held_out


def _held_out_scores(
    samples: Samples, outsides: list[_Outside], made: Sequence[Callable[[], Head]], report: Callable[[int], None]
) -> tuple[list[list[Floats]], npt.NDArray[np.int32]]:
    """Fit every candidate on every fold; return its scores for what was held out, and the truth."""
    n_classes = len(samples.classes)
    threads = min(os.cpu_count() or 1, 8) if made[0]().thread_safe else 1
    outputs: list[list[Floats]] = [[] for _ in made]
    done = 0
    # candidates run beside each other, so BLAS must not start threads of its own for each
    with threadpool_limits(1, user_api="blas"):
        for outside in outsides:
            rows, y = samples.training(outside.inside)
            scaler = Scaler.fit(rows)
            X, X_out = scaler.transform(rows), scaler.transform(outside.X())
            jobs = (delayed(_fit_and_score)(make(), X, y, X_out, n_classes) for make in made)
            for i, scores in enumerate(Parallel(n_jobs=threads, prefer="threads")(jobs)):
                outputs[i].append(scores)
                done += 1
                report(done)
    truth = np.concatenate([np.empty(0, dtype=np.int32), *(outside.y for outside in outsides)])
    return outputs, truth


def _fit_and_score(head: Any, X: Array, y: Array, X_out: Array, n_classes: int) -> Floats:
    scores: Floats = head.fit(X, y).scores(X_out)
    if scores.shape[1] == n_classes:
        return scores
    # a class whose every picture is held out, being a copy of another class's: last in every row
    full = np.repeat(scores.min(axis=1, keepdims=True) - 1, n_classes, axis=1)
    full[:, head.classes_] = scores
    return full


def _judge(
    grid: list[dict[str, Any]], outputs: list[list[Floats]], truth: Array, balanced: bool
) -> tuple[list[Candidate], list[float]]:
    """Return each setting's accuracy (`balanced` or not) and log-loss on what was held out, and its scores' factor."""
    if not len(truth):
        return [], []
    candidates, scales = [], []
    for params, parts in zip(grid, outputs, strict=True):
        scores = np.concatenate(parts)
        scale = fit_scale(scores, truth)
        correct = scores.argmax(axis=1) == truth
        accuracy = float(
            np.mean([correct[truth == t].mean() for t in np.unique(truth)]) if balanced else correct.mean()
        )
        candidates.append(Candidate(params, accuracy, log_loss(softmax(scale * scores), truth)))
        scales.append(scale)
    return candidates, scales


def stratified_folds(y: Array, digests: Array, n_folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Deal the pictures of each class over folds; copies of one content go to one fold.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Labels.
    digests : ndarray of shape (n,)
        Contents.
    n_folds : int
        At most; a class's distinct contents limit it for no other class.
    seed : int
        Of the shuffle.

    Returns
    -------
    ndarray of shape (n,), int64
        Fold of each picture; -1 for the only content of its class, which always trains.
    """
    rng = np.random.default_rng(seed)
    fold = np.full(len(y), -1, dtype=np.int64)
    _, content = np.unique(digests, return_inverse=True)
    fold_of: dict[int, int] = {}
    offset = 0
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        contents = [int(c) for c in rng.permutation(np.unique(content[rows])) if int(c) not in fold_of]
        if len(contents) > 1:
            for i, c in enumerate(contents):
                fold_of[c] = (offset + i) % n_folds
            offset += len(contents)  # so that small classes do not all fall into the first folds
    for row, c in enumerate(content.tolist()):
        fold[row] = fold_of.get(c, -1)
    used = np.unique(fold[fold >= 0])
    return np.where(fold >= 0, np.searchsorted(used, fold), -1)


def _grid(kind: str, fixed: dict[str, Any], tune: str) -> list[dict[str, Any]]:
    if kind not in HEADS:
        raise HeadError(f"no head {kind!r}: choose one of {', '.join(HEADS)}")
    if tune not in TUNE:
        raise HeadError(f"no way to tune {tune!r}: choose one of {', '.join(TUNE)}")
    known = HEADS[kind]().get_params()
    for name in fixed:
        if name not in known or name in GIVEN:
            names = ", ".join(k for k in known if k not in GIVEN) or "none"
            raise HeadError(f"head {kind} has no parameter {name!r}, only: {names}")
    free = {name: values for name, values in HEADS[kind].grid.items() if name not in fixed}
    if tune == "none" or not free:
        return [{**fixed, **{name: known[name] for name in free}}]
    return [{**fixed, **dict(zip(free, values, strict=True))} for values in itertools.product(*free.values())]


def _check_classes(samples: Samples) -> None:
    where = f"split {samples.split!r}" if samples.split else "the image set"
    if not len(samples):
        raise HeadError(
            f"no picture of {where} has a label: give each class a folder, or a label column in the manifest"
        )
    if len(samples.classes) < 2:
        raise HeadError(
            f"the image set {samples.dataset!r} has one class ({samples.classes[0]}): a head needs at least two"
        )
    absent = [samples.classes[i] for i in sorted(set(range(len(samples.classes))) - set(samples.y.tolist()))]
    if absent:
        raise HeadError(
            f"{where} has no picture of {', '.join(map(repr, absent[:5]))}{' and more' if len(absent) > 5 else ''}: "
            "add some, take the class out of the other splits too, or split anew with `extract ... --test-fraction 0.2`"
        )
