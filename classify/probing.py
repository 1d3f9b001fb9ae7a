"""What the training split shows of a network's features: each layer's accuracy, scores, distances, and the slope."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from classify.extrapolate import Slope, last_doubling
from classify.folds import stratified_folds
from classify.linear import RidgeHead
from classify.protocols import distinct, learning_curve
from classify.similarity import Answers, Spacing, answers, probabilities, spacing
from classify.statistics import Interval, Rights, mcnemar_exact, wilson_interval
from classify.transferability import Transferability, h_score, leep, log_me, nce
from classify.trials import left_out
from data.spec import FeatureSpec
from data.store import Samples

PENULTIMATE = "penultimate"
TOGETHER = "all side by side"
# Everything is measured on so many training pictures at most, drawn by seed: a standard error of a point at most.
MOST = 3000
FOLDS = 5
_PARTS = (0.25, 0.5, 1.0)
_DRAWS = 3


@dataclasses.dataclass(frozen=True)
class Original:
    """What is known of the network behind features; stage one finds it out, with torch.

    Parameters
    ----------
    weight, bias : ndarray of shape (K, d) and (K,), or None
        Its last layer.
    names : tuple of str
        The most usual name of each of its classes; empty where they are not known.
    rows : tuple of tuple of int
        For each class of the image set the outputs that bear its name.
    lines : tuple of str
        What a user should know of the names.
    reason : str
        Why there is no last layer.
    macs : float or None
        Multiply-adds of one picture.
    """

    weight: npt.NDArray[np.float32] | None = None
    bias: npt.NDArray[np.float32] | None = None
    names: tuple[str, ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()
    lines: tuple[str, ...] = ()
    reason: str = "it was not asked for"
    macs: float | None = None


@dataclasses.dataclass(frozen=True)
class Layer:
    """A ridge classifier on one layer, each picture left out in turn.

    Parameters
    ----------
    name : str
        Of the layer; ``all side by side`` for all.
    dim : int
        Width.
    accuracy : float
        On the pictures left out.
    interval : tuple of float
        Wilson's 95% interval.
    p_value : float or None
        McNemar's exact test against the penultimate layer; None for itself.
    """

    name: str
    dim: int
    accuracy: float
    interval: Interval
    p_value: float | None


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One network of the store, as far as the training split tells.

    Parameters
    ----------
    name, network, fingerprint : str
        Of its penultimate features, as tables show them; library and architecture; and their fingerprint.
    layers : list of Layer
        Those that the store has, in order, the penultimate one last; then all side by side, where there are several.
    scores : Transferability
        For choosing among networks.
    answers : Answers or None
        Of its original classifier.
    spacing : Spacing or None
        Of the classes in its penultimate features.
    notes : list of str
        What of the original classifier is known, or why it is not.
    macs : float or None
        Multiply-adds of one picture.
    """

    name: str
    network: str
    fingerprint: str
    layers: list[Layer]
    scores: Transferability
    answers: Answers | None
    spacing: Spacing | None
    notes: list[str]
    macs: float | None

    @property
    def penultimate(self) -> Layer:
        """The layer of that name."""
        return next(layer for layer in self.layers if layer.name == PENULTIMATE)


def draw(samples: Samples, seed: int) -> Samples:
    """Return at most `MOST` pictures of different contents, every class in proportion, with their vectors read."""
    samples = samples.take(distinct(samples))
    if len(samples) <= MOST:
        return dataclasses.replace(samples, X=samples.X[:])
    parts = max(20, -(-len(samples) // MOST))
    fold = stratified_folds(samples.y, samples.digests, parts, seed)
    drawn = samples.take(np.flatnonzero(fold < parts * MOST // len(samples)))
    return dataclasses.replace(drawn, X=drawn.X[:])


def measure(samples: Samples, original: Original, report: Callable[[], None]) -> tuple[Backbone, Samples, float]:
    """Measure one network; return also its penultimate features alone, and the best penalty on them."""
    edges = np.cumsum([0, *samples.widths])
    blocks = [samples.X[:, a:b] for a, b in itertools.pairwise(edges.tolist())]
    names = [_called(spec, samples.specs) for spec in samples.specs]
    if len(blocks) > 1:
        blocks.append(samples.X[:])
        names.append(TOGETHER)
    rights, alpha = [], 0.0
    for name, X in zip(names, blocks, strict=True):
        right, chosen = _probe(dataclasses.replace(samples, X=X, specs=samples.specs[-1:], widths=(X.shape[1],)))
        rights.append(right)
        alpha = chosen if name == PENULTIMATE else alpha
        report()
    own = names.index(PENULTIMATE)
    layers = [
        Layer(
            name,
            X.shape[1],
            float(right.mean()),
            wilson_interval(int(right.sum()), len(right)),
            None if name == PENULTIMATE else mcnemar_exact(right, rights[own]),
        )
        for name, X, right in zip(names, blocks, rights, strict=True)
    ]
    X, y, spec = np.asarray(blocks[own], dtype=np.float32), samples.y, samples.specs[own]
    said, scores = None, Transferability(log_me(X, y), h_score(X, y))
    notes = [*original.lines] if original.weight is not None else [f"not known: {original.reason}"]
    if original.weight is not None and original.bias is not None:
        P = probabilities(X, original.weight, original.bias)
        said = answers(X, y, original.weight, P, original.rows, original.names)
        scores = dataclasses.replace(scores, leep=leep(P, y), nce=nce(P, y))
    backbone = Backbone(
        spec.title.replace(f"/{PENULTIMATE}", "", 1),
        spec.backbone,
        spec.fingerprint,
        layers,
        scores,
        said,
        spacing(X, y, samples.classes),
        notes,
        original.macs,
    )
    return backbone, dataclasses.replace(samples, X=X, specs=(spec,), widths=(X.shape[1],)), alpha


def _called(spec: FeatureSpec, specs: Sequence[FeatureSpec]) -> str:
    same = [other for other in specs if other.layer == spec.layer]
    return spec.layer if len(same) == 1 else f"{spec.layer}/{spec.pooling}"


def _probe(samples: Samples) -> tuple[Rights, float]:
    """Return which pictures ridge gets right when each is left out, at the best penalty of its grid, and that."""
    penalties = RidgeHead.grid["alpha"]
    tried = left_out([RidgeHead(alpha=a) for a in penalties], samples, None, slice(0), lambda _: None)
    best = max(range(len(tried)), key=lambda i: float(tried[i].correct.mean()))  # of equal ones the strongest penalty
    return tried[best].correct, float(penalties[best])


def slope_of(samples: Samples, alpha: float, seed: int, report: Callable[[], None]) -> Slope | None:
    """Train on draws of a quarter, of a half, and on all of what each fold leaves, and measure on the fold."""
    fold = stratified_folds(samples.y, samples.digests, FOLDS, seed)
    smallest = min(int((fold != f).sum()) for f in range(FOLDS))
    if int(_PARTS[0] * smallest) < 2 * len(np.unique(samples.y)) or np.bincount(samples.y).min() < FOLDS:
        return None
    sizes = [int(part * smallest) for part in _PARTS]
    rights = [np.empty((_DRAWS, len(samples)), dtype=bool) for _ in sizes]
    for f in range(FOLDS):
        inside, outside = (samples.take(np.flatnonzero(mask)) for mask in (fold != f, fold == f))
        for some, draws in ((sizes[:-1], _DRAWS), (sizes[-1:], 1)):
            curve = learning_curve(
                "ridge", inside, outside, sizes=some, repeats=draws, tune="none", params={"alpha": alpha}, seed=seed + f
            )
            for point in curve.points:
                rights[sizes.index(point.size)][:, fold == f] = point.right
        report()
    return last_doubling(sizes, rights, seed=seed)
