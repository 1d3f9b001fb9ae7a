"""Probabilities from scores: temperature and Platt scaling on held-out scores, and what they are worth."""

import dataclasses

import numpy as np
import numpy.typing as npt

from classify.head import Array, Floats, logits, softmax
from data.errors import HeadError

METHODS = ("temperature", "platt", "none")
_BINS = 15  # as in Guo et al. 2017, arXiv:1706.04599
_PARTS = 5
# A temperature is looked for within a factor of e^7 of the mean distance of a score from the highest of its row, until
# it moves by less than 1e-9, or no longer changes the log-loss: where nothing is wrong the best would be infinite.
_REACH = 7.0
_STEPS = 100
_CLOSE = 1e-9
_FLAT = 1e-13


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How far probabilities are to be believed: expected calibration error, and log-loss in nats."""

    ece: float
    log_loss: float

    @classmethod
    def of(cls, probabilities: Floats, y: Array) -> "Reliability":
        """Measure probabilities (n, k) of rows whose labels are y (n,)."""
        return cls(calibration_error(probabilities, probabilities.argmax(axis=1) == y), log_loss(probabilities, y))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How scores become probabilities: the softmax of `classify.head.logits`.

    Parameters
    ----------
    method : str
        One of `METHODS`.
    scale : float or ndarray of shape (k,)
        One divided by the temperature, or a factor for each class.
    bias : float or ndarray of shape (k,)
        0 but for Platt scaling.
    before, after : Reliability or None
        Of the softmax of the held-out scores as they are, and of those calibrated by what was fitted on the other
        folds; None where nothing was held out.
    """

    method: str
    scale: float | Floats
    bias: float | Floats
    before: Reliability | None
    after: Reliability | None

    def transform(self, scores: Floats) -> Floats:
        """Return probabilities, (n, k) float64, for scores (n, k)."""
        return softmax(logits(scores, self.scale, self.bias))


def calibrate(scores: Floats, y: Array, folds: Array, method: str = "temperature") -> Calibration:
    """Fit the calibration of a head on scores of rows that it was not trained on, and measure it honestly.

    Parameters
    ----------
    scores : ndarray of shape (n, k), float64
        Held-out scores, of `Head.scores`.
    y : ndarray of shape (n,)
        Labels, 0 .. k - 1.
    folds : ndarray of shape (n,)
        The fold in which each row was held out. Where there is one only, such as a val split, the rows are dealt over
        five parts instead.
    method : str
        ``temperature``: one factor, which moves no decision; ``platt``: a factor and a bias, for each class where
        there are more than two, which may; ``none``: the scores as they are.

    Returns
    -------
    Calibration
        Fitted on all rows; its `after` is of rows that had no part in the fit that calibrated them.

    Raises
    ------
    HeadError
        If there is no such method.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 400)
    >>> margin = 10 * (y - 0.5 + rng.normal(size=400))  # far too sure
    >>> found = calibrate(np.stack([-margin / 2, margin / 2], axis=1), y, np.arange(400) % 5)
    >>> found.before.ece > 0.2 > 0.1 > found.after.ece
    True
    """
    if method not in METHODS:
        raise HeadError(f"no way to calibrate {method!r}: choose one of {', '.join(METHODS)}")
    scale, bias = _fit(scores, y, method)
    if not len(y):
        return Calibration(method, scale, bias, None, None)
    before = Reliability.of(softmax(scores), y)
    if method == "none":
        return Calibration(method, scale, bias, before, before)
    parts = folds if len(np.unique(folds)) > 1 else _deal(y)
    probabilities = softmax(scores)
    for part in np.unique(parts):
        inside, outside = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        if len(inside):
            factor, offset = _fit(scores[inside], y[inside], method)
            probabilities[outside] = softmax(logits(scores[outside], factor, offset))
    return Calibration(method, scale, bias, before, Reliability.of(probabilities, y))


def fit_scale(scores: Floats, y: Array, weights: Floats | None = None) -> float:
    """Return the factor on held-out scores, (n, k), that gives the lowest log-loss of their softmax.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599): it moves no decision. The log-loss is convex in the factor,
    so that Newton's method finds it to the last digits in some six steps.
    """
    z = scores - scores.max(axis=1, keepdims=True)
    spread = max(float(np.abs(z).mean()), 1e-12)
    z /= spread
    of_truth = z[np.arange(len(y)), y]
    low, high, scale = np.exp(-_REACH), np.exp(_REACH), 1.0
    for _ in range(_STEPS):
        e = np.exp(scale * z)
        e /= e.sum(axis=1, keepdims=True)
        mean = np.einsum("nk,nk->n", e, z)
        slope = float(np.average(mean - of_truth, weights=weights))
        if abs(slope) * scale < _FLAT:
            break
        low, high = (scale, high) if slope < 0 else (low, scale)
        curvature = float(np.average(np.einsum("nk,nk,nk->n", e, z, z) - mean * mean, weights=weights))
        step = scale - slope / max(curvature, 1e-300)  # Newton's; where it leads out of what is left, halve that
        step = step if low < step < high else np.sqrt(low * high)
        if abs(step - scale) < _CLOSE * scale:
            scale = step
            break
        scale = step
    return float(scale / spread)


def fit_platt(scores: Floats, y: Array) -> tuple[Floats, Floats]:
    """Return the factors and biases, (k,) each, that give the lowest log-loss on held-out scores, (n, k).

    For two classes the factors are equal, and this is Platt's sigmoid (Platt 1999, 'Probabilistic outputs for support
    vector machines', in the convex form of Lin, Lin and Weng 2007) of the difference of the scores; for more it is
    vector scaling (Guo et al. 2017, arXiv:1706.04599, section 4.2). As in Platt's, a label is not taken for certain:
    of a class with m of the rows it counts (m + 1) / (m + 2), and the other classes share the rest, so that the optimum
    is finite where the scores separate the classes.
    """
    n, k = scores.shape
    factors = 1 if k == 2 else k
    spread = max(float(np.abs(scores - scores.max(axis=1, keepdims=True)).mean()), 1e-12)
    z = (scores - scores.mean(axis=1, keepdims=True)) / spread
    support = np.bincount(y, minlength=k)
    targets = np.ones((n, k)) / ((support[y, None] + 2) * (k - 1))
    targets[np.arange(n), y] = (support[y] + 1) / (support[y] + 2)

    def loss(theta: Floats) -> tuple[float, Floats]:
        a = theta[:factors] * z + theta[factors:]
        a -= a.max(axis=1, keepdims=True)
        p = np.exp(a)
        total = p.sum(axis=1, keepdims=True)
        error = p / total - targets
        slope = (error * z).sum(axis=0)
        gradient = np.concatenate([slope.sum(keepdims=True) if factors == 1 else slope, error.sum(axis=0)])
        return float((np.log(total[:, 0]) - (targets * a).sum(axis=1)).mean()), gradient / n

    from scipy.optimize import minimize  # takes longer to import than a temperature to fit

    start = np.concatenate([np.ones(factors), np.zeros(k)])
    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 20}
    theta = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    return np.broadcast_to(theta[:factors] / spread, k).copy(), theta[factors:]


def log_loss(probabilities: Floats, y: Array, weights: Floats | None = None) -> float:
    """Return the mean negative log-likelihood, in nats; a probability below 1e-15 counts as 1e-15."""
    if not len(y):
        return float("nan")
    losses = -np.log(np.maximum(probabilities[np.arange(len(y)), y], 1e-15))
    return float(np.average(losses, weights=weights))


def calibration_error(probabilities: Floats, correct: npt.NDArray[np.bool_]) -> float:
    """Return the expected calibration error: |accuracy - confidence| over 15 equal bins, weighted by their size."""
    confidence = probabilities.max(axis=1)
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def error_by_chance(probabilities: Floats, *, draws: int = 400, seed: int = 0) -> float:
    """Return the calibration error that probabilities (n, k) which are right stay below in 19 cases of 20.

    Few pictures fill the bins thinly, and their error is then never zero. Answers are drawn as often right as the
    probabilities say (consistency resampling: Broecker and Smith 2007, Weather and Forecasting 22, 651-661).

    Examples
    --------
    >>> sure = np.tile([0.9, 0.1], (50, 1))
    >>> 0.05 < error_by_chance(sure) < 0.12
    True
    """
    confidence = probabilities.max(axis=1)
    rng = np.random.default_rng(seed)
    errors = [calibration_error(probabilities, rng.random(len(confidence)) < confidence) for _ in range(draws)]
    return float(np.quantile(errors, 0.95))


def _fit(scores: Floats, y: Array, method: str) -> tuple[float | Floats, float | Floats]:
    if method == "none" or not len(y):
        return 1.0, 0.0
    return fit_platt(scores, y) if method == "platt" else (fit_scale(scores, y), 0.0)


def _deal(y: Array) -> npt.NDArray[np.intp]:
    """Deal the rows of each class over five parts in turn."""
    parts = np.empty(len(y), dtype=np.intp)
    parts[np.argsort(y, kind="stable")] = np.arange(len(y)) % _PARTS
    return parts
