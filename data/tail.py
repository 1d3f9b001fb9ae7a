"""A head as plain arrays, on its way from the stage that fits it to the one that runs networks."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data.spec import Source

Arrays = dict[str, npt.NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class Tail:
    """What follows a network's vectors: the scaler is folded into the arrays, the calibration is `scale` and `bias`.

    The probabilities are the softmax of ``scale * scores + bias``, with the scores less their mean where `scale` is a
    factor for each class. ``+`` and ``*`` are element by element, ``@`` is the matrix product.

    Parameters
    ----------
    kind : str
        What the scores of vectors x (n, d) are:

        ``linear``: ``x @ weight + bias``;

        ``mlp``: the logarithm of the mean over networks of the softmax of ``relu(... relu(x @ weight0 + bias0) @
        weight1 + bias1 ...)``, of which the first layer (d, n * h) has the networks side by side and the others
        (n, h, h') one behind the other;

        ``quadratic``: ``z @ weight + (z * z) @ square + bias`` with ``z = (x - mean) / scale``;

        ``stack``: ``l @ mixture + mixture_bias``, where l has for each block of columns the logarithm, at least that
        of 1e-12, of the softmax of ``x[:, block] @ weight + bias``, side by side.
    arrays : dict of str to ndarray, float32
        By the names above; of ``stack`` weight0, bias0, weight1 and so on, block by block.
    scale, bias : ndarray of shape (1,) or (k,), float32
        The calibration.
    """

    kind: str
    arrays: Arrays
    scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Exportable:
    """A head that can be fused with its network.

    Parameters
    ----------
    name, kind : str
        Its file and its kind.
    classes : list of str
        Names of the classes.
    sources : sequence of Source
        What a vector consists of, feature beside feature.
    tail : Tail
        What it computes of a vector.
    predict_proba : callable
        What it says itself: from vectors (n, d) float32 to probabilities (n, k) float64; the export is held to it.
    about : dict
        What else is worth knowing of it, as JSON can say it: parameters, training set, selection.
    """

    name: str
    kind: str
    classes: list[str]
    sources: Sequence[Source]
    tail: Tail
    predict_proba: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]
    about: dict[str, Any]
