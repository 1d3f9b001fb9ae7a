"""Group lasso for a multinomial linear model: a path of solutions from the null model down, each with its gap."""

import dataclasses

import numpy as np
import numpy.typing as npt

from classify.head import Floats, Vectors, softmax

# A solution is taken when its duality gap is below this share of the null model's loss.
GAP = 2e-3
_MAX_ITERATIONS = 1000
_CHECK = 10  # iterations between two looks at the gap
_ROUNDING = 1e-6  # relative: sums of float32 losses say no more
_FEWEST = 64  # columns of a working set: below this a product takes no less time


@dataclasses.dataclass(frozen=True)
class Path:
    """Solutions along a path of penalties.

    Parameters
    ----------
    penalties : ndarray of shape (m,), float64
        From the strongest, just below the one at which the first column enters, to the weakest.
    norms : ndarray of shape (m, d), float64
        Euclidean norm of each column's coefficients; zero where the column is left out.
    slopes : ndarray of shape (d,), float64
        Norm of the loss's gradient in each column's coefficients at the weakest penalty: what a column that is left
        out could still add, in first order.
    gaps : ndarray of shape (m,), float64
        Upper bound on how far each solution's objective is above the optimum, as a share of the null model's loss.
    """

    penalties: Floats
    norms: Floats
    slopes: Floats
    gaps: Floats

    @property
    def converged(self) -> bool:
        """Whether every solution is within `GAP` of the optimum."""
        return bool((self.gaps <= GAP).all())


def group_lasso_path(
    X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None = None, *, points: int = 8, least: float = 0.05
) -> Path:
    """Solve the group lasso for a falling penalty.

    Minimises ``mean cross-entropy of softmax(X W + b) + penalty * sum of |W_j|`` over the rows W_j (Euclidean norms; b
    is free) by accelerated proximal gradient steps (Beck and Teboulle 2009, doi:10.1137/080716542), restarted where
    the objective rises (O'Donoghue and Candes 2015, arXiv:1204.3982). Steps are on a working set of columns, which
    grows by those that break the optimality conditions until the gap of the whole problem is small.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        Standardised vectors.
    y : ndarray of shape (n,)
        Labels 0 .. k - 1.
    weights : ndarray of shape (n,), optional
        How much each row counts.
    points : int
        Penalties of the path, in equal ratios.
    least : float
        The last penalty, as a share of the strongest at which a column enters.
    """
    problem = _Problem(X, y, weights)
    current = problem.null()
    strongest = float(current.slopes.max())
    if strongest <= 0:  # no column varies with the labels at all
        nothing = np.zeros((points, X.shape[1]))
        return Path(np.zeros(points), nothing, current.slopes, np.zeros(points))
    penalties = strongest * least ** (np.arange(1, points + 1) / points)
    norms, gaps = [], []
    for penalty in penalties.tolist():
        current = problem.solve(current, penalty)
        norms.append(np.linalg.norm(current.W, axis=1).astype(np.float64))
        gaps.append(current.gap / problem.null_loss)
    return Path(penalties, np.array(norms), current.slopes, np.array(gaps))


@dataclasses.dataclass
class _Solution:
    """Coefficients (d, k) and intercepts (k,); norms of the gradient's rows; the gap of the whole problem."""

    W: Vectors
    b: Floats
    slopes: Floats
    gap: float


class _Problem:
    """The smooth part of the objective, and its solver."""

    def __init__(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        n = len(y)
        self.X = X
        self.y = y
        self.k = int(y.max()) + 1
        share = np.full(n, 1 / n) if weights is None else weights / weights.sum()
        self.share = share
        self.curvature = 0.05  # found anew by backtracking, and kept from one penalty to the next
        self.null_loss = float("nan")

    def null(self) -> _Solution:
        """Return the model of intercepts alone, whose probabilities are the classes' shares."""
        prior = np.bincount(self.y, weights=self.share, minlength=self.k)
        b = np.log(np.maximum(prior, 1e-12))
        b -= b.mean()
        scores = np.tile(b.astype(np.float32), (len(self.y), 1))
        self.null_loss, residual = self.evaluate(scores)
        slopes = self._slopes(self.X, residual)
        return _Solution(np.zeros((self.X.shape[1], len(b)), dtype=np.float32), b, slopes, 0.0)

    def loss(self, scores: Vectors) -> float:
        """Return the mean cross-entropy of scores (n, k)."""
        return self._exponentials(scores)[0]

    def evaluate(self, scores: Vectors) -> tuple[float, Vectors]:
        """Return the mean cross-entropy of scores (n, k), and its gradient in them, (n, k)."""
        loss, e, total = self._exponentials(scores)
        e *= (self.share / total)[:, None].astype(np.float32)
        e[np.arange(len(e)), self.y] -= self.share.astype(np.float32)
        return loss, e

    def _exponentials(self, scores: Vectors) -> tuple[float, Vectors, Floats]:
        """Return the mean cross-entropy, exp(scores) up to a factor of each row, and their sums over the rows."""
        # in float32, which the scores have from their products, and summed over the rows in float64
        e = scores - scores.max(axis=1, keepdims=True)
        of_truth = e[np.arange(len(e)), self.y].astype(np.float64)
        np.exp(e, out=e)
        total = e.sum(axis=1).astype(np.float64)
        return float(self.share @ (np.log(total) - of_truth)), e, total

    def solve(self, start: _Solution, penalty: float) -> _Solution:
        """Return the solution for a penalty, beginning from another's."""
        W, b, slopes = start.W.copy(), start.b, start.slopes
        inside = np.linalg.norm(W, axis=1) > 0
        gap = float("inf")
        for _ in range(30):
            # at most as many more columns as there are, those that promise most
            more = max(_FEWEST, int(inside.sum()))
            promising = np.argsort(np.where(inside, -1.0, slopes), kind="stable")[::-1][:more]
            inside[promising[slopes[promising] > penalty]] = True
            columns = np.flatnonzero(inside)
            W[columns], b, scores = self._descend(np.ascontiguousarray(self.X[:, columns]), W[columns], b, penalty)
            slopes = self._slopes(self.X, self.evaluate(scores)[1])
            gap = self._gap(scores, W, slopes, penalty)
            if gap <= GAP * self.null_loss or not (slopes[~inside] > penalty).any():
                break
        return _Solution(W, b, slopes, gap)

    def _descend(self, X: Vectors, W: Vectors, b: Floats, penalty: float) -> tuple[Vectors, Floats, Vectors]:
        """Take steps on the columns X until their own gap is half of what is allowed; return W, b and the scores."""
        scores = X @ W + b.astype(np.float32)
        objective = self.loss(scores) + penalty * _sum_of_norms(W)
        ahead_W, ahead_b, ahead_scores, momentum = W, b, scores, 1.0
        # the Hessian of cross-entropy in a row's scores is at most 1/2, and that in W and b at most its trace
        largest = 0.5 * float(self.share @ (1 + np.einsum("ij,ij->i", X, X, dtype=np.float64)))
        for iteration in range(_MAX_ITERATIONS):
            new_W, new_b, new_scores, new_loss = self._step(X, ahead_W, ahead_b, ahead_scores, penalty, largest)
            new_objective = new_loss + penalty * _sum_of_norms(new_W)
            if new_objective > objective and momentum > 1:  # too far: begin again from here, without momentum
                ahead_W, ahead_b, ahead_scores, momentum = W, b, scores, 1.0
                continue
            following = float(1 + np.sqrt(1 + 4 * momentum**2)) / 2
            push = np.float32((momentum - 1) / following)
            # scores are linear in W and b, so no product is needed for the point ahead
            ahead_W, ahead_b = new_W + push * (new_W - W), new_b + push * (new_b - b)
            ahead_scores = new_scores + push * (new_scores - scores)
            W, b, scores, objective, momentum = new_W, new_b, new_scores, new_objective, following
            if iteration % _CHECK == _CHECK - 1:
                settled_b, settled = self._settle(scores, b)
                gap = self._gap(settled, W, self._slopes(X, self.evaluate(settled)[1]), penalty)
                if gap <= GAP / 2 * self.null_loss:
                    return W, settled_b, settled
        return (W, *self._settle(scores, b))

    def _step(
        self, X: Vectors, W: Vectors, b: Floats, scores: Vectors, penalty: float, largest: float
    ) -> tuple[Vectors, Floats, Vectors, float]:
        """Return a proximal step, (W, b, scores, loss), as long as the loss stays below its quadratic bound.

        At the curvature `largest` it always does, but for rounding.
        """
        loss, residual = self.evaluate(scores)
        slope_W, slope_b = _transposed(X, residual), residual.sum(axis=0, dtype=np.float64)
        loss *= 1 + _ROUNDING
        self.curvature *= 0.95
        while True:
            new_W = _shrink(W - slope_W / np.float32(self.curvature), penalty / self.curvature)
            new_b = b - slope_b / self.curvature
            new_scores = X @ new_W + new_b.astype(np.float32)
            by_W, by_b = new_W - W, new_b - b
            bound = loss + _dot(slope_W, by_W) + float(slope_b @ by_b)
            bound += self.curvature / 2 * (_dot(by_W, by_W) + float(by_b @ by_b))
            new_loss = self.loss(new_scores)
            if self.curvature >= largest or new_loss <= bound:
                return new_W, new_b, new_scores, new_loss
            self.curvature *= 1.5

    def _settle(self, scores: Vectors, b: Floats) -> tuple[Floats, Vectors]:
        """Return intercepts and scores at which the residuals of each class sum to zero, by Newton's steps on b."""
        loss, residual = self.evaluate(scores)
        for _ in range(5):
            slope = residual.sum(axis=0, dtype=np.float64)
            if np.abs(slope).max() < 1e-7:
                break
            P = softmax(scores.astype(np.float64))
            curvature = np.diag(self.share @ P) - P.T @ (self.share[:, None] * P) + 1 / len(b)
            step = np.linalg.solve(curvature + 1e-9 * np.eye(len(b)), slope)
            moved = scores - step.astype(np.float32)
            new_loss, residual = self.evaluate(moved)
            if new_loss > loss:
                break
            scores, b, loss = moved, b - step, new_loss
        return b, scores

    def _gap(self, scores: Vectors, W: Vectors, slopes: Floats, penalty: float) -> float:
        """Return how far the objective is above a dual point: the residual, shrunk until no column is too steep.

        The dual of the cross-entropy is the entropy of probabilities between the labels and the model's, whose
        differences from the labels sum to zero over the rows, as `_settle` makes them.
        """
        shrink = min(1.0, penalty / max(float(slopes.max()), 1e-300))
        loss, mixed, total = self._exponentials(scores)
        mixed *= (shrink / total)[:, None].astype(np.float32)
        mixed[np.arange(len(mixed)), self.y] += np.float32(1 - shrink)
        of_rows = np.einsum("nk,nk->n", mixed, np.log(np.maximum(mixed, np.float32(1e-30))))
        return loss + penalty * _sum_of_norms(W) + float(self.share @ of_rows)

    @staticmethod
    def _slopes(X: Vectors, residual: Vectors) -> Floats:
        return np.asarray(np.linalg.norm(_transposed(X, residual), axis=1), dtype=np.float64)


def _transposed(X: Vectors, residual: Vectors) -> Vectors:
    # (k, n) @ (n, d) reads X row by row
    return np.ascontiguousarray((residual.T @ X).T)


def _shrink(W: Vectors, by: float) -> Vectors:
    """Return W with each row's norm less by `by`, or zero."""
    norms = np.linalg.norm(W, axis=1, keepdims=True)
    shrunk: Vectors = W * np.maximum(0, 1 - np.float32(by) / np.maximum(norms, np.float32(1e-30)))
    return shrunk


def _dot(a: Vectors, b: Vectors) -> float:
    return float(np.einsum("ij,ij->", a, b, dtype=np.float64))


def _sum_of_norms(W: Vectors) -> float:
    return float(np.linalg.norm(W, axis=1).sum(dtype=np.float64))
