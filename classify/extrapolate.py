"""Where a learning curve leads: a power law, tried on what is known before it is believed.

The error of a classifier falls with the number n of its training pictures about as ``a + b n^-c`` (Hestness et al.
2017, arXiv:1712.00409; for few samples Figueroa et al. 2012, doi:10.1186/1472-6947-12-8).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv

from classify.head import Floats
from classify.statistics import Interval

FACTORS = (2, 4)
HELP, LITTLE, UNKNOWN = "help", "little", "unknown"
_LITTLE = 0.01  # of accuracy; what another doubling gives is worth no one's time below it
_RESAMPLES = 400
_FEWEST = 4  # sizes, for three parameters
# Hestness et al. saw exponents of 0.07 to 0.5; a mean's error has 1.
_EXPONENTS = np.geomspace(0.05, 2.0, 40)


@dataclasses.dataclass(frozen=True)
class Law:
    """The power law ``error = a + b n^-c`` of one fit; every number at least 0."""

    a: float
    b: float
    c: float

    def accuracy(self, n: Sequence[float]) -> list[float]:
        """Return the accuracy at sizes n."""
        return [1 - self.a - self.b * size**-self.c for size in n]


@dataclasses.dataclass(frozen=True)
class Backtest:
    """A forecast of what is known: the law fitted to the sizes up to a fraction of all, asked about all.

    Parameters
    ----------
    factor : int
        How many times further than its data the law had to see.
    fitted_to : int
        The largest size that it knew.
    predicted, measured : float
        Accuracy on all pictures.
    passed : bool
        Whether the bootstrap cannot tell the two apart.
    """

    factor: int
    fitted_to: int
    predicted: float
    measured: float
    passed: bool


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The mean accuracy to expect with more training pictures, and its 95% interval on pictures like these."""

    factor: int
    size: int
    accuracy: float
    accuracy_ci95: Interval


@dataclasses.dataclass(frozen=True)
class Extrapolation:
    """What a learning curve says of more pictures.

    Parameters
    ----------
    law : Law or None
        Fitted to the whole curve; None where nothing can be told.
    backtests : list of Backtest
        Tried before.
    forecasts : list of Forecast
        At 2 and 4 times the pictures; only at distances that a backtest has passed.
    reason : str
        Why nothing, or no more, can be told; empty where all can.
    """

    law: Law | None
    backtests: list[Backtest]
    forecasts: list[Forecast]
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return the extrapolation as `fit --json` prints it."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Slope:
    """What the last doubling of the training pictures gave, and so whether more pictures help.

    Parameters
    ----------
    sizes : list of int
        Training pictures.
    accuracies : list of float
        Mean over the repeats.
    gain : float
        Of the last doubling, in accuracy.
    interval : tuple of float
        95%, over measured pictures and draws of training pictures.
    says : str
        ``help``, ``little`` or ``unknown``.
    reason : str
        Why it is unknown, where the interval alone does not say so; else empty.
    """

    sizes: list[int]
    accuracies: list[float]
    gain: float
    interval: Interval
    says: str
    reason: str

    @property
    def sentence(self) -> str:
        """The verdict with its figures, in the same words wherever it is told."""
        path = ", ".join(f"{100 * a:.1f}% of {n:,}" for n, a in zip(self.sizes, self.accuracies, strict=True))
        low, high = (100 * bound for bound in self.interval)
        verdict = {
            HELP: "more pictures help",
            LITTLE: "more pictures like these would give less than a point",
            UNKNOWN: "whether more pictures help cannot be told",
        }[self.says]
        return (
            f"{path} pictures; the last doubling gave {100 * self.gain:+.1f} points [{low:+.1f}, {high:+.1f}], so "
            f"{verdict}{f': {self.reason}' if self.reason else ''}."
        )


@dataclasses.dataclass(frozen=True)
class _Curve:
    """Sizes (s,), the mean error at each, (s, 1), resampled errors, (s, b), and the weight of each size."""

    sizes: Floats
    error: Floats
    drawn: Floats

    def upto(self, largest: float) -> "_Curve":
        keep = self.sizes <= largest
        return _Curve(self.sizes[keep], self.error[keep], self.drawn[keep])

    @property
    def weights(self) -> Floats:
        """One over the variance of each size's error, without what all sizes share."""
        own = (self.drawn - self.drawn.mean(axis=0)).var(axis=1)
        return np.asarray(1 / (own + 0.1 * own.mean() + 1e-12))


def extrapolate(sizes: Sequence[int], rights: Sequence[npt.NDArray[np.bool_]], *, seed: int = 0) -> Extrapolation:
    """Fit a power law to a learning curve and say what 2 and 4 times the pictures would give, or that none can tell.

    The interval holds the measured pictures (resampled), the draw of the training pictures (repeats resampled, and the
    part that they share estimated from their spread), the law (with and without a floor, where both fit) and, added
    to both ends, the error that the same forecast made on the known part of the curve.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of training pictures, rising; the last is all.
    rights : sequence of ndarray of shape (repeats, n), bool
        Which measured pictures each repeat got right, for each size.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Extrapolation
    """
    curve = _resampled(np.asarray(sizes, dtype=float), rights, seed)
    largest = float(curve.sizes[-1])
    if len(curve.upto(largest / FACTORS[0]).sizes) < _FEWEST:
        return _cannot(f"the curve is too short: {_FEWEST} sizes up to half of the pictures are needed")
    if len(rights[0]) < 2:
        return _cannot("one repeat says nothing of its own spread: give --repeats 2 or more")
    fall = curve.drawn[0] - curve.drawn[-1]
    if np.percentile(fall, 2.5) <= 0:
        return _cannot(
            f"no rise beyond chance: from {sizes[0]} to {sizes[-1]} pictures the accuracy changed by {fall.mean():+.3f}"
        )
    a, b, c, loss = (float(x[0]) for x in _fit(curve.sizes, curve.error, curve.weights))
    if loss > 2 * gammaincinv((len(sizes) - 3) / 2, 0.99):
        return _cannot("the curve does not run along a power law, so none can lead it on")
    backtests, forecasts, reason = [], [], ""
    for factor in FACTORS:
        test = _backtest(curve, factor)
        if test is None:
            reason = f"the curve is too short to try a forecast of {factor} times the pictures"
            break
        backtests.append(test)
        if not test.passed:
            reason = (
                f"from {test.fitted_to:,} pictures the law predicts {test.predicted:.3f} for {sizes[-1]:,}, "
                f"where {test.measured:.3f} was measured"
            )
            break
        forecasts.append(_forecast(curve, factor, abs(test.predicted - test.measured)))
    return Extrapolation(Law(a, b, c) if forecasts else None, backtests, forecasts, reason)


def last_doubling(sizes: Sequence[int], rights: Sequence[npt.NDArray[np.bool_]], *, seed: int = 0) -> Slope:
    """Say from three sizes, each twice the one before, whether more training pictures help.

    Gains shrink from doubling to doubling where the error follows a power law. So the last one bounds the next, and
    the one before it must not be smaller: where the resamples say that it is, the curve has not foretold its own end,
    and nothing is said of what lies beyond.

    Parameters
    ----------
    sizes, rights, seed
        As for `extrapolate`; the last size may be all.

    Returns
    -------
    Slope
        ``help`` where the whole interval of the last gain is above zero, ``little`` where it is below a point.
    """
    curve = _resampled(np.asarray(sizes, dtype=float), rights, seed)
    before, last = curve.drawn[-3] - curve.drawn[-2], curve.drawn[-2] - curve.drawn[-1]
    low, high = (float(end) for end in np.percentile(last, [2.5, 97.5]))
    accuracies = (1 - curve.error[:, 0]).tolist()
    first, gain = accuracies[-2] - accuracies[-3], accuracies[-1] - accuracies[-2]
    says, reason = HELP if low > 0 else LITTLE if high < _LITTLE else UNKNOWN, ""
    if np.percentile(last - np.maximum(before, 0), 2.5) > 0:
        says = UNKNOWN
        reason = f"the doubling before it gave {100 * first:+.1f}, and where a curve can be led on gains shrink"
    return Slope(list(sizes), accuracies, gain, (low, high), says, reason)


def _cannot(reason: str) -> Extrapolation:
    return Extrapolation(None, [], [], reason)


def _resampled(sizes: Floats, rights: Sequence[npt.NDArray[np.bool_]], seed: int) -> _Curve:
    """Draw measured pictures and repeats anew, the same for every size."""
    rng = np.random.default_rng(seed)
    repeats, n = rights[0].shape
    pictures = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).T.astype(np.float32) / n  # (n, b)
    draws = rng.multinomial(repeats, np.full(repeats, 1 / repeats), size=_RESAMPLES).T / repeats  # (r, b)
    drawn = np.stack([(((~right).astype(np.float32) @ pictures) * draws).sum(axis=0) for right in rights])
    spread = _spread(sizes, rights)
    # Repeats drawn from N pictures share n/N of them. What the N themselves owe to chance no repeat can show: it has
    # that share of the variance, and is the same picture of luck at every size.
    luck = rng.normal(size=_RESAMPLES)
    drawn = drawn + (spread * np.sqrt(sizes / sizes[-1]))[:, None] * luck
    error = np.array([[1 - float(right.mean())] for right in rights])
    return _Curve(sizes, error, np.clip(drawn, 0, 1))


def _spread(sizes: Floats, rights: Sequence[npt.NDArray[np.bool_]]) -> Floats:
    """Return the deviation of the error between training sets of each size, as a power of the size.

    Seen where repeats share at most half of their pictures, and corrected for what they share.
    """
    shared = sizes / sizes[-1]
    variance = np.array([float(right.mean(axis=1).var(ddof=1)) if len(right) > 1 else 0.0 for right in rights])
    seen = (shared <= 0.5) & (variance > 0)
    if seen.sum() < 2:
        return np.zeros(len(sizes))
    slope, level = np.polyfit(np.log(sizes[seen]), np.log(variance[seen] / (1 - shared[seen])), 1)
    return np.asarray(np.exp(0.5 * (level + min(float(slope), 0.0) * np.log(sizes))))


def _fit(sizes: Floats, error: Floats, weights: Floats, *, floor: bool = True) -> tuple[Floats, Floats, Floats, Floats]:
    """Return a, b, c and the weighted sum of squares, (m,) each, of the best law for each column of errors (s, m).

    For a given exponent the law is linear in a and b, so a and b are solved for along a grid of exponents (variable
    projection, Golub and Pereyra 1973): no start, no local minimum.
    """
    w = weights[:, None]
    sw, sy, syy = weights.sum(), (w * error).sum(axis=0), (w * error**2).sum(axis=0)  # (m,)
    best = [np.full(error.shape[1], np.inf) for _ in range(4)]
    for c in _EXPONENTS:
        x = sizes[:, None] ** -c
        sx, sxx, sxy = (w * x).sum(), (w * x * x).sum(), (w * x * error).sum(axis=0)
        b = (sw * sxy - sx * sy) / (sw * sxx - sx * sx)
        a = (sy - b * sx) / sw
        down = (a < 0) | (not floor)
        a, b = np.where(down, 0.0, a), np.where(down, sxy / sxx, b)
        up = b < 0
        a, b = np.where(up, sy / sw if floor else 0.0, a), np.where(up, 0.0, b)
        loss = syy - 2 * (a * sy + b * sxy) + a * a * sw + 2 * a * b * sx + b * b * sxx
        better = loss < best[3]
        best = [np.where(better, new, old) for new, old in zip((a, b, np.full_like(a, c), loss), best, strict=True)]
    return best[0], best[1], best[2], best[3]


def _predict(curve: _Curve, size: float) -> tuple[float, list[Floats]]:
    """Return the law's error at a size, and that of every resample, by the law and, if it fits too, without floor."""
    weights = curve.weights
    drawn, point = [], np.nan
    losses = []
    for floor in (True, False):
        a, b, c, loss = _fit(curve.sizes, curve.error, weights, floor=floor)
        losses.append(float(loss[0]))
        if floor:
            point = float(a[0] + b[0] * size ** -c[0])
        elif losses[1] - losses[0] > 3.84:  # chi-squared of one parameter at 5%
            break
        a, b, c, _ = _fit(curve.sizes, curve.drawn, weights, floor=floor)
        drawn.append(a + b * size**-c)
    return point, drawn


def _backtest(curve: _Curve, factor: int) -> Backtest | None:
    largest = float(curve.sizes[-1])
    known = curve.upto(largest / factor)
    if len(known.sizes) < _FEWEST:
        return None
    point, drawn = _predict(known, largest)
    # the same resamples on both sides, so what the measured pictures have in common cancels
    ends = [np.percentile(predicted - curve.drawn[-1], [2.5, 97.5]) for predicted in drawn]
    passed = min(end[0] for end in ends) <= 0 <= max(end[1] for end in ends)
    return Backtest(factor, int(known.sizes[-1]), 1 - point, 1 - float(curve.error[-1, 0]), bool(passed))


def _forecast(curve: _Curve, factor: int, missed: float) -> Forecast:
    size = factor * float(curve.sizes[-1])
    point, drawn = _predict(curve, size)
    ends = [np.percentile(predicted, [2.5, 97.5]) for predicted in drawn]
    low, high = min(end[0] for end in ends) - missed, max(end[1] for end in ends) + missed
    return Forecast(factor, int(size), 1 - point, (max(float(1 - high), 0.0), min(float(1 - low), 1.0)))
