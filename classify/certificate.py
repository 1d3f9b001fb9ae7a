"""How far logistic regression with a free intercept may be from its optimum, by weak duality.

The slopes of the loss are dual variables: of a row, its probabilities less one for its class. The dual of a free
intercept asks that they sum to zero for each class, as they do at the best intercept only: what rows of class y give
away to class c, their *flow* from y to c, must come back. So the flows, (k, k), are cut down, by a factor from 0 to 1
for each pair, to the circulation that is nearest in Kullback-Leibler divergence. What the cut takes off a row's other
classes its own class gets, so that it keeps probabilities. With p' the cut ones and g' the gradient that they give, the
gap between the objective and the dual's is exactly

    |g'|^2 / 2 + C * sum_i s_i KL(p'_i || p_i),

a sum of what is not negative, so that nothing cancels. It bounds the excess wherever one stands, but for rounding in
the sums of the rows' precision (about 1e-6 of the objective in float32).
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components

from classify.losses import multinomial
from classify.problems import Double, Problems
from classify.rows import Single

_ROUNDS = 100
_BALANCED = 1e-11  # of all flow: what is left over is rounding


def certified(problems: Problems, P: Single) -> Double:
    """Return how far the objective of each problem may be above its optimum, (m,).

    Parameters
    ----------
    problems : Problems
        Logistic, binary or multinomial, with a free intercept.
    P : ndarray of shape (q, d + 1)
        Coefficients and intercepts.
    """
    several = problems.loss is multinomial
    width, (q, d) = problems.columns.width, (len(P), P.shape[1] - 1)
    k = width if several else 2
    m = q // width
    W, offset = problems.unfolded(P)
    kept: dict[int, Single] | None = {} if len(problems.rows) * q <= problems.rows.block else None
    flows = np.zeros((m, k, k))
    for start, X in problems.rows.blocks(q):
        Z = X @ W.T
        Z += offset
        if kept is not None:
            kept[start] = Z.copy()
        targets, weights = problems.of_block(start, len(X))
        flows += _flows(Z, targets, weights, m) if several else _sides(Z, targets, weights)
    cut = np.stack([balanced(flow) for flow in flows])
    divergence = np.einsum("myc,myc->m", flows, _bregman(-cut))
    along, slopes = np.zeros((q, d), dtype=P.dtype), np.zeros(q)
    for start, X in problems.rows.blocks(q):
        Z = X @ W.T + offset if kept is None else kept.pop(start)
        targets, weights = problems.of_block(start, len(X))
        divergence += (_cut_rows if several else _cut_sides)(Z, targets, weights, cut)
        along += Z.T @ X
        slopes += Z.sum(axis=0, dtype=np.float64)
    gradient = problems.gradient(P, along, slopes)
    squares = np.einsum("qd,qd->q", gradient, gradient, dtype=np.float64).reshape(m, -1).sum(axis=1)
    return np.asarray(squares / 2 + problems.columns.C[::width] * divergence)


def balanced(flow: Double) -> Double:
    """Return what part to cut off each flow, (k, k) from 0 to 1, so that what leaves a class also enters it.

    The cut is the nearest in divergence, so 1 - exp of a difference of potentials where that is negative, and 0
    elsewhere; Newton's method finds the potentials, which minimise a convex function. Where a flow can have no way
    back it is cut altogether.

    Parameters
    ----------
    flow : ndarray of shape (k, k)
        From the class of the row to that of the column; the diagonal is not looked at.

    Examples
    --------
    >>> flow = np.array([[0.0, 2.0], [1.0, 0.0]])
    >>> balanced(flow)
    array([[0. , 0.5],
           [0. , 0. ]])
    """
    k = len(flow)
    total = flow.sum() - np.trace(flow)
    if not total > 0:
        return np.zeros((k, k))
    flow = np.where(np.eye(k, dtype=bool), 0.0, flow)
    _, part = connected_components(flow > 1e-15 * total, connection="strong")
    apart = part[:, None] != part
    flow = np.where(apart, 0.0, flow)
    if k == 2:
        cut = np.where(flow > 0, 1 - np.minimum(flow.T / np.where(flow > 0, flow, 1), 1), 0.0)
        return np.where(apart, 1.0, cut)
    potential = np.zeros(k)
    steepness = flow
    value, excess, cut = _potential(flow, potential)
    for _ in range(_ROUNDS):
        if np.abs(excess).sum() <= _BALANCED * total:
            return np.where(apart, 1.0, cut)
        both = steepness + steepness.T
        system = np.diag(both.sum(axis=1)) - both
        system[np.diag_indices(k)] += 1e-13 * total + 1e-9 * (flow.sum(axis=0) + flow.sum(axis=1))
        step = np.clip(-np.linalg.solve(system, excess), -5, 5)
        slope, length = excess @ step, 1.0
        for _ in range(30):
            new = _potential(flow, potential + length * step)
            if new[0] <= value + 1e-4 * length * slope + 1e-15 * total:
                break
            length /= 2
        potential = potential + length * step
        value, excess, cut = new
        steepness = np.where(cut > 0, flow * (1 - cut), 0.0)
    return np.where(np.eye(k, dtype=bool), 0.0, 1.0)  # no slopes at all: always a dual point


def _potential(flow: Double, potential: Double) -> tuple[float, Double, Double]:
    """Return the function of the potentials, its gradient (k,), and the cut (k, k) that belongs to them."""
    difference = potential[:, None] - potential
    down = np.minimum(difference, 0)
    cut = -np.expm1(down)
    remaining = flow * (1 - cut)
    value = (flow * (np.expm1(down) + np.maximum(difference, 0))).sum()
    return float(value), remaining.sum(axis=1) - remaining.sum(axis=0), cut


def _flows(Z: Single, y: npt.NDArray[np.int64], weights: Single | None, m: int) -> Double:
    """Return the flows of a block, (m, k, k); Z (n, m * k) becomes probabilities."""
    n = len(Z)
    z = Z.reshape(n, m, -1)
    _softmax(z, y)
    given = z if weights is None else z * weights[:, :, None]
    member = np.zeros((n, z.shape[2]), dtype=Z.dtype)
    member[np.arange(n), y] = 1
    flows = (member.T @ given.reshape(n, -1)).reshape(len(member.T), m, -1)
    return np.asarray(flows.transpose(1, 0, 2), dtype=np.float64)


def _softmax(z: Single, y: npt.NDArray[np.int64]) -> Single:
    """Turn scores, (n, m, k), into probabilities; return the logarithm of that of the own class, (n, m)."""
    at = (np.arange(len(z))[:, None], np.arange(z.shape[1])[None, :], y[:, None])
    z -= z.max(axis=2, keepdims=True)
    of_truth = z[at]
    np.exp(z, out=z)
    total = z.sum(axis=2)
    z /= total[:, :, None]
    return np.asarray(of_truth - np.log(total))


def _cut_rows(Z: Single, y: npt.NDArray[np.int64], weights: Single | None, cut: Double) -> Double:
    """Overwrite scores with the cut slopes; return the divergence of the own classes, (m,)."""
    n = len(Z)
    z = Z.reshape(n, len(cut), -1)
    log_p = _softmax(z, y)
    at = (np.arange(n)[:, None], np.arange(len(cut))[None, :], y[:, None])
    z[at] = 0
    taken = cut.astype(Z.dtype).transpose(1, 0, 2)[y]  # (n, m, k)
    taken *= z
    more = taken.sum(axis=2, dtype=np.float64)
    z -= taken
    z[at] = -z.sum(axis=2)
    if weights is not None:
        z *= weights[:, :, None]
    return _divergence(log_p, more, weights)


def _sides(Z: Single, signs: npt.NDArray[np.int8], weights: Single | None) -> Double:
    """Return the flows between the two sides of each binary problem, (q, 2, 2)."""
    _, wrong = _wrong(Z * signs)
    if weights is not None:
        wrong *= weights
    flows = np.zeros((Z.shape[1], 2, 2))
    flows[:, 0, 1] = np.where(signs < 0, wrong, 0).sum(axis=0, dtype=np.float64)
    flows[:, 1, 0] = np.where(signs > 0, wrong, 0).sum(axis=0, dtype=np.float64)
    return flows


def _wrong(margin: Single) -> tuple[Single, Single]:
    """Return the logarithm of the probability of the own side, and the probability of the other."""
    small = np.exp(-np.abs(margin))
    return np.minimum(margin, 0) - np.log1p(small), np.where(margin > 0, small, 1) / (1 + small)


def _cut_sides(Z: Single, signs: npt.NDArray[np.int8], weights: Single | None, cut: Double) -> Double:
    """Overwrite scores with the cut slopes; return the divergence of the own sides, (q,)."""
    log_p, wrong = _wrong(Z * signs)
    taken = np.where(signs > 0, cut[:, 1, 0], cut[:, 0, 1]).astype(Z.dtype) * wrong
    np.multiply(taken - wrong, signs, out=Z)
    if weights is not None:
        Z *= weights
    return _divergence(log_p, taken.astype(np.float64), weights)


def _divergence(log_p: Single, more: Double, weights: Single | None) -> Double:
    """Return the sum over rows of p' log(p' / p) - p' + p where p' is p and so much `more`."""
    log_p = log_p.astype(np.float64)
    p = np.exp(log_p)
    after = p + more
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        share = more / p
        exact = after * (np.log(after) - log_p) - more
    found = np.where(share < 1e-2, p * _bregman(np.minimum(share, 1)), np.where(more > 0, exact, 0.0))
    return np.asarray((found if weights is None else found * weights).sum(axis=0))


def _bregman(x: Double) -> Double:
    """Return (1 + x) log(1 + x) - x for x from -1 on, without cancellation."""
    series = x * x * (1 / 2 - x * (1 / 6 - x * (1 / 12 - x / 20)))
    whole = (1 + x) * np.log(np.maximum(1 + x, 1e-300)) - x
    return np.asarray(np.where(np.abs(x) < 1e-3, series, whole))
