"""What chance can do: intervals, paired tests, corrections for many of them, and how many pictures a test needs."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.special import bdtrik, betaincc, ndtri, stdtrit

from classify.head import Array, Floats

ALPHA = 0.05
POWER = 0.8
RESAMPLES = 2000
# Above so many pictures the normal approximation is as good as the exact test.
LARGE = 10_000_000

Interval = tuple[float, float]
Rights = npt.NDArray[np.bool_]


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval for a proportion (Wilson 1927).

    Examples
    --------
    >>> low, high = wilson_interval(147, 153)
    >>> round(low, 3), round(high, 3)
    (0.917, 0.982)
    """
    z = float(ndtri(0.5 + confidence / 2))
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def t_interval(values: Sequence[float], *, shared: float = 0.0, confidence: float = 0.95) -> Interval | None:
    """Return Student's interval for the mean of repeats; None where they cannot say.

    Parameters
    ----------
    values : sequence of float
        One for each repeat.
    shared : float
        Share of its sample that a repeat has in common with any other, being drawn from the same few: 0 for
        independent repeats. The luck of what is shared shows in no repeat, so the variance of the mean is not s^2 / r
        but s^2 (1 / r + shared / (1 - shared)), as in Nadeau and Bengio 2003 (Machine Learning 52, 239-281).
    confidence : float
        Of the interval.

    Returns
    -------
    tuple of float or None
        None for fewer than two repeats, or repeats that share everything.

    Examples
    --------
    >>> low, high = t_interval([0.90, 0.92, 0.94])
    >>> round(low, 3), round(high, 3)
    (0.87, 0.97)
    """
    r = len(values)
    if r < 2 or shared >= 1:
        return None
    error = float(np.std(values, ddof=1)) * np.sqrt(1 / r + shared / (1 - shared))
    mean, half = float(np.mean(values)), float(stdtrit(r - 1, 0.5 + confidence / 2) * error)
    return mean - half, mean + half


def mcnemar_exact(a: Rights, b: Rights) -> float:
    """Return the two-sided exact p-value that two heads, right on `a` and `b`, are equally good (McNemar 1947).

    Examples
    --------
    >>> import numpy as np
    >>> mcnemar_exact(np.array([True] * 6), np.array([False] * 6))
    0.03125
    """
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    fewer = binomial_cdf(np.array(min(only_a, only_b)), np.array(only_a + only_b), 0.5)
    return min(2 * float(fewer), 1.0)


def paired_interval(lost: int, won: int, n: int, confidence: float = 0.95) -> Interval:
    """Return an interval for the difference of two accuracies on the same n pictures.

    Wald's interval with half a picture more in each of the four cells (Agresti and Min 2005, Statistics in Medicine 24,
    729-740), which keeps its level also where few or no pictures differ.

    Parameters
    ----------
    lost, won : int
        Pictures that the first alone gets right, and the second alone.
    n : int
        Pictures in all.

    Examples
    --------
    >>> low, high = paired_interval(43, 27, 864)
    >>> round(low, 3), round(high, 3)
    (-0.038, 0.001)
    """
    z = float(ndtri(0.5 + confidence / 2))
    only_a, only_b, total = lost + 0.5, won + 0.5, n + 2
    middle = (only_b - only_a) / total
    half = z * np.sqrt(only_a + only_b - (only_b - only_a) ** 2 / total) / total
    return max(float(middle - half), -1.0), min(float(middle + half), 1.0)


def holm(p_values: list[float]) -> list[float]:
    """Return Holm's adjusted p-values in the order given (Holm 1979).

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


def balanced_and_f1(right: Floats, support: Floats, answered: Floats) -> tuple[Floats, Floats]:
    """Return balanced accuracy and macro-F1, (r,) each, of counts (r, k): right, of the class, and answered so.

    Recall is averaged over the classes that occur, F1 over those that occur or were answered.
    """
    recall = np.divide(right, support, out=np.full(right.shape, np.nan), where=support > 0)
    either = support + answered
    f1 = np.divide(2 * right, either, out=np.full(right.shape, np.nan), where=either > 0)
    return np.nanmean(recall, axis=1), np.nanmean(f1, axis=1)


def bootstrap(
    y: Array, answers: Array, losses: Floats, n_classes: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Floats]:
    """Return the scores of several heads on resampled pictures, the same pictures for every head.

    Parameters
    ----------
    y : ndarray of shape (n,)
        True classes.
    answers, losses : ndarray of shape (n, h)
        Each head's answer to each picture, and its negative log-likelihood.
    n_classes : int
        Number of classes, k.
    resamples : int
        Number of draws of n pictures with replacement, r.
    seed : int
        Of the draws, which depend on n and the seed alone.

    Returns
    -------
    dict of str to ndarray of shape (r, h)
        ``accuracy``, ``balanced_accuracy``, ``macro_f1`` and ``log_loss``.
    """
    rng = np.random.default_rng(seed)
    n, heads = answers.shape
    members = _members(y, n_classes)
    rights = [_members(np.where(answers[:, j] == y, y, -1), n_classes) for j in range(heads)]
    answered = [_members(answers[:, j], n_classes) for j in range(heads)]
    names = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
    drawn = {name: np.empty((resamples, heads)) for name in names}
    step = max(1, min(resamples, 4_000_000 // max(n, n_classes)))  # 32 MB at a time
    for start in range(0, resamples, step):
        rows = slice(start, min(start + step, resamples))
        count = rows.stop - start
        # how often each picture was drawn, (n, count)
        cells = rng.integers(0, n, size=(count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(cells.ravel(), minlength=n * count).reshape(count, n).T.astype(np.float64, order="C")
        support = (members @ times).T  # (count, k)
        for j in range(heads):
            right = (rights[j] @ times).T
            balanced, f1 = balanced_and_f1(right, support, (answered[j] @ times).T)
            drawn["accuracy"][rows, j] = right.sum(axis=1) / n
            drawn["balanced_accuracy"][rows, j] = balanced
            drawn["macro_f1"][rows, j] = f1
            drawn["log_loss"][rows, j] = np.ascontiguousarray(losses[:, j]) @ times / n
    return drawn


def _members(labels: Array, n_classes: int) -> csr_array:
    """Return the sparse (k, n) matrix of which picture is in which class; -1 is in none."""
    columns = np.flatnonzero(labels >= 0)
    ones = np.ones(len(columns))
    return csr_array((ones, (labels[columns], columns)), shape=(n_classes, len(labels)))


def percentile_interval(drawn: Floats) -> Interval:
    """Return the 95% percentile interval of resampled scores, (r,)."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def paired_bootstrap(difference: float, drawn: Floats) -> float:
    """Return the two-sided p-value that two heads have the same score.

    The resampled differences, moved to have none, say what chance does: the p-value is the share of them that is as
    large as the one observed (Efron and Tibshirani 1993, chapter 16; for systems on one test set Berg-Kirkpatrick
    et al. 2012).

    Parameters
    ----------
    difference : float
        Between the two scores on the pictures.
    drawn : ndarray of shape (r,)
        The same on resampled pictures, as `bootstrap` draws them.

    Examples
    --------
    >>> import numpy as np
    >>> paired_bootstrap(0.0, np.zeros(99)), paired_bootstrap(1.0, np.ones(99))
    (1.0, 0.01)
    """
    extreme = np.abs(drawn - difference) >= abs(difference) - 1e-12
    return (1 + int(extreme.sum())) / (1 + len(drawn))


def resamples_for(tests: int) -> int:
    """Return how many resamples leave room for Holm's correction over so many tests to find anything.

    The smallest p-value is one in r + 1; times the number of tests it must stay well below 0.05.
    """
    return max(RESAMPLES, 40 * tests)


def winners_optimism(accuracy: Floats, drawn: Floats) -> float:
    """Return how much better than it is the best of several heads looks on the pictures that made it the best.

    On each resample a winner is chosen, and its accuracy there compared with its accuracy on all the pictures: the
    bootstrap's estimate of optimism (Efron and Tibshirani 1993, chapter 17), with the choice as the fit.

    Parameters
    ----------
    accuracy : ndarray of shape (h,)
        On the pictures.
    drawn : ndarray of shape (r, h)
        On resampled pictures.
    """
    winners = drawn.argmax(axis=1)
    return float((drawn[np.arange(len(drawn)), winners] - accuracy[winners]).mean())


@dataclasses.dataclass(frozen=True)
class Separation:
    """What it takes to tell two heads apart by McNemar's exact test, at 80% power and alpha 0.05.

    Parameters
    ----------
    difference : float
        In accuracy, as observed.
    discordant : float
        Share of pictures that exactly one of the two gets right, as observed.
    pictures : int or None
        Test pictures that would separate them if these shares are the true ones; None where no number would.
    detectable : float or None
        The smallest difference in accuracy that the pictures at hand would show at this share of discordant ones;
        None where not even the largest would.
    """

    difference: float
    discordant: float
    pictures: int | None
    detectable: float | None


def separation(a: Rights, b: Rights) -> Separation:
    """Return what it takes to tell apart two heads that are right on `a` and `b`, (n,) each."""
    n = len(a)
    only_a, only_b = float((a & ~b).mean()), float((~a & b).mean())
    return Separation(
        difference=only_a - only_b,
        discordant=only_a + only_b,
        pictures=pictures_needed(only_a, only_b),
        detectable=detectable_difference(n, only_a + only_b),
    )


def mcnemar_power(n: int, only_a: float, only_b: float, alpha: float = ALPHA) -> float:
    """Return the chance that McNemar's exact test on n pictures tells two heads apart.

    Exactly, by summing over the number of discordant pictures, which is binomial.

    Parameters
    ----------
    n : int
        Number of test pictures.
    only_a, only_b : float
        True share of pictures that only the first and only the second gets right.

    Examples
    --------
    >>> round(mcnemar_power(500, 0.06, 0.02), 2)
    0.87
    """
    share = only_a + only_b
    if share <= 0:
        return 0.0
    reach = 8 * np.sqrt(n * share * (1 - share)) + 8
    d = np.arange(max(0, int(n * share - reach)), min(n, int(n * share + reach)) + 1)
    critical, toward = largest_rejected(d, alpha), only_a / share
    rejects = binomial_cdf(critical, d, toward) + binomial_cdf(critical, d, 1 - toward)
    return float((np.diff(binomial_cdf(np.append(d[0] - 1, d), np.array(n), share)) * rejects).sum())


def binomial_cdf(k: Array, n: Array, p: float) -> Floats:
    """Return the chance of at most k hits in n trials that each hit with chance p.

    That is what the incomplete beta function says (Abramowitz and Stegun 1964, 26.5.24); scipy's own distributions
    take longer to import than a head to fit.

    Examples
    --------
    >>> binomial_cdf(np.array([-1, 0, 1, 2]), np.array(2), 0.5)
    array([0.  , 0.25, 0.75, 1.  ])
    """
    inside = (k >= 0) & (k < n)
    chance = betaincc(np.where(inside, k + 1.0, 1.0), np.where(inside, n - k, 1.0), p)
    return np.asarray(np.where(inside, chance, k >= n), dtype=np.float64)


def largest_rejected(d: Array, alpha: float) -> Floats:
    """Return the largest count of d discordant pictures, on the lower side, that McNemar's exact test rejects; or -1.

    The test is symmetric, so that this says all.
    """
    k = np.floor(bdtrik(alpha / 2, np.maximum(d, 1), 0.5))
    k = np.where(
        2 * binomial_cdf(k + 1, d, 0.5) <= alpha, k + 1, k
    )  # the inverse is a continuous one, perhaps a hair off
    return np.asarray(np.where(2 * binomial_cdf(k, d, 0.5) <= alpha, k, k - 1))


def pictures_needed(only_a: float, only_b: float, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """Return how many test pictures McNemar's exact test needs for this power; None where no number would do.

    The start is the formula of Connor 1987 (Biometrics 43, 207-211): ((z_a sqrt(s) + z_b sqrt(s - d^2)) / d)^2 for a
    share s of discordant pictures and a difference d. It speaks of the test's normal approximation; the exact test
    needs a few more, which `mcnemar_power` finds.

    Examples
    --------
    >>> pictures_needed(0.06, 0.02)
    421
    """
    share, difference = only_a + only_b, abs(only_a - only_b)
    if difference == 0:
        return None
    z_a, z_b = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    connor = ((z_a * np.sqrt(share) + z_b * np.sqrt(max(share - difference**2, 0))) / difference) ** 2
    if connor > LARGE:
        return int(np.ceil(connor))
    low, high = 0, int(2 * connor) + 50
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if mcnemar_power(middle, only_a, only_b, alpha) >= power else (middle, high)
    return high


def detectable_difference(n: int, discordant: float, power: float = POWER, alpha: float = ALPHA) -> float | None:
    """Return the smallest difference in accuracy that McNemar's exact test on n pictures shows with this power.

    Parameters
    ----------
    n : int
        Number of test pictures.
    discordant : float
        Share of pictures that exactly one of the two heads gets right.

    Returns
    -------
    float or None
        None where even a difference as large as `discordant` would not be seen.
    """

    def seen(difference: float) -> bool:
        return mcnemar_power(n, (discordant + difference) / 2, (discordant - difference) / 2, alpha) >= power

    if not seen(discordant):
        return None
    low, high = 0.0, discordant
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high
