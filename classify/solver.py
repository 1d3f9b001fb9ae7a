"""The solver of the linear heads: many problems over the same rows at once, each to a certified precision.

A problem is ``|w|^2 / 2 + C * sum_i s_i loss(y_i, x_i w + b)`` on standardised rows: multinomial or binary logistic
regression with a free intercept, or LinearSVC's squared hinge, whose objective has b^2 / 2 too. All problems on some
rows (classes, folds, values of C) share every product with the rows, which is one wide matrix product; standardisation
is folded into the coefficients, so the rows are read as they are and never copied.

The method is L-BFGS (Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4) on all problems side by side. Its
initial metric is ``I + kappa * G`` in the eigenbasis of the rows' Gram matrix G, where kappa is C times the mean
curvature of the loss at the current point, for each class: one decomposition preconditions every class, C and fold.

The certificate. With the dual variables that the slopes of the loss give, the Fenchel-Young inequality is tight on
every row, and the duality gap collapses to ``|gradient|^2 / 2``: the objective is at most that far above its optimum.
That is a bound for the penalised intercept. A free one asks for slopes that sum to zero, as they do at the best
intercept. On the way what is lacking is estimated as the gain of a Newton step on each intercept, ``g_b^2 / (2 *
curvature)``; before a problem is called done, `classify.certificate` makes its slopes sum to zero and bounds the gap.
"""

import dataclasses
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from classify.certificate import certified
from classify.problems import Double, Indices, Problems, squares_of
from classify.rows import Single

OnStep = Callable[[int, float], None]

_MEMORY = 10  # pairs of steps and changes of the gradient; 20 save 5 to 20% of the steps, which become dearer
_ARMIJO = 1e-4
_ROUNDING = {4: 1e-6, 8: 1e-13}  # relative, by the bytes of a number: sums of losses say no more
_NOTHING = {4: 1e-30, 8: 1e-240}  # likewise: a product this small is lost in rounding
_STALL_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Solution:
    """What the solver found.

    Parameters
    ----------
    P : ndarray of shape (q, d + 1), float32
        Coefficients on standardised rows, intercept last.
    objective, gap : ndarray of shape (m,), float64
        Objective of each problem, and how far above the optimum it is at most, relative to it.
    steps : ndarray of shape (m,), int64
        L-BFGS steps that were taken.
    """

    P: Single
    objective: Double
    gap: Double
    steps: Indices


@dataclasses.dataclass(frozen=True)
class Stopping:
    """When a problem is done, and who is told of the steps.

    Parameters
    ----------
    tolerance : float
        When its duality gap is at most this part of its penalty, and so of its objective. The objective alone would
        not do: where C is small nearly all of it is the loss of knowing nothing.
    max_steps : int
        Or when it has taken this many steps.
    stall : float
        Or when five steps have lowered its objective by no more than this, relatively: the certificate is loose where
        C is large and the rows can be told apart. At 0, when they have not halved its gap either.
    on_step : callable, optional
        Called after every step with its number and the largest gap of what is left, relatively.
    """

    tolerance: float = 1e-4
    max_steps: int = 500
    stall: float = 0.0
    on_step: OnStep | None = None


def minimise(problems: Problems, start: Single, stopping: Stopping) -> Solution:
    """Solve all problems.

    Parameters
    ----------
    problems : Problems
        m problems of `width` columns.
    start : ndarray of shape (q, d + 1), float32
        Where to start; left alone.
    stopping : Stopping
        When to stop.

    Returns
    -------
    Solution
        Its `gap` tells which problems are done.
    """
    width = problems.columns.width
    m = len(start) // width
    P, gaps, objectives, steps = start.copy(), np.zeros(m), np.zeros(m), np.zeros(m, dtype=np.int64)
    left, asking = np.arange(m), np.ones(m)
    at = _Point(start, *problems.evaluate(start))
    memory: deque[_Pair] = deque(maxlen=_MEMORY)
    past: deque[tuple[Double, Double]] = deque(maxlen=_STALL_STEPS)
    for step in range(stopping.max_steps + 1):
        gap, limit = _gap(problems, at), stopping.tolerance * _penalty(problems, at)
        estimated, largest = gap.copy(), float((gap / np.maximum(at.objective, 1e-300)).max())
        done = np.full(len(left), step == stopping.max_steps)
        if len(past) == _STALL_STEPS:
            stalled = past[0][0] - at.objective <= stopping.stall * at.objective
            done |= stalled if stopping.stall else stalled & (gap > past[0][1] / 2)
        if problems.penalised:
            done |= gap <= limit
        else:
            asked = np.flatnonzero(done | (gap <= asking * limit))
            if len(asked):
                estimate = gap[asked]
                found = certified(problems.of(asked), at.P[_columns(asked, width)])
                gap[asked] = np.minimum(found, at.objective[asked])  # no optimum is below zero
                done[asked] |= gap[asked] <= limit[asked]
                # not yet: asked again when the estimate is as much smaller as it was too small
                asking[asked] = np.minimum(estimate / np.maximum(found, 1e-300), 1)
        if done.any():
            mine = left[done]
            P[_columns(mine, width)] = at.P[_columns(np.flatnonzero(done), width)]
            objectives[mine], steps[mine] = at.objective[done], step
            gaps[mine] = gap[done] / np.maximum(at.objective[done], 1e-300)
            kept = np.flatnonzero(~done)
            if not len(kept):
                break
            left, asking, problems, at = left[kept], asking[kept], problems.of(kept), at.of(kept, width)
            memory = deque((pair.of(kept, width) for pair in memory), maxlen=_MEMORY)
            past = deque(((value[kept], lower[kept]) for value, lower in past), maxlen=_STALL_STEPS)
            estimated = estimated[kept]
        past.append((at.objective, estimated))
        new = _search(problems, at, _direction(problems, at, memory))
        memory.append(_Pair.between(at, new, width))
        at = new
        if stopping.on_step is not None:
            stopping.on_step(step + 1, largest)
    return Solution(P, objectives, gaps, steps)


@dataclasses.dataclass(frozen=True)
class _Point:
    """Coefficients with the objective, gradient and curvature there."""

    P: Single
    objective: Double
    gradient: Single
    curvature: Double

    def of(self, problems: Indices, width: int) -> "_Point":
        at = _columns(problems, width)
        return _Point(self.P[at], self.objective[problems], self.gradient[at], self.curvature[at])


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A step, the change of the gradient along it, and one divided by their product for each problem."""

    step: Single
    change: Single
    inverse: Single

    @classmethod
    def between(cls, old: _Point, new: _Point, width: int) -> "_Pair":
        step, change = new.P - old.P, new.gradient - old.gradient
        product = _dot(step, change, width)
        # no step, or one lost in rounding: a pair that says nothing
        inverse = np.divide(1, product, out=np.zeros_like(product), where=product > _NOTHING[step.dtype.itemsize])
        return cls(step, change, inverse)

    def of(self, problems: Indices, width: int) -> "_Pair":
        at = _columns(problems, width)
        return _Pair(self.step[at], self.change[at], self.inverse[problems])


def _direction(problems: Problems, at: _Point, memory: deque[_Pair]) -> Single:
    """Return where each problem goes: the two loops of L-BFGS around the preconditioner."""
    width = problems.columns.width
    v = at.gradient.copy()
    shares = []
    for pair in reversed(memory):
        share = pair.inverse * _dot(pair.step, v, width)
        v -= np.repeat(share, width)[:, None] * pair.change
        shares.append(share)
    v = _precondition(problems, at, v)
    if memory:
        last = memory[-1]
        against = last.inverse * _dot(last.change, _precondition(problems, at, last.change), width)
        v *= np.repeat(np.divide(1, against, out=np.ones_like(against), where=against > 0), width)[:, None]
    for pair, share in zip(memory, reversed(shares), strict=True):
        v += np.repeat(share - pair.inverse * _dot(pair.change, v, width), width)[:, None] * pair.step
    return np.negative(v, out=v)


def _precondition(problems: Problems, at: _Point, v: Single) -> Single:
    """Return (I + kappa G)^-1 v for the coefficients, and v over the curvature for the intercept."""
    d = v.shape[1] - 1
    spectrum = problems.spectrum
    shrunk = v[:, :d] @ spectrum.vectors  # (q, r)
    shrunk *= (1 / (1 + at.curvature[:, None] * spectrum.values) - 1).astype(v.dtype)
    out = np.empty_like(v)
    np.matmul(shrunk, spectrum.vectors.T, out=out[:, :d])
    out[:, :d] += v[:, :d]
    out[:, d] = v[:, d] / (problems.penalised + np.maximum(at.curvature, 1e-30))
    return out


def _search(problems: Problems, at: _Point, direction: Single) -> _Point:
    """Take the whole step where it lowers the objective enough, and a shorter one elsewhere."""
    width = problems.columns.width
    slope = _dot(at.gradient, direction, width).astype(np.float64)
    length, rounding = np.ones(len(slope)), _ROUNDING[at.P.dtype.itemsize]
    P = at.P + direction
    new = _Point(P, *problems.evaluate(P))

    def enough(objective: Double, which: Indices) -> npt.NDArray[np.bool_]:
        limit = at.objective[which] + _ARMIJO * length[which] * slope[which] + rounding * at.objective[which]
        return objective <= limit

    far = np.flatnonzero(~enough(new.objective, np.arange(len(slope))))
    for _ in range(20):
        if not len(far):
            return new
        rise = new.objective[far] - at.objective[far] - slope[far] * length[far]
        # the minimum of the parabola through both values and the slope
        length[far] *= np.clip(-slope[far] * length[far] / (2 * rise), 0.1, 0.5)
        columns = _columns(far, width)
        P[columns] = at.P[columns] + np.repeat(length[far], width)[:, None].astype(P.dtype) * direction[columns]
        found = problems.of(far).evaluate(P[columns])
        new.objective[far], new.gradient[columns], new.curvature[columns] = found
        far = far[~enough(new.objective[far], far)]
    columns = _columns(far, width)  # nothing that can be told from rounding lies lower
    P[columns] = at.P[columns]
    new.objective[far] = at.objective[far]
    new.gradient[columns], new.curvature[columns] = at.gradient[columns], at.curvature[columns]
    return new


def _gap(problems: Problems, at: _Point) -> Double:
    """Return how far each problem's objective may be above its optimum; for a free intercept an estimate."""
    of_intercept = 1.0 if problems.penalised else np.maximum(at.curvature, 1e-30)
    gap = squares_of(at.gradient[:, :-1]) / 2 + at.gradient[:, -1].astype(np.float64) ** 2 / 2 / of_intercept
    return np.asarray(gap.reshape(-1, problems.columns.width).sum(axis=1))


def _penalty(problems: Problems, at: _Point) -> Double:
    return np.asarray(squares_of(at.P[:, :-1]).reshape(-1, problems.columns.width).sum(axis=1) / 2)


def _dot(a: Single, b: Single, width: int) -> Single:
    """Return the inner product of each problem's columns, (m,)."""
    return np.asarray(np.einsum("mp,mp->m", a.reshape(len(a) // width, -1), b.reshape(len(b) // width, -1)))


def _columns(problems: Indices, width: int) -> Indices:
    return np.asarray((problems[:, None] * width + np.arange(width)).ravel())
