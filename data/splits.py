"""Stratified splits by seed, decided by a picture's content so that duplicates never straddle two splits."""

import dataclasses
import hashlib
from collections.abc import Container

import numpy as np
import numpy.typing as npt

from data.errors import ImageSetError


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """How to split a set that brings no splits, or to split one anew.

    Parameters
    ----------
    test_fraction, val_fraction : float
        Share of each class.
    seed : int
        Another seed gives another split.
    """

    test_fraction: float = 0.2
    val_fraction: float = 0.0
    seed: int = 0


def measured_split(splits: Container[str]) -> str:
    """Return the split to measure on where none is named: test, or val where there is no test.

    Examples
    --------
    >>> measured_split({"train": 245, "val": 153})
    'val'
    """
    return "test" if "test" in splits or "val" not in splits else "val"


def stratified_split(
    targets: npt.NDArray[np.int32],
    digests: npt.NDArray[np.bytes_],
    rule: SplitRule,
) -> npt.NDArray[np.str_]:
    """Assign ``train``, ``val`` or ``test`` to each picture, each class by itself.

    The pictures of a class are ordered by SHA-256 of the seed and their digest, and the first of them become
    test, the next val: the same pictures and seed give the same split whatever their names and order, and
    pictures of one content share a split. Unlabelled pictures form a class of their own.

    Parameters
    ----------
    targets : ndarray of shape (n,), int32
        Class indices.
    digests : ndarray of shape (n,), bytes
        Hex digests of the pictures.
    rule : SplitRule
        Each fraction is of a class's distinct pictures, rounded to the nearest whole number but at least one where
        it is positive; one picture of every class stays in train.

    Returns
    -------
    ndarray of shape (n,), str

    Raises
    ------
    ImageSetError
        If a fraction is negative or the two leave nothing for train.
    """
    if min(rule.test_fraction, rule.val_fraction) < 0 or rule.test_fraction + rule.val_fraction >= 1:
        raise ImageSetError(
            f"test fraction {rule.test_fraction} and val fraction {rule.val_fraction} must not be negative and must "
            "leave something for train: choose fractions such as 0.2 and 0.1"
        )
    splits = np.full(len(targets), "train", dtype="U5")
    placed: dict[bytes, str] = {}  # a content that stands under two labels keeps the first split it got
    for target in np.unique(targets):
        rows = np.flatnonzero(targets == target)
        unique = sorted(
            {bytes(d) for d in digests[rows]},
            key=lambda d: hashlib.sha256(b"%d:%s" % (rule.seed, d)).digest(),
        )
        n_test = _share(rule.test_fraction, len(unique), spare=1)
        n_val = _share(rule.val_fraction, len(unique), spare=1 + n_test)
        for i, digest in enumerate(unique):
            placed.setdefault(digest, "test" if i < n_test else "val" if i < n_test + n_val else "train")
        splits[rows] = [placed[bytes(d)] for d in digests[rows]]
    return splits


def _share(fraction: float, n: int, spare: int) -> int:
    wanted = max(round(fraction * n), 1) if fraction > 0 else 0
    return max(min(wanted, n - spare), 0)
