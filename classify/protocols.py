"""How a head does with fewer pictures: few shots, learning curves, and repeats over seeds."""

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.head import Array
from classify.selection import train
from classify.statistics import Interval, Rights, t_interval
from classify.training import Training
from data.errors import HeadError
from data.store import Samples

SIZES = 10
CURVE_REPEATS = 5
SHOTS_REPEATS = 10

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Repeats:
    """The held-out accuracy of several trainings that differ in their seed alone.

    Parameters
    ----------
    trainings : list of Training
        One for each seed.
    mean, deviation : float
        Of the cross-validated accuracy.
    interval : tuple of float
        Student's 95% interval of the mean; it covers the draw of the folds, not that of the pictures.
    """

    trainings: list[Training]
    mean: float
    deviation: float
    interval: Interval

    def as_json(self) -> dict[str, Any]:
        """Return the repeats as `fit --json` prints them."""
        values = [t.cv_accuracy for t in self.trainings]
        return {"cv_accuracies": values, "mean": self.mean, "deviation": self.deviation, "ci95": self.interval}


def repeat(train_fn: Callable[[int], Training], seeds: Sequence[int]) -> Repeats:
    """Train once for each seed and return how far the held-out accuracy depends on it.

    Parameters
    ----------
    train_fn : callable
        Takes a seed, of the folds and the head, and returns a training.
    seeds : sequence of int
        At least two.

    Raises
    ------
    HeadError
        If there are fewer than two seeds, or the trainings hold nothing out.
    """
    if len(seeds) < 2:
        raise HeadError(f"repeats over {len(seeds)} seed have no deviation: give --repeats 2 or more")
    trainings = [train_fn(seed) for seed in seeds]
    values = [t.cv_accuracy for t in trainings if t.cv_accuracy is not None]
    if len(values) < len(seeds):
        raise HeadError("repeats measure cross-validated accuracy, which this training has not: use --tune cv")
    interval = t_interval(values)
    assert interval is not None
    return Repeats(trainings, float(np.mean(values)), float(np.std(values, ddof=1)), interval)


@dataclasses.dataclass(frozen=True)
class Point:
    """A head trained several times on so many pictures, and measured on one split.

    Parameters
    ----------
    size : int
        Pictures of each class (few shots), or in all (learning curve).
    n_train : int
        Training pictures in all.
    right : ndarray of shape (repeats, n), bool
        Which measured pictures each repeat got right.
    parameters : list of dict
        Of each repeat.
    chosen : str
        How: ``cross-validation`` inside the training pictures, ``fixed``, or ``defaults`` where nothing could be held
        out or nothing was to be chosen.
    shared : float
        Share of the pictures that two repeats have in common, on average; 1 where each has all of them.
    """

    size: int
    n_train: int
    right: Rights
    parameters: list[dict[str, Any]]
    chosen: str
    shared: float

    @property
    def accuracies(self) -> list[float]:
        """Accuracy of each repeat."""
        return [float(a) for a in self.right.mean(axis=1)]

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float | None:
        """Deviation of the accuracy between repeats; None for one repeat."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.right) > 1 else None

    @property
    def interval(self) -> Interval | None:
        """Student's 95% interval of the mean over training sets, cut to [0, 1]; None where repeats cannot say."""
        found = t_interval(self.accuracies, shared=self.shared)
        return (max(found[0], 0.0), min(found[1], 1.0)) if found else None

    def as_json(self) -> dict[str, Any]:
        """Return the point as JSON has it."""
        return {
            "size": self.size,
            "n_train": self.n_train,
            "accuracy": self.mean,
            "deviation": self.deviation,
            "accuracy_ci95": self.interval,
            "accuracies": self.accuracies,
            "params": self.parameters,
            "chosen": self.chosen,
            "shared": self.shared,
        }


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The points of few shots or of a learning curve, smallest first, and what qualifies them."""

    kind: str
    samples: Samples
    measured: Samples
    points: list[Point]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the points as `fit --json` prints them."""
        return {
            "head": self.kind,
            "dataset": self.samples.dataset,
            "split": self.samples.split,
            "on": self.measured.split,
            "n_test": len(self.measured),
            "points": [point.as_json() for point in self.points],
            "notes": self.notes,
        }


def few_shots(
    kind: str,
    samples: Samples,
    measured: Samples,
    shots: Sequence[int],
    *,
    repeats: int = SHOTS_REPEATS,
    tune: str = "cv",
    params: dict[str, Any] | None = None,
    class_weight: str | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Protocol:
    """Train a head on a few pictures of each class, several times, and measure it on one split.

    A repeat draws its pictures once: its 1 shot is among its 2 shots, and so on.

    Parameters
    ----------
    kind : str
        Key of `HEADS`.
    samples, measured : Samples
        What to draw from, and what to measure on.
    shots : sequence of int
        Pictures of each class. Copies of one content count once.
    repeats : int
        Draws.
    tune, params, class_weight
        As for `classify.selection.train`; with one picture of each class nothing can be held out, and the head's
        defaults are taken.
    seed : int
        Of the draws, the folds and the head.
    on_progress : callable, optional
        Called with the number of trainings done and in all.

    Raises
    ------
    HeadError
        If a class has no picture, or a number of shots is larger than every class.
    """
    samples, measured = samples.labelled(), measured.labelled()
    _check(samples, measured)
    counts = np.bincount(samples.y[distinct(samples)], minlength=len(samples.classes))
    wanted = sorted(set(shots))
    if wanted[0] < 1 or wanted[-1] > counts.max():
        raise HeadError(
            f"the largest class of {samples.dataset!r} has {counts.max()} different pictures to train on: give --shots "
            f"from 1 to {counts.max()}, not {wanted[0] if wanted[0] < 1 else wanted[-1]}"
        )
    notes = _notes(samples, measured)
    for shot in wanted:
        small = int((counts < shot).sum())
        if small:
            notes.append(f"{small} of {len(counts)} classes have fewer than {shot} different pictures, and give all")
    orders = [draw_order(samples, seed, r) for r in range(repeats)]
    subsets = [(shot, [order.rows[order.place < shot] for order in orders]) for shot in wanted]
    points = _measure(kind, samples, measured, subsets, tune, params, class_weight, seed, on_progress)
    return Protocol(kind, samples, measured, points, notes)


def learning_curve(
    kind: str,
    samples: Samples,
    measured: Samples,
    *,
    sizes: int | Sequence[int] = SIZES,
    repeats: int = CURVE_REPEATS,
    tune: str = "cv",
    params: dict[str, Any] | None = None,
    class_weight: str | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Protocol:
    """Train a head on growing parts of a split, several times, and measure it on another.

    A repeat shuffles the pictures once and takes its parts from the front, so that each part holds the smaller ones;
    every part has the classes in the proportions of the split.

    Parameters
    ----------
    kind : str
        Key of `HEADS`.
    samples, measured : Samples
        What to train on, and what to measure on.
    sizes : int or sequence of int
        How many sizes, in equal steps of the logarithm up to all pictures; or the sizes.
    repeats : int
        Shuffles.
    tune, params, class_weight
        As for `classify.selection.train`.
    seed : int
        Of the shuffles, the folds and the head.
    on_progress : callable, optional
        Called with the number of trainings done and in all.

    Raises
    ------
    HeadError
        If a class has no picture.
    """
    samples, measured = samples.labelled(), measured.labelled()
    _check(samples, measured)
    n, k = len(distinct(samples)), len(samples.classes)
    if isinstance(sizes, int):
        # a class needs two pictures for anything to be held out; below a sixty-fourth of all little is learnt
        first = min(n, max(2 * k, 8, n // 64))
        sizes = [int(size) for size in np.unique(np.geomspace(first, n, sizes).round())]
    orders = [draw_order(samples, seed, r) for r in range(repeats)]
    subsets = [(size, [order.by_share()[:size] for order in orders]) for size in sizes]
    points = _measure(kind, samples, measured, subsets, tune, params, class_weight, seed, on_progress)
    return Protocol(kind, samples, measured, points, _notes(samples, measured))


@dataclasses.dataclass(frozen=True)
class Order:
    """Distinct pictures in a drawn order: their rows, and the place of each within its class and its size."""

    rows: Rows
    place: Rows
    of: Rows

    def by_share(self) -> Rows:
        """Return the rows so that every beginning holds each class in proportion, and each class once at first."""
        share = (self.place + 0.5) / self.of
        return self.rows[np.lexsort((share, self.place > 0))]


def draw_order(samples: Samples, seed: int, repeat: int) -> Order:
    """Return a random order of the distinct pictures, by seed and number of the repeat."""
    rows = np.random.default_rng([seed, repeat]).permutation(distinct(samples))
    place, of = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int64)
    for label in np.unique(samples.y):
        mine = np.flatnonzero(samples.y[rows] == label)
        place[mine], of[mine] = np.arange(len(mine)), len(mine)
    return Order(rows, place, of)


def distinct(samples: Samples) -> Rows:
    """Return the first row of each content."""
    return np.sort(np.unique(samples.digests, return_index=True)[1]).astype(np.int64)


def _measure(
    kind: str,
    samples: Samples,
    measured: Samples,
    subsets: list[tuple[int, list[Rows]]],
    tune: str,
    params: dict[str, Any] | None,
    class_weight: str | None,
    seed: int,
    on_progress: Callable[[int, int], None] | None,
) -> list[Point]:
    points: list[Point] = []
    total = sum(len(draws) for _, draws in subsets)
    truth = np.array([_index(samples.classes, name) for name in measured.classes])[measured.y]
    for size, draws in subsets:
        rights, trainings = [], list[Training]()
        for r, rows in enumerate(draws):
            part = samples.take(np.sort(rows))
            with warnings.catch_warnings():  # scikit-learn doubts that few pictures of many classes are classes
                warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
                training = train(
                    kind,
                    part,
                    tune=tune,
                    params=params,
                    class_weight=class_weight,
                    seed=seed + r,
                    measure=tune != "none",
                )
            rights.append(_answers(training, measured.X) == truth)
            trainings.append(training)
            if on_progress:
                on_progress(sum(len(p.right) for p in points) + r + 1, total)
        params_of = [t.params for t in trainings]
        chosen = _how(trainings, params)
        points.append(Point(size, len(draws[0]), np.stack(rights), params_of, chosen, _shared(draws)))
    return points


def _shared(draws: list[Rows]) -> float:
    pairs = [len(np.intersect1d(a, b)) / len(a) for a, b in itertools.combinations(draws, 2)]
    return float(np.mean(pairs)) if pairs else 1.0


def _answers(training: Training, X: Array) -> Array:
    return np.asarray(training.head.scores(training.scaler.transform(X)).argmax(axis=1))


def _how(trainings: list[Training], params: dict[str, Any] | None) -> str:
    if all(len(t.candidates) > 1 for t in trainings):
        return "cross-validation"
    return "fixed" if params and set(params) >= set(trainings[0].params) else "defaults"


def _index(classes: list[str], name: str) -> int:
    return classes.index(name) if name in classes else -1


def _check(samples: Samples, measured: Samples) -> None:
    if not len(measured):
        raise HeadError(f"no picture of split {measured.split!r} has a label: nothing can be measured on it")
    absent = sorted(set(range(len(samples.classes))) - set(samples.y[distinct(samples)].tolist()))
    if absent:
        raise HeadError(
            f"split {samples.split!r} has no picture of {samples.classes[absent[0]]!r} that is not a copy of another "
            "class's: add some, or take the class out of the other splits too"
        )


def _notes(samples: Samples, measured: Samples) -> list[str]:
    notes = []
    copies = len(samples) - len(distinct(samples))
    if copies:
        notes.append(f"{copies} exact copies among the training pictures were left out")
    seen = int(np.isin(measured.digests, samples.digests).sum())
    if seen:
        notes.append(f"{seen} of the {len(measured)} measured pictures are among the training pictures: this flatters")
    return notes
