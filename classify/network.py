"""Small networks in numpy: several of one shape trained at once, as one wide matrix product."""

import dataclasses
import itertools
import math

import numpy as np
import numpy.typing as npt

from classify.head import Floats, Vectors, softmax

Indices = npt.NDArray[np.intp]

_BETAS, _EPSILON = (0.9, 0.999), np.float32(1e-8)  # Adam's own
_CHUNK = 16_384  # five arrays of 64 KiB stay in the cache while Adam passes over them ten times
_PARTS = 10  # of which each network holds out one,
_MOST_HELD = 2000  # or more, so that it holds out no more rows than this
_BATCH = 256  # rows at most
_FEW = 5  # contents of a class from which on one may be held out
_ENOUGH = 10  # rows held out, below which their loss says nothing


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How networks are built and trained; see `classify.mlp.MLPHead` for the values."""

    hidden: tuple[int, ...]
    count: int
    dropout: float
    weight_decay: float
    learning_rate: float
    epochs: int
    patience: int
    early_stopping: bool
    label_smoothing: float


class Networks:
    """Some networks of rectified units, each for itself, with their parameters in one flat float32 array.

    Parameters
    ----------
    sizes : tuple of int
        Length of a vector, units of each hidden layer, number of classes.
    count : int
        How many networks.

    Attributes
    ----------
    weights : list of ndarray
        First (d, count * h), the networks side by side; then (count, h, h') for each layer.
    biases : list of ndarray
        (count * h,), then (count, 1, h').
    flat : ndarray
        All of them, the weights first.
    n_weights : int
        How many of `flat` are weights.
    """

    def __init__(self, sizes: tuple[int, ...], count: int) -> None:
        self.sizes, self.count = sizes, count
        later = list(itertools.pairwise(sizes[1:]))
        shapes: list[tuple[int, ...]] = [(sizes[0], count * sizes[1]), *((count, a, b) for a, b in later)]
        self.n_weights = sum(math.prod(shape) for shape in shapes)
        shapes += [(count * sizes[1],), *((count, 1, b) for _, b in later)]
        self.flat = np.zeros(sum(math.prod(shape) for shape in shapes), dtype=np.float32)
        ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
        parts = [self.flat[e - math.prod(s) : e].reshape(s) for s, e in zip(shapes, ends, strict=True)]
        self.weights, self.biases = parts[: len(later) + 1], parts[len(later) + 1 :]

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the weights (He et al. 2015, arXiv:1502.01852); the last layer's have half the variance."""
        for i, (weights, fan_in) in enumerate(zip(self.weights, self.sizes[:-1], strict=True)):
            gain = 1 if i == len(self.weights) - 1 else 2
            weights[...] = rng.standard_normal(weights.shape, dtype=np.float32) * np.float32(math.sqrt(gain / fan_in))

    def copy_of(self, network: int, other: "Networks") -> None:
        """Take over one network's parameters from others of the same shape."""
        wide = slice(network * self.sizes[1], (network + 1) * self.sizes[1])
        self.weights[0][:, wide], self.biases[0][wide] = other.weights[0][:, wide], other.biases[0][wide]
        for mine, theirs in zip(self.weights[1:] + self.biases[1:], other.weights[1:] + other.biases[1:], strict=True):
            mine[network] = theirs[network]

    def outputs_of(self, network: int, X: Vectors) -> Vectors:
        """Return the outputs of one network, (n, k), for X (n, d)."""
        wide = slice(network * self.sizes[1], (network + 1) * self.sizes[1])
        hidden = X @ self.weights[0][:, wide] + self.biases[0][wide]
        for weights, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            hidden = np.maximum(hidden, 0, out=hidden) @ weights[network] + bias[network]
        return hidden


def train(
    X: Vectors, y: Indices, weights: Floats | None, n_classes: int, recipe: Recipe, rng: np.random.Generator
) -> Networks:
    """Train networks by Adam with decoupled weight decay on mini-batches that they share.

    They differ in their first weights, in the units that are dropped, and in the rows that each is stopped on, so that
    together they see every row. Copies of a row are merged into one that weighs as much, and the rows put into an
    order of their own: the result depends on the rows and their weights alone.

    Sources: Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101 (decay), and 2017,
    arXiv:1608.03983 (the cosine of the learning rate); Srivastava et al. 2014, JMLR 15 (dropout).

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
    y : ndarray of shape (n,)
        0 .. n_classes - 1.
    weights : ndarray of shape (n,), optional
        How much each row counts.
    n_classes : int
    recipe : Recipe
    rng : Generator
        The source of all that is random.
    """
    X, y, content, weights = _distinct(X, y, weights)
    part = _parts(content, y, n_classes, rng) if recipe.early_stopping else np.full(len(y), -1)
    held = [np.flatnonzero(part == i % max(part.max() + 1, 1)) for i in range(recipe.count)]
    stopping = min(len(rows) for rows in held) >= _ENOUGH
    counts = np.tile(weights.astype(np.float32), (recipe.count, 1))  # (count, n): what a row is to each network
    if stopping:
        for mine, rows in zip(counts, held, strict=True):
            mine[rows] = 0
    counts /= counts.mean(axis=1, keepdims=True)

    networks = Networks((X.shape[1], *recipe.hidden, n_classes), recipe.count)
    networks.draw(rng)
    targets = np.full((n_classes, n_classes), recipe.label_smoothing / n_classes, dtype=np.float32)
    targets[np.diag_indices(n_classes)] += np.float32(1 - recipe.label_smoothing)
    # at least ten steps an epoch, however few the rows
    n_batches = min(len(y), max(10, math.ceil(len(y) / _BATCH)))
    backward = _Backward(networks, math.ceil(len(y) / n_batches), recipe.dropout, rng)
    adam = _Adam(networks, backward.gradient, recipe, recipe.epochs * n_batches)
    watch = _Watch(networks, X, y, weights, held, recipe.patience) if stopping else None
    for _ in range(recipe.epochs):
        for rows in np.array_split(rng.permutation(len(y)), n_batches):
            backward(X[rows], targets[y[rows]], counts[:, rows])
            adam.step()
        if watch and watch.is_over():
            break
    if watch:
        networks.flat[:] = watch.best.flat
    return networks


class _Backward:
    """Computes the gradient of the cross-entropy of a batch, in place, for all networks at once."""

    def __init__(self, networks: Networks, batch: int, dropout: float, rng: np.random.Generator) -> None:
        self.networks, self.dropout, self.rng = networks, dropout, rng
        self.gradient = Networks(networks.sizes, networks.count)
        count, hidden = networks.count, networks.sizes[1:-1]
        # the first layer is wide, (B, count * h), and seen by the next as (count, B, h)
        self.first = [np.empty((batch, count * hidden[0]), dtype=np.float32) for _ in range(2)]
        self.later = [[np.empty((count, batch, h), dtype=np.float32) for _ in range(2)] for h in hidden[1:]]
        self.draws = [np.empty(count * batch * h, dtype=np.float32) for h in hidden]

    def __call__(self, X: Vectors, targets: Vectors, counts: Vectors) -> None:
        """Fill `gradient` for rows X (B, d), targets (B, k), and how much each counts for each network (count, B)."""
        networks, gradient, n = self.networks, self.gradient, len(X)
        wide, wide_slope = (buffer[:n] for buffer in self.first)
        split = (n, networks.count, networks.sizes[1])
        values = [wide.reshape(split).transpose(1, 0, 2), *(layer[0][:, :n] for layer in self.later)]
        slopes = [wide_slope.reshape(split).transpose(1, 0, 2), *(layer[1][:, :n] for layer in self.later)]

        np.matmul(X, networks.weights[0], out=wide)
        wide += networks.biases[0]
        self._rectify(wide, 0)
        for i in range(1, len(values)):
            np.matmul(values[i - 1], networks.weights[i], out=values[i])
            values[i] += networks.biases[i]
            self._rectify(values[i], i)
        error = values[-1] @ networks.weights[-1] + networks.biases[-1]  # (count, B, k)
        error -= error.max(axis=2, keepdims=True)
        np.exp(error, out=error)
        error /= error.sum(axis=2, keepdims=True)
        error -= targets
        error *= (counts / np.float32(n))[:, :, None]
        for i in range(len(values) - 1, -1, -1):
            np.matmul(values[i].transpose(0, 2, 1), error, out=gradient.weights[i + 1])
            np.sum(error, axis=1, keepdims=True, out=gradient.biases[i + 1])
            np.matmul(error, networks.weights[i + 1].transpose(0, 2, 1), out=slopes[i])
            # a unit that was dropped or is below 0 has the value 0; the others were scaled up with what they hold
            slopes[i] *= values[i] > 0
            slopes[i] *= np.float32(1 / (1 - self.dropout))
            error = slopes[i]
        np.matmul(X.T, wide_slope, out=gradient.weights[0])
        np.sum(wide_slope, axis=0, out=gradient.biases[0])

    def _rectify(self, values: Vectors, layer: int) -> None:
        """Set negative values and dropped units to 0, in place, and scale the others up by what was dropped."""
        np.maximum(values, 0, out=values)
        if self.dropout:
            draws = self.draws[layer][: values.size].reshape(values.shape)
            self.rng.random(out=draws, dtype=np.float32)
            values *= draws >= self.dropout
            values *= np.float32(1 / (1 - self.dropout))


class _Adam:
    """Adam with decoupled weight decay; the learning rate falls to 0 as a cosine."""

    def __init__(self, networks: Networks, gradient: Networks, recipe: Recipe, steps: int) -> None:
        self.networks, self.gradient, self.recipe, self.steps, self.done = networks, gradient, recipe, steps, 0
        self.mean, self.square = np.zeros_like(networks.flat), np.zeros_like(networks.flat)

    def step(self) -> None:
        """Move the parameters by one step; the gradient is used up."""
        rate = self.recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * self.done / self.steps))
        self.done += 1
        first, second = _BETAS
        size = np.float32(rate * math.sqrt(1 - second**self.done) / (1 - first**self.done))
        for start in range(0, len(self.networks.flat), _CHUNK):
            here = slice(start, start + _CHUNK)
            g, m, v = self.gradient.flat[here], self.mean[here], self.square[here]
            m *= np.float32(first)
            m += np.float32(1 - first) * g
            np.square(g, out=g)
            g *= np.float32(1 - second)
            v *= np.float32(second)
            v += g
            np.sqrt(v, out=g)
            g += _EPSILON
            np.divide(m, g, out=g)
            g *= size
            self.networks.flat[here] -= g
        if self.recipe.weight_decay:
            self.networks.flat[: self.networks.n_weights] *= np.float32(1 - rate * self.recipe.weight_decay)


class _Watch:
    """Keeps each network as it was when its loss on its held-out rows was the lowest."""

    def __init__(
        self, networks: Networks, X: Vectors, y: Indices, weights: Floats, held: list[Indices], patience: int
    ) -> None:
        self.networks, self.patience = networks, patience
        self.best = Networks(networks.sizes, networks.count)
        self.held = [(X[rows], y[rows], weights[rows] / weights[rows].sum()) for rows in held]
        self.losses, self.waited = np.full(len(held), np.inf), np.zeros(len(held), dtype=int)

    def is_over(self) -> bool:
        """Measure the networks after an epoch; return whether none has become better for too long."""
        for i, (X, y, shares) in enumerate(self.held):
            p = softmax(self.networks.outputs_of(i, X).astype(np.float64))
            loss = float(-(shares * np.log(np.maximum(p[np.arange(len(y)), y], 1e-15))).sum())
            self.waited[i] += 1
            if loss < self.losses[i]:
                self.losses[i], self.waited[i] = loss, 0
                self.best.copy_of(i, self.networks)
        return bool((self.waited >= self.patience).all())


def _distinct(X: Vectors, y: Indices, weights: Floats | None) -> tuple[Vectors, Indices, Indices, Floats]:
    """Merge copies of a row with one label; return rows, labels, number of each row's content, and weights."""
    whole = np.ascontiguousarray(X + np.float32(0))  # -0.0 becomes 0.0, which is the same number in other bytes
    _, content = np.unique(whole.view(np.dtype((np.void, whole.itemsize * whole.shape[1]))), return_inverse=True)
    content = content.reshape(-1)
    _, rows, copies = np.unique(content * (y.max() + 1) + y, return_index=True, return_inverse=True)
    merged = np.bincount(copies, np.ones(len(y)) if weights is None else weights)
    return X[rows], y[rows], content[rows], merged / merged.mean()


def _parts(content: Indices, y: Indices, n_classes: int, rng: np.random.Generator) -> Indices:
    """Deal each class's contents over parts of a tenth, or of 2,000 rows; -1 for those of classes with very few."""
    n_parts = max(_PARTS, math.ceil(len(y) / _MOST_HELD))
    _, first, whose = np.unique(content, return_index=True, return_inverse=True)
    label, part, offset = y[first], np.full(len(first), -1), 0  # a content with two labels is dealt with its first
    for c in range(n_classes):
        mine = rng.permutation(np.flatnonzero(label == c))
        if len(mine) >= _FEW:
            part[mine] = (offset + np.arange(len(mine))) % n_parts
            offset += len(mine)  # so that small classes do not all fall into the first parts
    return np.asarray(part[whose])
