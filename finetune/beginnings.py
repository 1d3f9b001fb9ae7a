"""What the new last layer starts from: a fitted head, or the rows of a class that the old layer knew."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import PenultError, TrainingError
from extract.class_names import describe_matches, match_classes
from extract.original import OriginalLayer, original_layer

Array = npt.NDArray[Any]

INITS = ("auto", "random", "rows")
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class LastLayer:
    """Known weights for the new last layer, on raw penultimate vectors.

    Parameters
    ----------
    weight : ndarray of shape (m, dim)
    bias : ndarray of shape (m,)
    rows : tuple of int
        Which classes these are.
    report : tuple of str
        Where they came from, a sentence each.
    complete : bool
        Whether the network could classify with them as it is.
    """

    weight: Array
    bias: Array
    rows: tuple[int, ...]
    report: tuple[str, ...]
    complete: bool


@dataclasses.dataclass(frozen=True)
class LinearStart:
    """A linear head fitted on penultimate features, its scaler folded in.

    Parameters
    ----------
    weight : ndarray of shape (k, dim)
    bias : ndarray of shape (k,)
    classes : list of str
    fingerprint : str
        Of the features.
    name : str
        How messages call it.
    """

    weight: Array
    bias: Array
    classes: list[str]
    fingerprint: str
    name: str

    def for_classes(self, classes: Sequence[str], fingerprint: str, backbone: str) -> LastLayer:
        """Return it in the order of `classes`, for a network of that fingerprint.

        Raises
        ------
        TrainingError
            If it was fitted for other classes or on other features.
        """
        if sorted(self.classes) != sorted(classes):
            raise TrainingError(
                f"{self.name} tells {', '.join(self.classes[:5])} apart, the pictures show {', '.join(classes[:5])}: "
                "name a head for these classes, or leave out --start"
            )
        if self.fingerprint != fingerprint:
            raise TrainingError(
                f"{self.name} was fitted on other features than {backbone} gives with these weights and this "
                "preprocessing: name the same --backbone, --weights and --input-size, or leave out --start"
            )
        order = [self.classes.index(name) for name in classes]
        report = f"the last layer starts from {self.name}"
        return LastLayer(self.weight[order], self.bias[order], tuple(range(len(order))), (report,), True)


def shared_rows(backbone: str, weights: str, classes: Sequence[str], init: str) -> LastLayer | None:
    """Return the old last layer's rows for the classes that it knew by name or synonym.

    A class whose name several rows bear gets their mean.

    Parameters
    ----------
    backbone, weights : str
        As for `extract.backbones.open_backbone`.
    classes : sequence of str
        The new ones.
    init : str
        ``auto``: rows if every class has one; ``rows``: whatever rows there are; ``random``: none.

    Raises
    ------
    TrainingError
        If rows were asked for and there are none.
    """
    if init == "random":
        return None
    layer: OriginalLayer | None
    try:
        layer, reason = original_layer(backbone, weights)
    except PenultError as error:
        layer, reason = None, str(error)
    matches = match_classes(classes, layer.names) if layer else []
    known = [i for i, match in enumerate(matches) if match.rows]
    if layer is None or not known:
        if init == "rows":
            raise TrainingError(
                f"no class can start from a row of {backbone}'s own last layer: "
                f"{reason or 'it bears none of their names'}: leave out --init rows"
            )
        return None
    if init == "auto" and len(known) < len(classes):
        return None
    found = [list(matches[i].rows) for i in known]
    weight = np.stack([layer.weight[rows].mean(axis=0) for rows in found])
    bias = np.array([layer.bias[rows].mean() for rows in found])
    lines = describe_matches(matches, layer.names)
    report = [f"the last layer starts from the old one's rows for {len(known)} of the {len(classes)} classes"]
    report += lines[:_SHOWN]
    report += [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    report += [layer.note] if layer.note else []
    return LastLayer(weight, bias, tuple(known), tuple(report), len(known) == len(classes))
