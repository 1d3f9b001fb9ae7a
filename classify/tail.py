"""Trained heads as plain arrays with the scaler folded in, for whoever fuses them with a network."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from classify.artifact import TrainedHead
from classify.bayes import BayesHead
from classify.folding import fold
from classify.head import Array, Floats, Head, LinearHead, Vectors
from classify.head2toe import Head2ToeHead
from classify.mlp import MLPHead
from classify.stack import StackHead
from classify.trials import Scaler
from data.errors import HeadError
from data.tail import Exportable, Tail

_PLAIN = (np.ones(1, np.float32), np.zeros(1, np.float32))


def exportable(trained: TrainedHead) -> Exportable:
    """Return a head as arrays that say the same of a vector as the head does, up to the rounding of float32.

    Raises
    ------
    HeadError
        If it is of a kind that is no arithmetic on a few arrays.
    """
    for kind, make in _TAILS.items():
        if isinstance(trained.head, kind):
            return Exportable(
                name=trained.name,
                kind=trained.kind,
                classes=trained.classes,
                sources=trained.sources,
                tail=make(trained.head, trained.scaler),
                predict_proba=trained.predict_proba,
                about=_about(trained),
            )
    raise HeadError(
        f"{trained.name} is a head of the kind {trained.kind}, which answers by its training pictures and cannot be "
        "fused into one graph: export a head of the kind lr, svm, ridge, lda, centroid, bayes, mlp, stack or head2toe"
    )


def _linear(head: LinearHead, scaler: Scaler) -> Tail:
    weight, bias = fold(head, scaler)
    return _of_linear(weight, bias)


def _of_linear(weight: Floats, bias: Floats) -> Tail:
    """Return weight (k, d) and bias (k,) less what all classes have in common, which the softmax does not see.

    Class means, say, are large and nearly alike, and their products would lose digits in float32.
    """
    arrays = {"weight": (weight - weight.mean(axis=0)).T, "bias": bias - bias.mean()}
    return Tail("linear", _singles(arrays), *_PLAIN)


def _head2toe(head: Head2ToeHead, scaler: Scaler) -> Tail:
    """Return the linear model on all columns: those that were not kept weigh nothing."""
    wide = LinearHead()
    coef = np.zeros((len(head.coef_), head._width()), np.float32)
    coef[:, head.kept_] = head.coef_
    wide.restore({"coef_": coef, "intercept_": head.intercept_}, len(head.classes_), head.scale_, head.bias_)
    return _linear(wide, scaler)


def _mlp(head: MLPHead, scaler: Scaler) -> Tail:
    first = head.coefs_[0].astype(np.float64) / scaler.scale[:, None]
    weights = [first, *head.coefs_[1:]]
    biases = [head.intercepts_[0] - scaler.mean.astype(np.float64) @ first, *head.intercepts_[1:]]
    arrays = {f"weight{i}": w for i, w in enumerate(weights)} | {f"bias{i}": b for i, b in enumerate(biases)}
    return Tail("mlp", _singles(arrays), *_calibration(head))


def _quadratic(head: BayesHead, scaler: Scaler) -> Tail:
    # as `BayesHead._scores` has it, about the mean of the classes, and less what the classes have in common
    centre = head.theta_.mean(axis=0)
    theta, precision = head.theta_ - centre, 1 / head.var_
    bias = head.log_prior_ - 0.5 * (np.log(2 * np.pi * head.var_) + theta**2 * precision).sum(axis=1)
    weight, square = theta * precision, -0.5 * precision
    arrays = {
        "mean": scaler.mean + centre * scaler.scale,
        "scale": scaler.scale,
        "weight": (weight - weight.mean(axis=0)).T,
        "square": (square - square.mean(axis=0)).T,
        "bias": bias - bias.mean(),
    }
    return Tail("quadratic", _singles(arrays), *_calibration(head))


def _stack(head: StackHead, scaler: Scaler) -> Tail:
    arrays: dict[str, Array] = {}
    widths = head.widths or (head._width(),)
    for i, (start, end) in enumerate(itertools.pairwise(np.cumsum((0, *widths)).tolist())):
        base = LinearHead()
        state = {"coef_": head.coef_[:, start:end], "intercept_": head.intercepts_[i]}
        base.restore(state, len(head.classes_), float(head.scales_[i]))
        weight, bias = fold(base, Scaler(scaler.mean[start:end], scaler.scale[start:end]))
        arrays |= {f"weight{i}": (weight - weight.mean(axis=0)).T, f"bias{i}": bias - bias.mean()}
    mixture, bias = head.mixture_.astype(np.float64), head.mixture_intercept_
    if len(mixture) == 1:
        mixture, bias = np.vstack([-mixture, mixture]) / 2, np.concatenate([-bias, bias]) / 2
    arrays |= {"mixture": mixture.T, "mixture_bias": bias}
    return Tail("stack", _singles(arrays), *_calibration(head))


_TAILS: dict[type, Callable[[Any, Scaler], Tail]] = {
    Head2ToeHead: _head2toe,
    MLPHead: _mlp,
    BayesHead: _quadratic,
    StackHead: _stack,
    LinearHead: _linear,
}


def _calibration(head: Head) -> tuple[Vectors, Vectors]:
    return np.atleast_1d(np.asarray(head.scale_, np.float32)), np.atleast_1d(np.asarray(head.bias_, np.float32))


def _singles(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}


def _about(trained: TrainedHead) -> dict[str, Any]:
    names = ("params", "trained_on", "selection", "strategy", "versions")
    found = {name: trained.info[name] for name in names if name in trained.info}
    if "selection" in found:
        found["selection"] = {k: v for k, v in found["selection"].items() if k != "candidates"}
    return found
