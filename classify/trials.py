"""Every setting of a head tried on what is held out: whole paths at once where the head has one, else fit by fit."""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from classify.closed_form import ridge_left_out
from classify.folds import Design
from classify.head import Array, Floats, Head, SharingHead, two_sided
from classify.linear import PathHead, RidgeHead
from classify.paths import Fit, Task
from classify.rows import Moments, Rows, Single
from classify.solver import OnStep, Stopping
from data.cores import available_cores
from data.errors import HeadError
from data.store import Samples
from data.terminal import size

# Two pictures give every column a deviation, but not one to divide by: each then becomes plus or minus one. So the
# columns' mean variance counts as ten pictures in the variance of each (Efron and Morris 1973, Journal of the American
# Statistical Association 68, on shrinking many estimates of one kind towards their mean).
_PRIOR = 10.0

# Scores of all settings that are kept to fit probabilities on, at most: 64 MB of float64, of which fitting takes four.
_KEPT_SCORES = 1 << 23
# To rank settings less precision will do than for the head that is kept. On Caltech-101's path from 1e-6 to 1e5 the
# objectives are within 1e-3 up to C = 1 and 1e-2 beyond, in 507 steps instead of 869.
_LOOSER = 10.0


@dataclasses.dataclass(frozen=True)
class Scaler:
    """Column means and deviations of some vectors, (d,) float32 each; constant columns divide by one."""

    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, *sources: Array, prior: float = 0.0) -> "Scaler":
        """Measure the columns of one or several arrays, (n, d); for `prior` see `classify.rows.Moments.of`."""
        moments = Moments.of(Rows(sources), prior=prior)
        return cls(moments.mean[0].astype(np.float32), moments.scale[0].astype(np.float32))

    @classmethod
    def of_training(cls, *sources: Array) -> "Scaler":
        """Measure what a head is trained on: of few pictures, deviations lean on those of all columns."""
        return cls.fit(*sources, prior=_PRIOR)

    def transform(self, X: Array) -> Single:
        """Return X, (n, d), with zero mean and unit deviation of the training columns."""
        return (X[:].astype(np.float32, copy=False) - self.mean) / self.scale

    def moments(self) -> Moments:
        """Return the same as the moments of one fold."""
        return Moments(self.mean[None].astype(np.float64), self.scale[None].astype(np.float64))


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting on what was held out.

    Parameters
    ----------
    correct : ndarray of shape (m,), bool
        Which of the held-out pictures it got right.
    scores : ndarray of shape (m_kept, k)
        Its scores for `kept_rows` of them.
    gap : float
        How far its objective may be above the optimum, relatively; zero where there is none.
    start : ndarray of shape (k, d + 1), float32, or None
        Where the fit on all rows may start.
    """

    correct: npt.NDArray[np.bool_]
    scores: Floats
    gap: float
    start: Single | None = None


def kept_rows(design: Design, n_settings: int) -> slice:
    """Return of which held-out pictures the scores are kept: all, or of very many every so many."""
    values = len(design.held_out) * len(design.samples.classes) * n_settings
    return slice(None, None, max(1, -(-values // _KEPT_SCORES)))


def trials(
    heads: Sequence[Head],
    design: Design,
    class_weights: Floats | None,
    *,
    kept: slice,
    block: int,
    report: Callable[[int], None],
    on_step: OnStep | None = None,
) -> list[Trial]:
    """Try heads that differ in their settings.

    Parameters
    ----------
    heads : sequence of Head
        Not fitted.
    design : Design
        What trains and what is held out.
    class_weights : ndarray of shape (k,), or None
        How much a picture of each class counts; heads that know class weights by name get them so.
    kept : slice
        Of which held-out pictures to keep the scores.
    block : int
        Most values of one block of rows, where rows are read in blocks.
    report : callable
        Told how many fits are done.
    on_step : callable, optional
        Told the number of each step of a path's solver, and the largest relative gap.
    """
    if has_path(heads):
        return _along_path(heads, design, class_weights, kept, block, report, on_step)
    return _one_by_one(heads, design, kept, report)


def has_path(heads: Sequence[Head]) -> bool:
    """Whether the heads can be fitted as one path, which reads the rows in blocks."""
    first = heads[0]
    if not isinstance(first, PathHead) or getattr(first, "solver", "penult") != "penult":
        return False
    return len({str({**head.get_params(), first.along: None}) for head in heads}) == 1


def for_ranking(own: Stopping, on_step: OnStep | None = None) -> Stopping:
    """Return when the solver stops where settings are to be ranked, and the head is fitted by `own` afterwards."""
    return dataclasses.replace(own, tolerance=own.tolerance * _LOOSER, stall=own.stall * 2 * _LOOSER, on_step=on_step)


def task_of(design: Design, class_weights: Floats | None, moments: Moments | None, block: int) -> Task:
    """Return what is to be learnt in every fold, or on all training rows where `moments` of those are given."""
    samples = design.samples
    rows = Rows([samples.X, *samples.others], block)
    y = np.tile(samples.y, len(rows.sources))
    masks = None if moments is not None else design.masks()
    weights = masks
    if class_weights is not None:
        of_row = class_weights[y].astype(np.float32)[:, None]
        weights = of_row if masks is None else of_row * masks
    return Task(rows, y, len(samples.classes), weights, moments or Moments.of(rows, masks, _PRIOR))


def left_out(
    heads: Sequence[RidgeHead],
    samples: Samples,
    class_weights: Floats | None,
    kept: slice,
    report: Callable[[int], None],
) -> list[Trial]:
    """Try ridge's penalties by leaving out each picture in turn, with its copies and views."""
    scaler = Scaler.of_training(samples.X, *samples.others)
    X = np.concatenate([scaler.transform(view) for view in (samples.X, *samples.others)]).astype(np.float64)
    _, content = np.unique(samples.digests, return_inverse=True)
    views = 1 + len(samples.others)
    task = Task(Rows([X]), samples.y, len(samples.classes), None, scaler.moments())
    weights = np.ones(len(samples)) if class_weights is None else class_weights[samples.y]
    answers = ridge_left_out(
        X,
        np.tile(task.signs().astype(np.float64), (views, 1)),
        np.tile(weights, views),
        np.tile(content.astype(np.int64), views),
        [head.alpha for head in heads],
    )
    scores = [two_sided(answer[: len(samples)]) for answer in answers]
    report(len(heads))
    return [Trial(s.argmax(axis=1) == samples.y, s[kept], 0.0) for s in scores]


def _along_path(
    heads: Sequence[Head],
    design: Design,
    class_weights: Floats | None,
    kept: slice,
    block: int,
    report: Callable[[int], None],
    on_step: OnStep | None,
) -> list[Trial]:
    first = heads[0]
    assert isinstance(first, PathHead)
    for head in heads:
        if isinstance(head, PathHead):
            head.check()
    task = task_of(design, class_weights, None, block)
    values = [getattr(head, first.along) for head in heads]
    ranking = for_ranking(first.stopping(), on_step)
    of_value: dict[Any, Trial] = {}
    for fit in first.path(task, list(dict.fromkeys(values)), ranking):
        of_value[fit.value] = _measured(fit, task.moments, design, block, kept)
        report(len(of_value) * design.n_folds)
    return [of_value[value] for value in values]


def _measured(fit: Fit, moments: Moments, design: Design, block: int, kept: slice) -> Trial:
    measured = design.val or design.samples
    measured_rows, moments = Rows([measured.X], block).about(moments)
    W, offset = fit.on_rows(moments)
    m, k = len(design.held_out), len(design.samples.classes)
    correct = np.empty(m, dtype=bool)
    steps = kept.step or 1
    scores = np.empty((-(-m // steps), k))
    done = 0  # of what is held out, whose rows ascend
    for start, X in measured_rows.blocks(W.shape[1]):
        here = slice(done, done + int(np.searchsorted(design.held_out[done:], start + len(X))))
        rows, folds = design.held_out[here] - start, design.fold_of[here]
        of_block = np.empty((len(rows), k))
        for f in np.unique(folds):
            mine = folds == f
            of_block[mine] = two_sided((X[rows[mine]] @ W[f].T).astype(np.float64) + offset[f])
        correct[here] = of_block.argmax(axis=1) == design.truth[here]
        first = -here.start % steps
        scores[(here.start + first) // steps :][: len(of_block[first::steps])] = of_block[first::steps]
        done = here.stop
    return Trial(correct, scores, fit.gap, fit.start)


def _one_by_one(heads: Sequence[Head], design: Design, kept: slice, report: Callable[[int], None]) -> list[Trial]:
    from joblib import Parallel, delayed

    n_classes = len(design.samples.classes)
    groups = _groups(heads, int(design.samples.X.shape[1]))
    threads = min(available_cores(), 8, len(groups)) if heads[0].thread_safe else 1
    m, steps = len(design.held_out), kept.step or 1
    correct = [np.empty(m, dtype=bool) for _ in heads]
    scores = [np.empty((-(-m // steps), n_classes)) for _ in heads]
    measured = design.val or design.samples
    numbers = itertools.count(1)

    def tell() -> None:
        report(next(numbers))

    # groups run beside each other, so BLAS must not start threads of its own for each
    with threadpool_limits(1 if threads > 1 else None, user_api="blas"):
        for fold in range(design.n_folds):
            X, y = design.samples.training(design.inside(fold))
            scaler = Scaler.of_training(X)
            out = np.flatnonzero(design.fold_of == fold)
            mine = np.flatnonzero(out % steps == 0)  # whose scores are kept
            X, X_out = scaler.transform(X), scaler.transform(measured.X[design.held_out[out]])
            jobs = (delayed(_fit_and_score)([heads[i] for i in g], X, y, X_out, tell) for g in groups)
            ready = Parallel(n_jobs=threads, prefer="threads", return_as="generator")(jobs)
            for group, found in zip(groups, ready, strict=True):
                for i, of_head in zip(group, found, strict=True):
                    correct[i][out] = of_head.argmax(axis=1) == design.truth[out]
                    scores[i][out[mine] // steps] = of_head[mine]
    return [Trial(right, some, 0.0) for right, some in zip(correct, scores, strict=True)]


def _groups(heads: Sequence[Head], d: int) -> list[list[int]]:
    """Return which heads are fitted together: those that share, else each alone."""
    of_key: dict[Hashable, list[int]] = {}
    for i, head in enumerate(heads):
        of_key.setdefault(head.shared(d) if isinstance(head, SharingHead) else i, []).append(i)
    return list(of_key.values())


def _fit_and_score(heads: list[Head], X: Array, y: Array, X_out: Array, tell: Callable[[], None]) -> list[Floats]:
    found = []
    first = heads[0]
    fitted = first.fit_together(heads, X, y) if isinstance(first, SharingHead) else (head.fit(X, y) for head in heads)
    for head in fitted:
        found.append(head.scores(X_out))
        tell()
    return found


def refuse_larger(nbytes: int, memory: int | None, kind: str) -> None:
    """Raise where a head that wants all vectors in memory would get more than it may use.

    Raises
    ------
    HeadError
        With what to do instead.
    """
    if memory is not None and nbytes > memory:
        raise HeadError(
            f"{kind} wants all vectors in memory, {size(nbytes)} with its copies, and --memory allows {size(memory)}: "
            "choose lr, svm, ridge or lda by cross-validation, which read in chunks, or allow more"
        )
