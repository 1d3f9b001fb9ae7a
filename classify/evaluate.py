"""How good heads are on a split, with intervals, and which differences are real."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm

from classify.artifact import TrainedHead
from classify.calibration import calibration_error, log_loss
from classify.head import Array, Floats
from data.errors import HeadError
from data.store import FeatureStore, Samples

_RESAMPLES = 2000
ALPHA = 0.05

Interval = tuple[float, float]


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
        Percentile intervals of 2,000 bootstrap resamples of the pictures.
    per_class : list of dict
        ``class, precision, recall, f1, support``; precision and recall are null where they are 0/0.
    confusion_matrix : list of list of int
        Rows are true classes, columns answers, in the order of the head's classes.
    notes : list of str
        What qualifies the figures.
    correct : ndarray of shape (n,), bool
        Which pictures it got right; not part of the JSON.
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

    def as_json(self) -> dict[str, Any]:
        """Return the results as JSON has them."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "correct"}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two heads compared on the same pictures: McNemar's exact test, Holm's correction over all pairs."""

    a: str
    b: str
    p_value: float
    p_holm: float
    verdict: str


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
) -> Evaluation:
    """Evaluate heads on one split of a store and rank them.

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
    notes: list[str] = []
    if split is None:
        splits = store.splits(dataset)
        split = "test" if "test" in splits or "val" not in splits else "val"
        if split == "val":
            notes.append("there is no test split: this is val")
    results: list[Scores] = []
    n, classes = 0, heads[0].classes
    for head in heads:
        samples = store.load(split, dataset=dataset, spec=head.specs, wants=f"head {head.name}").labelled()
        if set(head.classes) != set(classes):
            raise HeadError(
                f"{head.name} tells {_names(head.classes)} apart and {heads[0].name} {_names(classes)}: "
                "heads can be compared on the same classes only"
            )
        if not results:
            copies = len(samples) - len(np.unique(samples.digests))
            if copies:
                notes.append(f"{copies} of these pictures are exact copies of others, and count each time")
        n = len(samples)
        results.append(_score(head, samples, classes, seed))
    results.sort(key=lambda s: (-s.accuracy, s.log_loss))
    return Evaluation(split, n, classes, results, compare_pairs(results), notes)


def compare_pairs(results: list[Scores]) -> list[Pair]:
    """Test every pair by McNemar's exact test; a difference is claimed only where Holm's correction leaves it.

    Sources: McNemar 1947 in its exact binomial form; Holm 1979.
    """
    pairs = list(itertools.combinations(results, 2))
    p_values = [mcnemar_exact(a.correct, b.correct) for a, b in pairs]
    adjusted = holm(p_values)
    verdicts = []
    for (a, b), p, q in zip(pairs, p_values, adjusted, strict=True):
        better = a if a.correct.sum() >= b.correct.sum() else b
        verdict = f"{better.head} is better" if q < ALPHA else f"tie at n = {len(a.correct)}"
        verdicts.append(Pair(a.head, b.head, p, q, verdict))
    return verdicts


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval for a proportion.

    Examples
    --------
    >>> low, high = wilson_interval(147, 153)
    >>> round(low, 3), round(high, 3)
    (0.917, 0.982)
    """
    z = float(norm.ppf(0.5 + confidence / 2))
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def mcnemar_exact(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    """Return the two-sided exact p-value that two heads, right on `a` and `b`, are equally good.

    Examples
    --------
    >>> import numpy as np
    >>> mcnemar_exact(np.array([True] * 6), np.array([False] * 6))
    0.03125
    """
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_values: list[float]) -> list[float]:
    """Return Holm's adjusted p-values in the order given.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min((len(p_values) - rank) * p_values[i], 1.0))
        adjusted[i] = highest
    return adjusted


def _score(head: TrainedHead, samples: Samples, classes: list[str], seed: int) -> Scores:
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
    order = [head.classes.index(name) for name in classes]
    probabilities = head.predict_proba(samples.X)[:, order]
    answers = probabilities.argmax(axis=1)
    n, k = len(y), len(classes)
    confusion = np.bincount(y * k + answers, minlength=k * k).reshape(k, k)
    losses = -np.log(np.maximum(probabilities[np.arange(n), y], 1e-15))
    correct = answers == y
    balanced, f1 = _balanced_and_f1(confusion[None])
    balanced_ci, f1_ci, loss_ci = _bootstrap(confusion, losses, seed)
    notes = []
    seen = int(head.trained_on(samples.digests).sum())
    if seen:
        notes.append(f"{seen} of these {n} pictures were in its training set, exactly: its figures flatter")
    if (head.info["selection"]["tuned_on"], head.info["trained_on"]["dataset"]) == (samples.split, samples.dataset):
        notes.append(f"{samples.split} helped to choose its regularisation: its figures flatter")
    return Scores(
        head=head.name,
        kind=head.kind,
        accuracy=float(correct.mean()),
        accuracy_ci95=wilson_interval(int(correct.sum()), n),
        balanced_accuracy=float(balanced[0]),
        balanced_accuracy_ci95=balanced_ci,
        macro_f1=float(f1[0]),
        macro_f1_ci95=f1_ci,
        log_loss=log_loss(probabilities, y),
        log_loss_ci95=loss_ci,
        ece=calibration_error(probabilities, correct),
        per_class=_per_class(confusion, classes),
        confusion_matrix=confusion.tolist(),
        notes=notes,
        correct=correct,
    )


def _balanced_and_f1(confusion: Array) -> tuple[Floats, Floats]:
    """Return balanced accuracy and macro-F1 of confusion matrices (r, k, k)."""
    right = np.diagonal(confusion, axis1=1, axis2=2).astype(float)  # (r, k)
    support, answered = confusion.sum(axis=2), confusion.sum(axis=1)
    recall = np.divide(right, support, out=np.full_like(right, np.nan), where=support > 0)
    either = support + answered
    f1 = np.divide(2 * right, either, out=np.full_like(right, np.nan), where=either > 0)
    return np.nanmean(recall, axis=1), np.nanmean(f1, axis=1)


def _bootstrap(confusion: Array, losses: Floats, seed: int) -> tuple[Interval, Interval, Interval]:
    """Resample pictures and return 95% percentile intervals of balanced accuracy, macro-F1 and log-loss."""
    rng = np.random.default_rng(seed)
    n, k = len(losses), len(confusion)
    cells = np.flatnonzero(confusion)
    share = confusion.ravel()[cells] / n
    balanced, f1, loss = [], [], []
    step = max(1, min(_RESAMPLES, 4_000_000 // max(k * k, n)))  # 32 MB at a time
    for start in range(0, _RESAMPLES, step):
        count = min(step, _RESAMPLES - start)
        # resampling pictures is drawing the cells of the confusion matrix by their share
        drawn = np.zeros((count, k * k))
        drawn[:, cells] = rng.multinomial(n, share, size=count)
        b, f = _balanced_and_f1(drawn.reshape(count, k, k))
        balanced.append(b)
        f1.append(f)
        loss.append(losses[rng.integers(0, n, size=(count, n))].mean(axis=1))
    b_ci, f_ci, l_ci = (np.percentile(np.concatenate(x), [2.5, 97.5]) for x in (balanced, f1, loss))
    return (
        (float(b_ci[0]), float(b_ci[1])),
        (float(f_ci[0]), float(f_ci[1])),
        (float(l_ci[0]), float(l_ci[1])),
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
