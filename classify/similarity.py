"""How near an image set is to what a network was pretrained on: what was measured, and what each figure says."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from classify.head import Array, softmax

NEAR, FAR, UNCLEAR = "near", "far", "unclear"
# In the same order: entropy 0.23, 0.28, 0.40, 0.69, 0.70; nearest class 8.7, 8.4, 7.5, 4.6, 4.9 deviations out. The
# thresholds lie in the gaps, so that what falls between is said to be unclear.
SOURCE = (
    "thresholds from efficientnet_lite0 on five sets: confidence 0.72 on ants and bees, 0.62 on hot dogs, 0.50 on "
    "Caltech-101, 0.19 on signed digits, 0.18 on flowers of 128 pixels"
)
_ENOUGH_NAMES = 0.5  # share of the classes that must bear a name of the network's
_ENOUGH_OUTPUTS = 500
_KNOWN = 0.80


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One measurement of similarity.

    Parameters
    ----------
    what : str
        What was measured.
    value : float or None
        None where it could not be.
    says : str
        ``near``, ``far`` or ``unclear``.
    rule : str
        From where on it says so.
    """

    what: str
    value: float | None
    says: str
    rule: str


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the original classifier says of pictures, by its last layer on their penultimate vectors.

    Parameters
    ----------
    confidence : float
        Mean probability of the most probable of its classes.
    entropy : float
        Mean entropy as a share of the largest possible: 0 is certain, 1 is no idea.
    nearest : float
        How far the nearest of its classes' directions stands out among all, in deviations, on average; where
        directions are chance about 3 of 1,000 classes.
    most_said : list of tuple of str and float
        The classes that it says most, by name, and the share of the pictures.
    zero_shot : float or None
        Accuracy without any training, choosing among the matched classes, on their pictures.
    zero_shot_pictures, matched, outputs : int
        On how many pictures; how many of the classes bear a name that the network knows; how many it knows.
    """

    confidence: float
    entropy: float
    nearest: float
    most_said: list[tuple[str, float]]
    zero_shot: float | None
    zero_shot_pictures: int
    matched: int
    outputs: int


def probabilities(X: Array, weight: Array, bias: Array) -> npt.NDArray[np.float64]:
    """Return what a last layer says of penultimate vectors, (n, K)."""
    return softmax((np.asarray(X, dtype=np.float32) @ weight.T + bias).astype(np.float64))


def answers(
    X: Array,
    y: Array,
    weight: Array,
    P: npt.NDArray[np.float64],
    rows: Sequence[Sequence[int]],
    names: Sequence[str],
) -> Answers:
    """Measure what the original classifier makes of pictures.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Penultimate vectors.
    y : ndarray of shape (n,)
        Labels.
    weight : ndarray of shape (K, d)
        Of the last layer.
    P : ndarray of shape (n, K)
        As `probabilities` gives them.
    rows : sequence of sequence of int
        For each class of the labels the outputs that bear its name.
    names : sequence of str
        Of the outputs; empty where they are not known.
    """
    logs = np.log(np.maximum(P, np.finfo(np.float64).tiny))
    directions = weight - weight.mean(axis=0)
    directions = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    along = np.asarray(X, dtype=np.float32) @ directions.T
    deviation = np.maximum(along.std(axis=1), 1e-12)
    said = np.bincount(P.argmax(axis=1), minlength=P.shape[1]) / len(P)
    known = [c for c, found in enumerate(rows) if found]
    zero_shot, asked = None, np.isin(y, known)
    if len(known) > 1 and asked.any():
        scores = np.stack([P[asked][:, list(rows[c])].max(axis=1) for c in known], axis=1)
        zero_shot = float((np.array(known)[scores.argmax(axis=1)] == y[asked]).mean())
    return Answers(
        confidence=float(P.max(axis=1).mean()),
        entropy=float(-(P * logs).sum(axis=1).mean() / np.log(P.shape[1])),
        nearest=float(((along.max(axis=1) - along.mean(axis=1)) / deviation).mean()),
        most_said=[(names[i], float(said[i])) for i in np.argsort(-said, kind="stable")[:3].tolist()] if names else [],
        zero_shot=zero_shot,
        zero_shot_pictures=int(asked.sum()) if zero_shot is not None else 0,
        matched=len(known),
        outputs=P.shape[1],
    )


def judge(found: Answers | None, n_classes: int) -> list[Evidence]:
    """Return what the original classifier's answers say of similarity; the thresholds are for about 1,000 classes."""
    if found is None:
        return []
    many = found.outputs >= _ENOUGH_OUTPUTS
    known = found.zero_shot if found.matched >= _ENOUGH_NAMES * n_classes else None
    rows = (
        ("the original classifier's confidence", found.confidence, 0.25, 0.40, "near from 0.40, far to 0.25"),
        ("its entropy, share of the largest", found.entropy, 0.60, 0.45, "near to 0.45, far from 0.60"),
        ("its nearest class, deviations out", found.nearest, 5.5, 7.0, "near from 7.0, far to 5.5"),
    )
    evidence = [
        Evidence(what, value, _between(value, far=far, near=near) if many else UNCLEAR, rule)
        for what, value, far, near, rule in rows
    ]
    says = NEAR if known is not None and known >= _KNOWN else UNCLEAR
    rule = f"near from {_KNOWN:.2f}, if half have names"
    return [*evidence, Evidence("right by names alone, untrained", known, says, rule)]


def verdict(evidence: Sequence[Evidence]) -> str:
    """Return what the majority of the measurements that say anything say; a tie is unclear."""
    near = sum(e.says == NEAR for e in evidence)
    far = sum(e.says == FAR for e in evidence)
    return NEAR if near > far else FAR if far > near else UNCLEAR


@dataclasses.dataclass(frozen=True)
class Spacing:
    """How far classes lie from each other, by the distance of their means over the radius of a class.

    Parameters
    ----------
    median : float
        Over the classes, of the distance to the nearest other class. In many dimensions classes that a plane separates
        may lie within one radius.
    closest : float
        The smallest.
    a, b : str
        The two classes that lie there.
    """

    median: float
    closest: float
    a: str
    b: str


def spacing(X: Array, y: Array, classes: Sequence[str]) -> Spacing | None:
    """Measure the distances between classes; None where no class has two pictures, or there is one class.

    Columns are standardised. The radius of a class is its pictures' root-mean-square distance from their mean, pooled
    over the classes; what chance adds to the distance of two means is taken off.
    """
    labels, at, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(labels) < 2 or counts.max() < 2:
        return None
    F = np.asarray(X, dtype=np.float64)
    scale = F.std(axis=0)
    F = (F - F.mean(axis=0)) / np.where(scale > 0, scale, 1)
    means = np.stack([F[at == i].mean(axis=0) for i in range(len(labels))])
    radius2 = float(((F - means[at]) ** 2).sum()) / max(len(F) - len(labels), 1)
    if radius2 <= 0:
        return None
    squares = (means**2).sum(axis=1)
    squared = squares[:, None] + squares - 2 * means @ means.T - radius2 * (1 / counts[:, None] + 1 / counts)
    distance = np.sqrt(np.maximum(squared, 0) / radius2)
    np.fill_diagonal(distance, np.inf)
    i, j = divmod(int(distance.argmin()), len(labels))
    return Spacing(
        float(np.median(distance.min(axis=1))), float(distance[i, j]), classes[labels[i]], classes[labels[j]]
    )


def _between(value: float, *, far: float, near: float) -> str:
    """Return what a value says that is far on one side of `far` and near on the other side of `near`."""
    sign = 1 if near > far else -1
    return NEAR if sign * value >= sign * near else FAR if sign * value <= sign * far else UNCLEAR
