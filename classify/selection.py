"""Training a head honestly: the choice of regularisation, standardisation, calibration; test is never seen."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.calibration import METHODS, Calibration, calibrate, fit_scale, log_loss
from classify.folds import Design
from classify.head import Array, Floats, Head, softmax
from classify.heads import GIVEN, HEADS, given_by
from classify.linear import PathHead, RidgeHead, unwarned
from classify.rows import Single
from classify.solver import OnStep
from classify.training import Candidate, Training, best_of, within_one_standard_error
from classify.trials import Scaler, Trial, has_path, kept_rows, left_out, refuse_larger, task_of, trials
from data.errors import HeadError
from data.store import Samples

TUNE = ("cv", "val", "loo", "none")
RULES = ("best", "one-se")
_FOLDS = 5
_MEMORY = 1 << 30


def train(
    kind: str,
    samples: Samples,
    *,
    tune: str = "cv",
    val: Samples | None = None,
    params: dict[str, Any] | None = None,
    grid: Sequence[Any] | None = None,
    rule: str = "best",
    class_weight: str | None = None,
    calibration: str = "temperature",
    seed: int = 0,
    memory: int | None = None,
    measure: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
    on_step: OnStep | None = None,
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
        ``cv``: five stratified folds; ``val``: train on `samples` and choose on `val`; ``loo``: each picture left out
        in turn, in closed form (`ridge`); ``none``: the head's default parameters, with the folds only to measure them.
    val : Samples, optional
        For ``val``.
    params : dict, optional
        Parameters to set rather than choose.
    grid : sequence, optional
        The values to try of the parameter that is chosen, from the strongest regularisation to the weakest; by
        default the head's own.
    rule : str
        ``best``; or ``one-se``: the strongest regularisation whose accuracy is within one standard error of the best
        (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3).
    class_weight : str, optional
        ``balanced``: each class weighs the same whatever its size.
    calibration : str
        See `classify.calibration.calibrate`.
    seed : int
        Of the folds and of the head's own randomness.
    memory : int, optional
        Bytes that may be used; vectors that lie in the store are then read in blocks, by the heads that can.
    measure : bool
        Without it nothing is held out where there is nothing to choose: one fit instead of six, scores taken for
        probabilities as they are, and `cv_accuracy` None.
    on_progress : callable, optional
        Called with the number of fits done and in all.
    on_step : callable, optional
        Called with the number of each step of our solvers, and the largest relative gap.

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
    _check_choice(tune, rule, calibration)
    settings = settings_of(kind, dict(params or {}), tune, grid)
    design = _design(samples, tune, val, seed)
    if not design.n_folds:  # one picture of each class: nothing can be held out
        settings = settings_of(kind, dict(params or {}), "none", grid)
    elif len(settings) == 1 and not measure:
        design = dataclasses.replace(design, fold=np.full(len(samples), -1), val=None)
    given = {**given_by(samples, kind), "class_weight": class_weight, "random_state": seed}
    heads = [HEADS[kind](**setting, **given) for setting in settings]
    _refuse_memory(kind, heads, design, tune, memory)
    total = len(settings) * max(design.n_folds, 1) + 1
    report = on_progress or (lambda done, total: None)
    effort = _Effort((memory or _MEMORY) // 32, lambda done: report(done, total), on_step)
    class_weights, kept = _class_weights(samples, class_weight), kept_rows(design, len(heads))
    with unwarned(heads[0]):  # the final head's `converged_` is reported instead
        tried = _tried(kind, heads, design, class_weights, kept, tune, effort)
        candidates = _judge(settings, tried, design, kept, class_weight == "balanced")
        best = _choose(candidates, design, rule)
        head = HEADS[kind](**settings[best], **given)
        scaler = _fit(head, has_path(heads), design, class_weights, tried[best].start if tried else None, effort)
    calibrated = _calibrated(tried, best, design, kept, calibration)
    head.scale_, head.bias_ = calibrated.scale, calibrated.bias
    report(total, total)
    return Training(
        kind=kind,
        head=head,
        scaler=scaler,
        params=settings[best],
        candidates=candidates,
        cv_accuracy=candidates[best].accuracy if candidates and tune != "val" else None,
        tuned_on=tune,
        folds=0 if tune in ("val", "loo") else design.n_folds,
        seed=seed,
        seconds=time.perf_counter() - start,
        notes=_notes(kind, head, settings, best),
        rule=rule,
        gap=getattr(head, "gap_", None),
        calibration=calibrated,
    )


@dataclasses.dataclass(frozen=True)
class _Effort:
    """Most float32 values of a block of rows, an eighth of the memory; who is told of fits done, and of steps."""

    block: int
    report: Callable[[int], None]
    on_step: OnStep | None


def _check_choice(tune: str, rule: str, calibration: str) -> None:
    if rule not in RULES:
        raise HeadError(f"no rule {rule!r}: choose one of {', '.join(RULES)}")
    if rule == "one-se" and tune != "cv":
        raise HeadError(f"the one-standard-error rule goes by the deviation between folds: use --tune cv, not {tune}")
    if calibration not in METHODS:
        raise HeadError(f"no way to calibrate {calibration!r}: choose one of {', '.join(METHODS)}")


def _design(samples: Samples, tune: str, val: Samples | None, seed: int) -> Design:
    if tune == "val":
        return Design.validation(samples, val)
    return Design.leave_one_out(samples) if tune == "loo" else Design.cross_validation(samples, _FOLDS, seed)


def _refuse_memory(kind: str, heads: list[Head], design: Design, tune: str, memory: int | None) -> None:
    samples, val = design.samples, design.val
    columns = samples.X.shape[1]
    values = (1 + len(samples.others)) * len(samples) * columns
    if tune == "loo":
        refuse_larger(8 * 4 * values, memory, f"{kind} with --tune loo")  # float64: rows, centred, turned, a temporary
    elif not has_path(heads):
        measured = 0 if val is None else len(val) * columns
        # float32: rows, those of a fold, standardised; and what is held out, as it is and standardised
        refuse_larger(4 * (3 * values + 2 * measured), memory, kind)


def _tried(
    kind: str,
    heads: list[Head],
    design: Design,
    class_weights: Floats | None,
    kept: slice,
    tune: str,
    effort: _Effort,
) -> list[Trial]:
    """Return what each head did on what was held out; nothing where nothing could be."""
    if tune == "loo":
        return left_out(_ridges(heads, kind), design.samples, class_weights, kept, effort.report)
    if not design.n_folds:
        return []
    return trials(
        heads, design, class_weights, kept=kept, block=effort.block, report=effort.report, on_step=effort.on_step
    )


def _fit(
    head: Head, in_blocks: bool, design: Design, class_weights: Floats | None, near: Single | None, effort: _Effort
) -> Scaler:
    """Fit a head on all of the training pictures, one with a path near a solution; return their scaler."""
    samples = design.samples
    scaler = Scaler.of_training(samples.X, *samples.others)
    if in_blocks and isinstance(head, PathHead):
        task = task_of(design, class_weights, scaler.moments(), effort.block)
        head.fit_task(task, start=near, on_step=effort.on_step)
    else:
        X, y = samples.training()
        head.fit(scaler.transform(X), y)
    return scaler


def _ridges(heads: list[Head], kind: str) -> list[RidgeHead]:
    ridges = [head for head in heads if isinstance(head, RidgeHead)]
    if len(ridges) < len(heads):
        raise HeadError(f"--tune loo is for ridge, which has it in closed form: use --tune cv for {kind}")
    for ridge in ridges:
        ridge.check()
    return ridges


def _judge(
    settings: list[dict[str, Any]], tried: list[Trial], design: Design, kept: slice, balanced: bool
) -> list[Candidate]:
    """Return what each setting did on what was held out, `balanced` or not; the log-loss after temperature scaling."""
    candidates = []
    truth, fold_of = design.truth, design.fold_of
    for params, trial in zip(settings if tried else [], tried, strict=True):
        scale = fit_scale(trial.scores, truth[kept])
        of_fold = [_accuracy(trial.correct[fold_of == f], truth[fold_of == f], balanced) for f in np.unique(fold_of)]
        candidates.append(
            Candidate(
                params=params,
                accuracy=_accuracy(trial.correct, truth, balanced),
                log_loss=log_loss(softmax(scale * trial.scores), truth[kept]),
                deviation=float(np.std(of_fold, ddof=1)) if len(of_fold) > 1 else 0.0,
                gap=trial.gap,
            )
        )
    return candidates


def _calibrated(tried: list[Trial], best: int, design: Design, kept: slice, method: str) -> Calibration:
    if not tried:
        return Calibration(method, 1.0, 0.0, None, None)
    return calibrate(tried[best].scores, design.truth[kept], design.fold_of[kept], method)


def _choose(candidates: list[Candidate], design: Design, rule: str) -> int:
    if not candidates:
        return 0
    best = best_of(candidates)
    return within_one_standard_error(candidates, best, design.n_folds) if rule == "one-se" else best


def _accuracy(correct: npt.NDArray[np.bool_], truth: Array, balanced: bool) -> float:
    if balanced:
        return float(np.mean([correct[truth == t].mean() for t in np.unique(truth)]))
    return float(correct.mean())


def _notes(kind: str, head: Head, settings: list[dict[str, Any]], best: int) -> list[str]:
    notes = []
    if not head.converged_:
        gap = getattr(head, "gap_", None)
        bound = f": its objective is within {gap:.1e} of the optimum, relatively" if gap and np.isfinite(gap) else ""
        notes.append(f"the solver of {kind} stopped before it had converged{bound}")
    if len(settings) > 1 and best == len(settings) - 1:
        setting = ", ".join(f"{k} = {v}" for k, v in settings[best].items())
        notes.append(f"the weakest regularisation that was tried won ({setting}); --param sets one beyond it")
    return notes


def _class_weights(samples: Samples, class_weight: str | None) -> Floats | None:
    """Return how much a picture of each class counts, (k,), by the sizes of the classes in all of `samples`."""
    if class_weight is None:
        return None
    counts = np.bincount(samples.y, minlength=len(samples.classes))
    return np.asarray(len(samples) / (len(counts) * counts))


def settings_of(kind: str, fixed: dict[str, Any], tune: str, values: Sequence[Any] | None) -> list[dict[str, Any]]:
    """Return the settings that `train` tries, from the strongest regularisation to the weakest.

    Raises
    ------
    HeadError
        If there is no such kind, way to tune or parameter.
    """
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
    if values and (tune == "none" or len(free) != 1):
        chosen = "nothing" if tune == "none" else " and ".join(free) or "nothing"
        raise HeadError(f"{kind} chooses {chosen} here, and values to try are of one parameter: leave out --grid")
    if tune == "none" or not free:
        return [{**fixed, **{name: known[name] for name in free}}]
    choices = {name: _ordered(values, default) if values else default for name, default in free.items()}
    return [{**fixed, **dict(zip(choices, chosen, strict=True))} for chosen in itertools.product(*choices.values())]


def _ordered(values: Sequence[Any], default: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return values from the strongest regularisation to the weakest, as the head's own are; whole where those are."""
    if any(isinstance(value, str) for value in default):
        return tuple(values)
    kind = int if all(isinstance(value, int) for value in default) else float
    return tuple(sorted({kind(round(v) if kind is int else v) for v in values}, reverse=default[0] > default[-1]))


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
