"""Heads for a bundle: taken along as they are, or made to read projected features; and what carrying them so costs.

A head that begins with a matrix product is folded: where z are the coordinates of a vector along the components C,
W x is taken at what z says of x, C'z + mean, so that W becomes W C'. The head stays the one that was trained and
measured. The others, which compare vectors or choose among columns, are fitted anew.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from classify.artifact import TrainedHead, save_head, save_projected
from classify.evaluate import MEMORY, Measured, measure
from classify.head import Array, Floats, Head, LinearHead
from classify.heads import GIVEN, HEADS
from classify.mlp import MLPHead
from classify.selection import train
from classify.statistics import ALPHA, Interval, holm, mcnemar_exact, paired_interval, wilson_interval
from classify.training import Candidate, best_of
from classify.trials import Scaler
from data.errors import HeadError
from data.spec import Source
from data.store import FeatureStore, Samples


class Components(Protocol):
    """Principal components, as `extract.projection.Pca` has them."""

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """What is subtracted first, (d,)."""

    @property
    def components(self) -> npt.NDArray[np.float32]:
        """Orthonormal rows, (dim, d)."""

    @property
    def projection(self) -> str:
        """What a spec says of them."""

    def transform(self, X: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the coordinates of vectors (n, d), (n, dim)."""


def carry_projected(
    path: Path,
    trained: TrainedHead,
    components: Sequence[Components],
    sources: Sequence[Source],
    training: Callable[[], Samples],
    val: Callable[[], Samples],
) -> str:
    """Write a head that reads projected features.

    Parameters
    ----------
    path : Path
        The file.
    trained : TrainedHead
        The head on the features as they were.
    components : sequence of Components
        The projection of each of its features.
    sources : sequence of Source
        The projected features.
    training, val : callable
        Read the pictures it was trained on, and those that chose its parameters where ``val`` did, projected.

    Returns
    -------
    str
        ``folded`` or ``fitted anew``.

    Raises
    ------
    HeadError
        If it is the last layer of a network, or cannot be trained on the projected features.
    """
    if trained.kind == "finetuned":
        raise HeadError(
            f"{trained.name} is a fine-tuned network, whose last layer reads its own features as they are: leave out "
            "--pca, or this network"
        )
    folded = _folded(trained, components)
    if folded is not None:
        widths = [len(one.components) for one in components]
        unit = np.ones(sum(widths), dtype=np.float32)
        save_projected(path, trained, folded, Scaler(0 * unit, unit), sources, widths)
        return "folded"
    samples = training()
    selection, params = trained.info["selection"], trained.head.get_params()
    free = chosen_freely(trained)
    fitted = train(
        trained.kind,
        samples,
        tune=selection["tuned_on"],
        val=val() if selection["tuned_on"] == "val" else None,
        params={name: value for name, value in params.items() if name not in (*GIVEN, *free)},
        grid=next(iter(free.values())) if len(free) == 1 else None,
        rule=rule_of(trained),
        class_weight=params.get("class_weight"),
        calibration=calibration_of(trained),
        seed=selection["seed"],
    )
    requests, files = [s.request for s in sources], [s.weights_file for s in sources]
    corrections = trained.info["trained_on"].get("corrections")
    save_head(path, fitted, samples, request=requests, weights_file=files, corrections=corrections)
    return "fitted anew"


def foldable(trained: TrainedHead) -> bool:
    """Whether a head begins with a matrix product, which takes in what projects its features."""
    return isinstance(trained.head, LinearHead | MLPHead)


def _folded(trained: TrainedHead, components: Sequence[Components]) -> Head | None:
    """Return a head on projected vectors as they are, without a scaler; None where its kind does not allow it."""
    head, state = trained.head, trained.head.state()
    if isinstance(head, LinearHead):
        weight, bias = _projected(head.coef_, head.intercept_, trained.scaler, components)
        state |= {"coef_": weight, "intercept_": bias}
    elif isinstance(head, MLPHead):
        weight, bias = _projected(head.coefs_[0].T, head.intercepts_[0], trained.scaler, components)
        state |= {"coefs_0": weight.T, "intercepts_0": bias.astype(np.float32)}
    else:
        return None
    folded = HEADS[trained.kind](**head.get_params())
    folded.restore(state, len(trained.classes), head.scale_, head.bias_)
    return folded


def _projected(
    weight: Array, bias: Array, scaler: Scaler, components: Sequence[Components]
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Return weight (m, sum of dims) and bias (m,) on coordinates, of weight (m, d) on standardised vectors."""
    raw = weight.astype(np.float64) / scaler.scale
    means = np.concatenate([one.mean for one in components]).astype(np.float64)
    edges = np.cumsum([0, *(len(one.mean) for one in components)])
    parts = [
        raw[:, start:end] @ one.components.T.astype(np.float64)
        for one, start, end in zip(components, edges[:-1], edges[1:], strict=True)
    ]
    return np.concatenate(parts, axis=1).astype(np.float32), bias + raw @ (means - scaler.mean)


def chosen_freely(trained: TrainedHead) -> dict[str, list[Any]]:
    """Return the parameters of which several values were tried, with these."""
    tried = [candidate["params"] for candidate in trained.info["selection"]["candidates"]]
    free: dict[str, list[Any]] = {}
    for name in HEADS[trained.kind].grid:
        values = list({str(params.get(name)): params.get(name) for params in tried}.values())
        if len(values) > 1:
            free[name] = values
    return free


def rule_of(trained: TrainedHead) -> str:
    """Return the rule that chose; by what it chose, where the head is from before its file named it."""
    if "rule" in trained.info["selection"]:
        return str(trained.info["selection"]["rule"])
    candidates = [Candidate(**candidate) for candidate in trained.info["selection"]["candidates"]]
    params = trained.head.get_params()
    if trained.info["selection"]["tuned_on"] != "cv" or len(candidates) < 2:
        return "best"
    best = candidates[best_of(candidates)].params
    return "best" if all(same(params.get(name), value) for name, value in best.items()) else "one-se"


def same(a: Any, b: Any) -> bool:
    """Whether two values of a parameter are one, of which a file may have made a tuple a list."""
    return bool((list(a) if isinstance(a, tuple) else a) == (list(b) if isinstance(b, tuple) else b))


def calibration_of(trained: TrainedHead) -> str:
    """Return how its scores were made probabilities; by what came of it, where its file does not name it."""
    if "calibration" in trained.info["selection"]:
        return str(trained.info["selection"]["calibration"])
    if np.any(trained.head.bias_):
        return "platt"
    return "none" if np.ndim(trained.head.scale_) == 0 and trained.head.scale_ == 1 else "temperature"


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Accuracy on some pictures with Wilson's interval, and the mean log-loss in nats."""

    accuracy: float
    accuracy_ci95: Interval
    log_loss: float


@dataclasses.dataclass(frozen=True)
class Carried:
    """A head before and after it was packed, on the same pictures.

    Parameters
    ----------
    head, kind : str
        Its name in the bundle, and its kind.
    how : str
        ``as it was``, ``folded`` or ``fitted anew``.
    split : str
        What was measured on.
    n : int
        Pictures of it.
    before, after : Accuracy
        On the features of the store, and on those of the bundle.
    difference, difference_ci95 : float and tuple of float
        Of the accuracies, after less before, with `classify.statistics.paired_interval`.
    lost, won : int
        Pictures that it got right before alone, and now alone.
    p_value, p_holm : float
        Of equal accuracies, by McNemar's exact test; and with Holm's correction over the heads.
    verdict : str
        Whether it is worse or better now, or that nothing shows.
    notes : list of str
        What qualifies the figures.
    """

    head: str
    kind: str
    how: str
    split: str
    n: int
    before: Accuracy
    after: Accuracy
    difference: float
    difference_ci95: Interval
    lost: int
    won: int
    p_value: float
    p_holm: float
    verdict: str
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Trip:
    """A head before and after: what `measure_trips` compares."""

    name: str
    how: str
    before: TrainedHead
    after: TrainedHead
    dataset: str
    split: str


def measure_trips(trips: Sequence[Trip], source: FeatureStore, packed: FeatureStore) -> list[Carried]:
    """Measure heads on a store before they were packed, and on the bundle's after, picture by picture.

    Raises
    ------
    HeadError, StoreError
        If the split has no labels, or is not there.
    """
    pairs = []
    for trip in trips:
        classes = trip.before.classes
        before = measure(trip.before, trip.before.samples(source, trip.split, trip.dataset, MEMORY), classes)
        after = measure(trip.after, trip.after.samples(packed, trip.split, trip.dataset, MEMORY), classes)
        pairs.append((trip, before, after))
    p_values = [mcnemar_exact(_right(before), _right(after)) for _, before, after in pairs]
    return [
        _carried(trip, before, after, p, adjusted)
        for (trip, before, after), p, adjusted in zip(pairs, p_values, holm(p_values), strict=True)
    ]


def _carried(trip: Trip, before: Measured, after: Measured, p_value: float, p_holm: float) -> Carried:
    a, b = _right(before), _right(after)
    n, lost, won = len(a), int((a & ~b).sum()), int((~a & b).sum())
    verdict = "no difference shows"
    if np.array_equal(before.probabilities.argmax(axis=1), after.probabilities.argmax(axis=1)):
        verdict = "every answer the same"
    elif p_holm < ALPHA:
        verdict = "worse" if lost > won else "better"
    return Carried(
        head=trip.name,
        kind=trip.before.kind,
        how=trip.how,
        split=trip.split,
        n=n,
        before=_accuracy(before),
        after=_accuracy(after),
        difference=(won - lost) / n,
        difference_ci95=paired_interval(lost, won, n),
        lost=lost,
        won=won,
        p_value=p_value,
        p_holm=p_holm,
        verdict=verdict,
        notes=before.notes,
    )


def _right(measured: Measured) -> npt.NDArray[np.bool_]:
    return np.asarray(measured.answers == measured.y)


def _accuracy(measured: Measured) -> Accuracy:
    right = _right(measured)
    return Accuracy(float(right.mean()), wilson_interval(int(right.sum()), len(right)), float(measured.losses.mean()))
