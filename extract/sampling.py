"""A sample of an image set, every class in proportion: what can be learnt from some of the pictures beforehand."""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from data.errors import ImageSetError
from data.images import ImageSet
from data.splits import SplitRule, stratified_split
from extract.survey import survey

Rows = npt.NDArray[np.int64]
OnProgress = Callable[[int, int, int], None]

# Pictures of a class that a sample has at least: one to train on and one to hold out.
_LEAST = 2


def training_pictures(images: ImageSet, on_progress: OnProgress | None = None) -> tuple[Rows, str]:
    """Return the labelled pictures that train, so that no other has a part in any choice; and a note.

    Of a set that brings no splits these are the ones that `extract` would not make its test split, which goes by the
    contents of the pictures that can be used: every file is read and decoded once.

    Parameters
    ----------
    images : ImageSet
        The set.
    on_progress : callable, optional
        Called with the number of files read, in all, and unreadable.

    Raises
    ------
    ImageSetError
        If there are none, or of one class alone.
    """
    splits, note = images.splits, ""
    if not (splits[images.targets >= 0] != "").any():
        found = survey(images, on_progress=on_progress)
        splits = np.full(len(images), "", dtype="U5")
        splits[found.usable] = stratified_split(images.targets[found.usable], found.digests[found.usable], SplitRule())
        note = "the set has no splits: the pictures that extract would hold out for test were left out"
    rows = np.flatnonzero((images.targets >= 0) & (splits == "train"))
    if len(np.unique(images.targets[rows])) < 2:
        held = ", ".join(sorted({split or "(none)" for split in images.splits.tolist()}))
        raise ImageSetError(
            f"{images.root} has no labelled training pictures of two classes (splits: {held}): name a folder with a "
            "folder for each class, under train/ where there are splits"
        )
    return rows, note


def stratified_sample(images: ImageSet, rows: Rows, n: int, seed: int) -> Rows:
    """Return about n of some pictures in ascending order, every class in proportion and with two pictures at least.

    The same pictures, n and seed give the same sample, and a smaller n a part of it.

    Parameters
    ----------
    images : ImageSet
        The set.
    rows : ndarray of shape (m,), int64
        Which of its pictures to draw from.
    n : int
        How many; more where that is less than two of each class.
    seed : int
        Of the draw.

    Examples
    --------
    >>> from data.images import open_images
    >>> images = open_images("pictures")
    >>> train = np.flatnonzero(images.splits == "train")
    >>> [images.classes[t] for t in images.targets[stratified_sample(images, train, 6, seed=0)]]
    ['bird', 'bird', 'cat', 'cat', 'dog', 'dog']
    """
    rng = np.random.default_rng(seed)
    turn = np.empty(len(rows))  # when a picture is drawn, as a share of its class
    for target in np.unique(images.targets[rows]):
        mine = rng.permutation(np.flatnonzero(images.targets[rows] == target))
        turn[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
        turn[mine[:_LEAST]] -= 1.0  # first of all
    count = max(n, int((turn < 0).sum()))
    return np.sort(rows[np.argsort(turn, kind="stable")[:count]])


def as_sample(images: ImageSet, rows: Rows, name: str) -> ImageSet:
    """Return some pictures as an image set of its own, whose one split is train."""
    return dataclasses.replace(images.take(rows), name=name, splits=np.full(len(rows), "train"), notes=(), source="")
