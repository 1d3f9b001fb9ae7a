"""What is held out to choose by: stratified folds in which no picture straddles, or a split of its own."""

import dataclasses
from functools import cached_property

import numpy as np
import numpy.typing as npt

from classify.head import Array
from data.errors import HeadError
from data.store import Samples


@dataclasses.dataclass(frozen=True)
class Design:
    """Which pictures train and which are held out.

    Parameters
    ----------
    samples : Samples
        The training pictures, labelled.
    fold : ndarray of shape (n,), int64
        The fold that holds a picture out, -1 for none.
    val : Samples or None
        Held out instead of folds.
    """

    samples: Samples
    fold: npt.NDArray[np.int64]
    val: Samples | None = None

    @classmethod
    def cross_validation(cls, samples: Samples, n_folds: int, seed: int) -> "Design":
        """Hold out each picture once; a fold is left out of the measurement where one class alone would train."""
        fold = stratified_folds(samples.y, samples.digests, n_folds, seed)
        usable = [f for f in range(int(fold.max(initial=-1)) + 1) if len(np.unique(samples.y[fold != f])) > 1]
        number = {f: i for i, f in enumerate(usable)}
        return cls(samples, np.array([number.get(f, -1) for f in fold.tolist()], dtype=np.int64))

    @classmethod
    def validation(cls, samples: Samples, val: Samples | None) -> "Design":
        """Hold out a split of its own.

        Raises
        ------
        HeadError
            If it has no labelled picture.
        """
        val = val.labelled() if val is not None else None
        if val is None or not len(val):
            raise HeadError("--tune val needs labelled pictures in a split named val: use --tune cv")
        return cls(samples, np.full(len(samples), -1), val)

    @classmethod
    def leave_one_out(cls, samples: Samples) -> "Design":
        """Measure every picture, as one fold: who left it out alone is the head's own affair."""
        return cls(samples, np.zeros(len(samples), dtype=np.int64))

    @property
    def n_folds(self) -> int:
        """How often something is held out."""
        return 1 if self.val is not None else int(self.fold.max(initial=-1)) + 1

    @cached_property
    def held_out(self) -> npt.NDArray[np.int64]:
        """The rows that are measured, of `val` where there is one, in ascending order."""
        return np.arange(len(self.val.y)) if self.val is not None else np.flatnonzero(self.fold >= 0)

    @cached_property
    def truth(self) -> npt.NDArray[np.int32]:
        """Their labels."""
        return (self.val or self.samples).y[self.held_out]

    @cached_property
    def fold_of(self) -> npt.NDArray[np.int64]:
        """Their folds."""
        return np.zeros(len(self.held_out), dtype=np.int64) if self.val is not None else self.fold[self.held_out]

    def inside(self, fold: int) -> npt.NDArray[np.int64]:
        """Return the rows that train where `fold` is held out."""
        return np.flatnonzero(self.fold != fold)

    def masks(self) -> npt.NDArray[np.float32] | None:
        """Return 1 for the rows that train in each fold and 0 for the others, (n times views, folds); None for all."""
        if self.val is not None:
            return None
        masks = (self.fold[:, None] != np.arange(self.n_folds)).astype(np.float32)
        return np.tile(masks, (1 + len(self.samples.others), 1))


def stratified_folds(y: Array, digests: Array, n_folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Deal the pictures of each class over folds; copies of one content go to one fold.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Labels.
    digests : ndarray of shape (n,)
        Contents.
    n_folds : int
        At most; a class's distinct contents limit it for no other class.
    seed : int
        Of the shuffle.

    Returns
    -------
    ndarray of shape (n,), int64
        Fold of each picture; -1 for what always trains, so that every class does: the only content of its class.
    """
    rng = np.random.default_rng(seed)
    fold = np.full(len(y), -1, dtype=np.int64)
    _, content = np.unique(digests, return_inverse=True)
    fold_of: dict[int, int] = {}
    offset = 0
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        contents = [int(c) for c in rng.permutation(np.unique(content[rows])) if int(c) not in fold_of]
        if len(contents) > 1:
            for i, c in enumerate(contents):
                fold_of[c] = (offset + i) % n_folds
            offset += len(contents)  # so that small classes do not all fall into the first folds
    for row, c in enumerate(content.tolist()):
        fold[row] = fold_of.get(c, -1)
    fold = with_every_class(fold, y, content)
    used = np.unique(fold[fold >= 0])
    return np.where(fold >= 0, np.searchsorted(used, fold), -1)


def with_every_class(fold: npt.NDArray[np.int64], y: Array, content: Array) -> npt.NDArray[np.int64]:
    """Return folds in each of which every class trains.

    One fold may hold all of a class where its contents bear another label, too; then they are never held out.

    Parameters
    ----------
    fold : ndarray of shape (n,), int64
        Of each row, -1 for none; rows of one content have one fold.
    y, content : ndarray of shape (n,)
        Labels and contents.
    """
    fold = fold.copy()
    for label in np.unique(y):
        mine = y == label
        if len(np.unique(fold[mine])) == 1:
            fold[np.isin(content, content[mine])] = -1
    return fold
