"""How good heads are on a split, with intervals, and which differences are real."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.artifact import TrainedHead
from classify.calibration import calibration_error, log_loss
from classify.head import Array, Floats
from classify.statistics import (
    ALPHA,
    Interval,
    balanced_and_f1,
    bootstrap,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    percentile_interval,
    resamples_for,
    wilson_interval,
    winners_optimism,
)
from data.errors import HeadError
from data.splits import measured_split
from data.store import FeatureStore, Samples

# The scores that the paired bootstrap compares; accuracy has McNemar's exact test.
SCORE_TITLES = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1", "log_loss": "log-loss"}

# Vectors of more than half of so many bytes stay in the store while heads are asked about them.
MEMORY = 1 << 31
# Rows that are asked about at once, a multiple of the 1,024 that heads compute with: blocks change no digit.
_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Scores:
    """One head's results on a split.

    Parameters
    ----------
    head, kind : str
        The head's file name, and its kind.
    accuracy, balanced_accuracy, macro_f1, log_loss, ece : float
        Share of right answers; mean recall over the split's classes; mean F1 over classes that occur or were
        answered; mean negative log-likelihood in nats; expected calibration error over 15 equal bins.
    accuracy_ci95 : tuple of float
        Wilson's score interval (Wilson 1927).
    balanced_accuracy_ci95, macro_f1_ci95, log_loss_ci95 : tuple of float
        Percentile intervals of at least 2,000 bootstrap resamples of the pictures.
    per_class : list of dict
        ``class, precision, recall, f1, support``; precision and recall are null where they are 0/0.
    confusion_matrix : list of list of int
        Rows are true classes, columns answers, in the order of the head's classes.
    notes : list of str
        What qualifies the figures.
    correct : ndarray of shape (n,), bool
        Which pictures it got right; not part of the JSON.
    drawn : dict of str to ndarray of shape (r,)
        The scores on resampled pictures, the same for every head; not part of the JSON.
    """

    head: str
    kind: str
    accuracy: float
    accuracy_ci95: Interval
    balanced_accuracy: float
    balanced_accuracy_ci95: Interval
    macro_f1: float
    macro_f1_ci95: Interval
    log_loss: float
    log_loss_ci95: Interval
    ece: float
    per_class: list[dict[str, Any]]
    confusion_matrix: list[list[int]]
    notes: list[str]
    correct: npt.NDArray[np.bool_]
    drawn: dict[str, Floats]

    def as_json(self) -> dict[str, Any]:
        """Return the results as JSON has them."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("correct", "drawn")}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two heads compared on the same pictures.

    Parameters
    ----------
    a, b : str
        The heads.
    p_value, p_holm : float
        Of equal accuracies, by McNemar's exact test; and with Holm's correction over all pairs.
    verdict : str
        Which is better, or that it is a tie.
    bootstrap : dict of str to dict
        Of balanced accuracy, macro-F1 and log-loss the ``difference`` a - b with its interval ``ci95``, ``p_value``
        by the paired bootstrap, and ``p_holm``, corrected over all pairs.
    """

    a: str
    b: str
    p_value: float
    p_holm: float
    verdict: str
    bootstrap: dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Heads on one split, best first."""

    split: str
    n: int
    classes: list[str]
    heads: list[Scores]
    pairs: list[Pair]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the results as `eval --json` prints them."""
        return {
            "split": self.split,
            "n": self.n,
            "classes": self.classes,
            "heads": [s.as_json() for s in self.heads],
            "pairs": [dataclasses.asdict(p) for p in self.pairs],
            "notes": self.notes,
        }


def evaluate(
    heads: list[TrainedHead],
    store: FeatureStore,
    split: str | None = None,
    *,
    dataset: str | None = None,
    seed: int = 0,
    memory: int = MEMORY,
) -> Evaluation:
    """Evaluate heads on one split of a store and rank them.

    The vectors are read once for all heads that read the same features.

    Parameters
    ----------
    heads : list of TrainedHead
        They may want features of different specs; the store must hold each.
    store : FeatureStore
        The pictures.
    split : str, optional
        By default ``test``, or ``val`` where there is no test.
    dataset : str, optional
        The image set; needed where the store has several.
    seed : int
        Of the bootstrap.
    memory : int
        Bytes: a split whose vectors take more than half of them is read in blocks, and only probabilities are kept.

    Returns
    -------
    Evaluation

    Raises
    ------
    FingerprintMismatch
        If the store has no features that a head can read.
    HeadError
        If the split has no labels, or a class that a head does not know.
    """
    asked = ask(heads, store, split, dataset=dataset, memory=memory)
    results = rank(asked.measured, seed=seed)
    return Evaluation(
        asked.samples.split, len(asked.samples), asked.classes, results, compare_pairs(results), asked.notes
    )


@dataclasses.dataclass(frozen=True)
class Asked:
    """What heads say of the pictures of one split, in the order of the heads; `samples` has the last one's features."""

    samples: Samples
    classes: list[str]
    measured: "list[Measured]"
    notes: list[str]


def ask(
    heads: list[TrainedHead],
    store: FeatureStore,
    split: str | None = None,
    *,
    dataset: str | None = None,
    memory: int = MEMORY,
) -> Asked:
    """Ask heads about the pictures of a split; see `evaluate`."""
    notes: list[str] = []
    if split is None:
        split = measured_split(store.splits(dataset))
        if split == "val":
            notes.append("there is no test split: this is val")
    classes = heads[0].classes
    for head in heads:
        if set(head.classes) != set(classes):
            raise HeadError(
                f"{head.name} tells {_names(head.classes)} apart and {heads[0].name} {_names(classes)}: "
                "heads can be compared on the same classes only"
            )
    measured: dict[int, Measured] = {}
    features = [tuple(spec.fingerprint for spec in head.specs) for head in heads]
    for one in dict.fromkeys(features):
        mine = [i for i, other in enumerate(features) if other == one]
        samples = heads[mine[0]].samples(store, split, dataset, memory)
        found = measure_all([heads[i] for i in mine], samples, classes)
        measured.update(zip(mine, found, strict=True))
    return Asked(samples, classes, [measured[i] for i in range(len(heads))], notes + copies_note(samples))


def copies_note(samples: Samples) -> list[str]:
    """Return a note on exact copies among the measured pictures, if there are any."""
    copies = len(samples) - len(np.unique(samples.digests))
    are = "is an exact copy of another, and counts" if copies == 1 else "are exact copies of others, and count"
    return [f"{copies} of these pictures {are} each time"] if copies else []


@dataclasses.dataclass(frozen=True)
class Measured:
    """One head's probabilities, (n, k), for pictures of true classes y, (n,), in the order of `classes`."""

    head: TrainedHead
    classes: list[str]
    y: Array
    probabilities: Floats
    notes: list[str]

    @property
    def answers(self) -> Array:
        """The most likely class of each picture, (n,)."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def losses(self) -> Floats:
        """Negative log-likelihood of each picture, (n,), in nats."""
        of_truth = self.probabilities[np.arange(len(self.y)), self.y]
        return np.asarray(-np.log(np.maximum(of_truth, 1e-15)))


def measure(head: TrainedHead, samples: Samples, classes: list[str]) -> Measured:
    """Ask one head, see `measure_all`."""
    return measure_all([head], samples, classes)[0]


def measure_all(heads: list[TrainedHead], samples: Samples, classes: list[str]) -> list[Measured]:
    """Ask heads about the labelled pictures of a split, whose vectors are read once, block by block.

    Parameters
    ----------
    heads : list of TrainedHead
        They read the same features.
    samples : Samples
        The pictures.
    classes : list of str
        The heads' classes in the order that is wanted.

    Raises
    ------
    HeadError
        If no picture has a label, or one has a class that a head does not know.
    """
    measured = [_unasked(head, samples, classes) for head in heads]
    orders = [[head.classes.index(name) for name in classes] for head in heads]
    for start in range(0, len(samples), _AT_ONCE):
        X = samples.X[start : start + _AT_ONCE]
        for one, order in zip(measured, orders, strict=True):
            one.probabilities[start : start + len(X)] = one.head.predict_proba(X)[:, order]
    return measured


def _unasked(head: TrainedHead, samples: Samples, classes: list[str]) -> Measured:
    """Return what is known of a head's answers before it is asked: all but the probabilities."""
    strangers = sorted({samples.classes[t] for t in np.unique(samples.y)} - set(head.classes))
    if not len(samples):
        raise HeadError(f"no picture of split {samples.split!r} has a label: nothing can be measured on it")
    if strangers:
        raise HeadError(
            f"{head.name} tells {_names(head.classes)} apart, split {samples.split!r} of {samples.dataset!r} has "
            f"{_names(strangers)}: name a head for these classes, or a store with the head's"
        )
    index = {name: i for i, name in enumerate(classes)}
    y = np.array([index.get(name, -1) for name in samples.classes])[samples.y]
    notes = []
    seen = int(head.trained_on(samples.digests).sum())
    if seen:
        was = "was" if seen == 1 else "were"
        notes.append(f"{seen} of these {len(y)} pictures {was} in its training set, exactly: its figures flatter")
    if (head.info["selection"]["tuned_on"], head.info["trained_on"]["dataset"]) == (samples.split, samples.dataset):
        notes.append(f"{samples.split} helped to choose its regularisation: its figures flatter")
    return Measured(head, classes, y, np.empty((len(y), len(classes))), notes)


def rank(measured: list[Measured], *, with_best: bool = False, seed: int = 0) -> list[Scores]:
    """Return the scores of heads on the same pictures, best first: by accuracy, then by log-loss.

    Parameters
    ----------
    measured : list of Measured
        With equal classes and y.
    with_best : bool
        Whether `compare_pairs` will be asked so: fewer tests need fewer resamples.
    seed : int
        Of the bootstrap.
    """
    y, k = measured[0].y, len(measured[0].classes)
    answers = np.stack([m.answers for m in measured], axis=1)
    losses = np.stack([m.losses for m in measured], axis=1)
    tests = len(measured) - 1 if with_best else len(measured) * (len(measured) - 1) // 2
    drawn = bootstrap(y, answers, losses, k, resamples=resamples_for(tests), seed=seed)
    results = [_score(m, {name: draws[:, j] for name, draws in drawn.items()}) for j, m in enumerate(measured)]
    return sorted(results, key=lambda s: (-s.accuracy, s.log_loss))


def optimism(results: list[Scores]) -> float:
    """Return how much more accurate than it is the best looks here, if these pictures are taken to choose it."""
    drawn = np.stack([scores.drawn["accuracy"] for scores in results], axis=1)
    return winners_optimism(np.array([scores.accuracy for scores in results]), drawn)


def compare_pairs(results: list[Scores], *, with_best: bool = False) -> list[Pair]:
    """Test every pair, or every head with the first; a difference is claimed only where Holm's correction leaves it."""
    pairs = list(itertools.combinations(results, 2))
    if with_best:
        pairs = pairs[: len(results) - 1]
    p_values = [mcnemar_exact(a.correct, b.correct) for a, b in pairs]
    adjusted = holm(p_values)
    others = {name: _bootstrap_pairs(pairs, name) for name in SCORE_TITLES}
    verdicts = []
    for i, (a, b) in enumerate(pairs):
        better = a if a.correct.sum() >= b.correct.sum() else b
        verdict = f"{better.head} is better" if adjusted[i] < ALPHA else f"tie at n = {len(a.correct)}"
        scores = {name: found[i] for name, found in others.items()}
        verdicts.append(Pair(a.head, b.head, p_values[i], adjusted[i], verdict, scores))
    return verdicts


def _bootstrap_pairs(pairs: list[tuple[Scores, Scores]], name: str) -> list[dict[str, Any]]:
    rows = []
    for a, b in pairs:
        difference, drawn = getattr(a, name) - getattr(b, name), a.drawn[name] - b.drawn[name]
        p_value = paired_bootstrap(difference, drawn)
        rows.append({"difference": difference, "ci95": percentile_interval(drawn), "p_value": p_value})
    adjusted = holm([row["p_value"] for row in rows])
    return [{**row, "p_holm": q} for row, q in zip(rows, adjusted, strict=True)]


def _score(measured: Measured, drawn: dict[str, Floats]) -> Scores:
    y, answers, classes = measured.y, measured.answers, measured.classes
    n, k = len(y), len(classes)
    confusion = np.bincount(y * k + answers, minlength=k * k).reshape(k, k)
    correct = answers == y
    right, support, answered = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    balanced, f1 = balanced_and_f1(right[None].astype(float), support[None], answered[None])
    return Scores(
        head=measured.head.name,
        kind=measured.head.kind,
        accuracy=float(correct.mean()),
        accuracy_ci95=wilson_interval(int(correct.sum()), n),
        balanced_accuracy=float(balanced[0]),
        balanced_accuracy_ci95=percentile_interval(drawn["balanced_accuracy"]),
        macro_f1=float(f1[0]),
        macro_f1_ci95=percentile_interval(drawn["macro_f1"]),
        log_loss=log_loss(measured.probabilities, y),
        log_loss_ci95=percentile_interval(drawn["log_loss"]),
        ece=calibration_error(measured.probabilities, correct),
        per_class=_per_class(confusion, classes),
        confusion_matrix=confusion.tolist(),
        notes=measured.notes,
        correct=correct,
        drawn=drawn,
    )


def _per_class(confusion: Array, classes: list[str]) -> list[dict[str, Any]]:
    rows = []
    for i, name in enumerate(classes):
        right, support, answered = int(confusion[i, i]), int(confusion[i].sum()), int(confusion[:, i].sum())
        rows.append(
            {
                "class": name,
                "precision": right / answered if answered else None,
                "recall": right / support if support else None,
                "f1": 2 * right / (support + answered) if support + answered else None,
                "support": support,
            }
        )
    return rows


def _names(classes: list[str]) -> str:
    return ", ".join(classes[:4]) + (f" and {len(classes) - 4} more" if len(classes) > 4 else "")
