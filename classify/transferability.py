"""Scores that say, without training, which backbone's features suit a set of labelled pictures; higher is better.

LogME and the H-score read features; LEEP and NCE read what a network says of its own, original classes. They rank
networks on the same pictures and labels, and mean nothing across image sets.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

Double = npt.NDArray[np.float64]
Labels = npt.NDArray[np.signedinteger]

_STEPS = 100
_CLOSE = 1e-6


@dataclasses.dataclass(frozen=True)
class Transferability:
    """The scores of one backbone on some pictures; None where the original classifier is not known.

    Parameters
    ----------
    log_me, h_score : float
        Of the features.
    leep, nce : float or None
        Of the original classifier.
    """

    log_me: float
    h_score: float
    leep: float | None = None
    nce: float | None = None


def log_me(X: npt.NDArray[np.floating], y: Labels) -> float:
    """Return the logarithm of the maximum evidence, per picture, averaged over the classes that occur.

    Each class's indicator is taken for a Gaussian linear model of the features, whose two precisions maximise the
    evidence (You, Liu, Wang and Long 2021, arXiv:2102.11005). They are found by MacKay's fixed point on their ratio
    from one decomposition for all classes (You et al. 2022, arXiv:2110.10545); given the ratio, the scale that
    maximises the evidence is known, so that nothing overflows where the features separate the classes.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Features, not centred, as in the paper.
    y : ndarray of shape (n,)
        Labels.
    """
    F = np.asarray(X, dtype=np.float64)
    Y = _indicators(y)
    n = len(F)
    # sigma: squared singular values; power: squared projections of each target on the left singular vectors
    if F.shape[0] < F.shape[1]:
        sigma, U = np.linalg.eigh(F @ F.T)
        kept = _kept(sigma, n)
        sigma, power = sigma[kept], (U[:, kept].T @ Y) ** 2
    else:
        sigma, V = np.linalg.eigh(F.T @ F)
        kept = _kept(sigma, n)
        sigma = sigma[kept]
        power = (V[:, kept].T @ (F.T @ Y)) ** 2 / sigma[:, None]
    beyond = np.maximum((Y**2).sum(axis=0) - power.sum(axis=0), 0)
    return float(np.mean([_evidence(sigma, p, r, n) for p, r in zip(power.T, beyond, strict=True)]) / n)


def _evidence(sigma: Double, power: Double, beyond: float, n: int) -> float:
    """Return the largest log-evidence of one target: over t, the ratio of the two precisions."""
    if not len(sigma):  # features that are all zero: noise explains everything
        sigma, power = np.zeros(1), np.zeros(1)
    largest = float(sigma.max()) or 1.0
    low, high = 1e-12 * largest, 1e12 * largest  # a target that the features give exactly has t -> 0
    t = largest / len(sigma)
    for _ in range(_STEPS):
        freedom = float((sigma / (sigma + t)).sum())
        length = float((sigma * power / (sigma + t) ** 2).sum())
        error = float((power * (t / (sigma + t)) ** 2).sum()) + beyond
        wanted = freedom * error / (length * (n - freedom)) if length > 0 and n > freedom else high
        new = min(max(wanted, low), high)
        done = abs(new - t) <= _CLOSE * t
        t = new
        if done:
            break
    quadratic = float((power / (sigma + t)).sum()) + beyond / t
    determinant = float(np.log(sigma + t).sum()) + (n - len(sigma)) * np.log(t)
    return float(-0.5 * (n * np.log(2 * np.pi * quadratic / n) + n + determinant))


def h_score(X: npt.NDArray[np.floating], y: Labels, *, shrunken: bool = True) -> float:
    """Return the trace of the features' inverse covariance times the covariance of their class means.

    Between 0 and the number of classes less one (Bao et al. 2019, ICIP, doi:10.1109/ICIP.2019.8803726). With fewer
    pictures than columns the plain score is large for any features; shrunken, the covariance is that of Ledoit and
    Wolf (2004) and the class means shrink as much (Ibrahim, Ponomareva and Mazumder 2022, arXiv:2110.06893).

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Features.
    y : ndarray of shape (n,)
        Labels.
    shrunken : bool
        The second of the two.
    """
    F = np.asarray(X, dtype=np.float64)
    F = F - F.mean(axis=0)
    n, d = F.shape
    member = _indicators(y)
    counts = member.sum(axis=0)
    means = (member.T @ F) / counts[:, None]
    M = means * np.sqrt(counts / n)[:, None]  # (k, d): the covariance of the class means is M.T M
    shrinkage, mu = ledoit_wolf(F) if shrunken else (0.0, 0.0)
    # the eigenvectors of the covariance, of which at most n - 1 have any variance
    if n < d:
        values, U = np.linalg.eigh(F @ F.T / n)
        kept = _kept(values, d)
        values = values[kept]
        V = F.T @ U[:, kept] / np.sqrt(n * values)
    else:
        values, V = np.linalg.eigh(F.T @ F / n)
        kept = _kept(values, d)
        values, V = values[kept], V[:, kept]
    if not len(values):
        return 0.0
    power = ((M @ V) ** 2).sum(axis=0)  # class means lie in the span of the rows: nothing is beyond
    return float((1 - shrinkage) * (power / ((1 - shrinkage) * values + shrinkage * mu)).sum())


def ledoit_wolf(F: Double) -> tuple[float, float]:
    """Return how much the covariance of centred rows should shrink towards a multiple of one, and the multiple.

    Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4.

    Parameters
    ----------
    F : ndarray of shape (n, d)
        Rows whose mean is zero.
    """
    n, d = F.shape
    gram = F @ F.T if n < d else F.T @ F
    squared = float((gram**2).sum()) / n**2  # Frobenius norm of the covariance
    mu = float((F**2).sum()) / (n * d)
    spread = squared - d * mu**2
    noise = (float(((F**2).sum(axis=1) ** 2).sum()) / n - squared) / n
    return (min(noise, spread) / spread if spread > 0 else 0.0), mu


def leep(P: npt.NDArray[np.floating], y: Labels) -> float:
    """Return the mean log-likelihood of the labels by way of the original classes; at most 0.

    A picture's label is drawn from what the pictures say of each original class, and that class from the network's
    own probabilities (Nguyen, Hassner, Seeger and Archambeau 2020, arXiv:2002.12462).

    Parameters
    ----------
    P : ndarray of shape (n, K)
        The network's probabilities of its own classes.
    y : ndarray of shape (n,)
        Labels.
    """
    P = np.asarray(P, dtype=np.float64)
    member = _indicators(y)
    joint = member.T @ P / len(P)  # (k, K)
    marginal = joint.sum(axis=0)
    given = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    likelihood = ((P @ given.T) * member).sum(axis=1)
    return float(np.log(np.maximum(likelihood, np.finfo(float).tiny)).mean())


def nce(P: npt.NDArray[np.floating], y: Labels) -> float:
    """Return minus the entropy of the labels where the network's most probable class is known; at most 0.

    Tran, Nguyen and Hassner 2019, arXiv:1908.08142. With many original classes and few pictures it flatters: a
    class that is said of one picture tells its label.

    Parameters
    ----------
    P : ndarray of shape (n, K)
        The network's probabilities of its own classes.
    y : ndarray of shape (n,)
        Labels.
    """
    said = np.asarray(P).argmax(axis=1)
    return leep(np.eye(P.shape[1])[said], y)


def _indicators(y: Labels) -> Double:
    """Return (n, k) of 0 and 1, a column for each class that occurs."""
    member: Double = (np.asarray(y)[:, None] == np.unique(y)).astype(np.float64)
    return member


def _kept(values: Double, size: int) -> npt.NDArray[np.bool_]:
    """Return which eigenvalues are more than rounding."""
    largest = float(values.max(initial=0.0))
    kept: npt.NDArray[np.bool_] = values > largest * size * float(np.finfo(np.float64).eps)
    return kept
