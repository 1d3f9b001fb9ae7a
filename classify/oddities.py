"""Classes, folders, pictures and splits that look wrong, each by a test with its size beside it."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import hypergeom, norm, rankdata
from sklearn.exceptions import ConvergenceWarning

from classify.duplicates import Indices, Neighbours
from classify.head import Array, Floats
from classify.statistics import ALPHA, Interval, holm
from classify.trials import Scaler

# Two classes are told apart where a picture of one is put on the right side of a picture of the other more often than
# three times in four: half way between chance and never wrong.
_APART = 0.75
_FEWEST = 5  # pictures of a folder, or of each of two classes, below which nothing is said of it
_GROUPED = 40  # pictures of a class, so that halves of it can be cut in two
_SEEN = 2000  # pictures of a class that are looked at for two groups


@dataclasses.dataclass(frozen=True)
class Lookalikes:
    """Two classes that cannot be told apart: the chance that a picture of b looks more like b than one of a does."""

    a: int
    b: int
    auc: float
    auc_ci95: Interval


@dataclasses.dataclass(frozen=True)
class TwoGroups:
    """A class that falls into two: the rows of both groups, the most typical first, and Ashman's D between them."""

    label: int
    groups: tuple[Indices, Indices]
    distance: float


@dataclasses.dataclass(frozen=True)
class OddFolder:
    """A folder whose pictures are answered wrongly more often than the rest of their class."""

    folder: str
    label: int
    n: int
    wrong: int
    rest: int
    rest_wrong: int
    p_value: float
    p_holm: float
    suggested: int


def auc_interval(score: Floats, positive: npt.NDArray[np.bool_]) -> tuple[float, Interval]:
    """Return the area under the ROC curve and its 95% interval.

    The interval is Newcombe's (2006, method 5): Hanley and McNeil's variance at the bound rather than at the estimate,
    so that it has a width where all pairs are in order.

    Examples
    --------
    >>> import numpy as np
    >>> auc, (low, high) = auc_interval(np.arange(40.0), np.arange(40) >= 20)
    >>> auc, round(low, 3), round(high, 3)
    (1.0, 0.899, 1.0)
    """
    m, n = int(positive.sum()), int((~positive).sum())
    area = float((rankdata(score)[positive].sum() - m * (m + 1) / 2) / (m * n))
    z, mean = float(norm.ppf(0.975)), (m + n) / 2 - 1

    def beyond(t: float) -> float:
        variance = t * (1 - t) * (1 + mean * ((1 - t) / (2 - t) + t / (1 + t))) / (m * n)
        return abs(area - t) - z * float(np.sqrt(variance))

    # off the estimate itself, where at 0 and 1 the variance is nothing and every bound would fit
    low = brentq(beyond, 1e-12, area - 1e-9) if area > 1e-6 else 0.0
    high = brentq(beyond, area + 1e-9, 1 - 1e-12) if area < 1 - 1e-6 else 1.0
    return area, (float(low), float(high))


def lookalike_classes(probabilities: Floats, y: Array, matrix: Indices) -> list[Lookalikes]:
    """Return pairs of classes that a head cannot tell apart, the closest first.

    Each class is compared with the one that it is most often taken for, by the ratio of the two probabilities. A pair
    is named where the whole interval of its AUC lies below 3/4.
    """
    held = np.asarray(~np.isnan(probabilities).any(axis=1))
    mixed = matrix + matrix.T
    np.fill_diagonal(mixed, 0)
    pairs = sorted({(min(i, j), max(i, j)) for i, j in enumerate(mixed.argmax(axis=1).tolist()) if mixed[i, j]})
    found = []
    for a, b in pairs:
        rows = np.flatnonzero(held & ((y == a) | (y == b)))
        is_b = y[rows] == b
        if min(is_b.sum(), (~is_b).sum()) < _FEWEST:
            continue
        p = np.maximum(probabilities[rows], 1e-300)
        area, interval = auc_interval(np.log(p[:, b]) - np.log(p[:, a]), is_b)
        if interval[1] < _APART:
            found.append(Lookalikes(a, b, area, interval))
    return sorted(found, key=lambda pair: (pair.auc, pair.a, pair.b))


def classes_in_two(X: Array, y: Array, seed: int = 0) -> list[TwoGroups]:
    """Return the classes whose pictures form two groups, the widest apart first.

    Two-means on one half of a class gives an axis; the other half is projected on it, so that the axis has not been
    drawn through chance. There two normal distributions must explain the projections better than one, by a difference
    of 10 in BIC ('very strong', Raftery 1995), lie apart by D > 2 (Ashman, Bird and Zepf 1994), and the smaller must
    have a tenth of the pictures; and the same again with the halves exchanged. D is the smaller of the two.
    """
    from sklearn.cluster import KMeans

    scaler = Scaler.fit(X)
    found = []
    for label in np.unique(y[y >= 0]):
        rng = np.random.default_rng([seed, int(label)])
        rows = rng.permutation(np.flatnonzero(y == label))[:_SEEN]
        if len(rows) < _GROUPED:
            continue
        Z = scaler.transform(X[rows])
        halves = Z[: len(Z) // 2], Z[len(Z) // 2 :]
        distance = min(_distance_apart(*halves, seed), _distance_apart(*halves[::-1], seed))
        if distance > 2:
            model = KMeans(2, n_init=4, random_state=seed).fit(Z)
            near = model.transform(Z)
            groups = [np.flatnonzero(model.labels_ == g) for g in (0, 1)]
            typical = [rows[g[np.argsort(near[g, i], kind="stable")]] for i, g in enumerate(groups)]
            typical.sort(key=len, reverse=True)
            found.append(TwoGroups(int(label), (typical[0], typical[1]), distance))
    return sorted(found, key=lambda group: (-group.distance, group.label))


def _distance_apart(one: Array, other: Array, seed: int) -> float:
    """Return Ashman's D between two groups in `other` along the axis of those in `one`; 0 where it is one group."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    centres = KMeans(2, n_init=4, random_state=seed).fit(one).cluster_centers_
    line = (other @ (centres[1] - centres[0])).astype(np.float64)[:, None]
    if np.ptp(line) == 0:
        return 0.0
    line = (line - line.mean()) / line.std()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        one_group, two = (GaussianMixture(g, n_init=3, random_state=seed).fit(line) for g in (1, 2))
    if one_group.bic(line) - two.bic(line) < 10 or two.weights_.min() < 0.1:
        return 0.0
    return float(abs(np.diff(two.means_.ravel())[0]) / np.sqrt(two.covariances_.mean()))


def odd_folders(paths: Sequence[str], probabilities: Floats, y: Array) -> list[OddFolder]:
    """Return the folders that are answered wrongly significantly more often than the rest of their class.

    Fisher's exact test, one-sided, is the binomial test where the rate of the rest is counted rather than known;
    Holm's correction is over all folders tested. A class in one folder has no rest to compare with.
    """
    held = np.asarray(~np.isnan(probabilities).any(axis=1))
    answers = np.where(held[:, None], probabilities, 0).argmax(axis=1)
    wrong = np.asarray(answers != y)
    folders: dict[tuple[str, int], list[int]] = {}
    for row, path in enumerate(paths):
        if held[row]:
            folders.setdefault((path.rpartition("/")[0], int(y[row])), []).append(row)
    size, errors = np.bincount(y[held]), np.bincount(y[held], weights=wrong[held]).astype(int)
    tested = []
    for (folder, label), rows in sorted(folders.items()):
        n, rest = len(rows), int(size[label]) - len(rows)
        if n < _FEWEST or rest < _FEWEST:
            continue
        missed = int(wrong[rows].sum())
        # P(at least `missed` of the class's errors fall among this folder's n pictures)
        p = float(hypergeom.sf(missed - 1, n + rest, int(errors[label]), n))
        taken_for = np.bincount(answers[rows][wrong[rows]], minlength=1)
        tested.append((folder, label, n, missed, rest, int(errors[label]) - missed, p, int(taken_for.argmax())))
    adjusted = holm([row[6] for row in tested])
    found = [OddFolder(*row[:7], q, row[7]) for row, q in zip(tested, adjusted, strict=True) if q < ALPHA]
    return sorted(found, key=lambda folder: (folder.p_value, folder.folder))


def outliers(neighbours: Neighbours) -> tuple[Indices, Floats, int]:
    """Return the pictures least like any other, how far they are in deviations, and how many are beyond chance.

    The measure is the similarity (Fisher's z) to the tenth nearest, so that a picture with a few copies is still
    found; Euclidean distances would name the pictures with large vectors instead. Its median and the deviation of its
    lower half are robust; the fence is the one that a normal distribution of n pictures passes in one set of twenty.
    Cosines have a floor, so a strange picture may stay within it: the ten farthest are returned in any case.
    """
    n, m = neighbours.similarity.shape
    if n < 2 * _FEWEST or not m:
        return np.empty(0, np.int64), np.empty(0), 0
    level = neighbours.z[:, min(10, m) - 1]
    low, median = np.quantile(level, [0.25, 0.5])
    unit = max((median - low) / float(norm.ppf(0.75)), 1e-9)
    far = (median - level) / unit
    beyond = int((far > norm.isf(0.05 / n)).sum())
    rows = np.argsort(-far, kind="stable")[: max(beyond, 10)].astype(np.int64)
    return rows, far[rows], beyond
