"""Pictures of a split with their features: what `FeatureStore.load` gives."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data.layout import Vectors
from data.reading import StoredVectors
from data.shown import Facts, Shown, show_samples
from data.spec import FeatureSpec, only
from data.views import Digests


@dataclasses.dataclass(frozen=True, repr=False)
class Samples(Shown):
    """The pictures of one split with their features.

    Parameters
    ----------
    X : ndarray of shape (n, dim), float32 or float16 as stored
        Feature vectors in the order of the image set; several features of a picture stand side by side. Where they
        were to stay in the store, a `data.reading.StoredVectors`, which is read by slices.
    y : ndarray of shape (n,), int32
        Index into `classes`, -1 where there is no label.
    classes : list of str
        All classes of the image set, whatever the split has.
    paths : sequence of str
        Relative to the image set's root.
    digests : ndarray of shape (n,), S64
        Content of each picture.
    specs : tuple of FeatureSpec
        What the vectors are, one for each feature; a single spec may be given by itself.
    dataset, split : str
        Where they are from; `split` is empty for the whole set.
    others : tuple of ndarray of shape (n, dim)
        The same pictures in other views, to train on.
    widths : tuple of int
        How many columns of X each feature has; left out where there is one.
    """

    X: Vectors
    y: npt.NDArray[np.int32]
    classes: list[str]
    paths: Sequence[str]
    digests: Digests
    specs: tuple[FeatureSpec, ...]
    dataset: str
    split: str
    others: tuple[Vectors, ...] = ()
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.specs, FeatureSpec):
            object.__setattr__(self, "specs", (self.specs,))
        if len(self.specs) == 1:
            object.__setattr__(self, "widths", (self.X.shape[1],))
        assert len(self.widths) == len(self.specs), "a width for each spec"
        assert sum(self.widths) == self.X.shape[1], "the widths sum to the columns"

    def __len__(self) -> int:
        return len(self.y)

    def _shown(self) -> tuple[str, Facts]:
        return show_samples(self)

    @property
    def spec(self) -> FeatureSpec:
        """The spec, where there is one feature; a `SpecError` where there are several."""
        return only(self.specs, f"the data of {self.dataset!r}")

    @property
    def held(self) -> int:
        """Bytes of vectors that lie in memory, and not in the store."""
        return sum(view.nbytes for view in (self.X, *self.others) if not isinstance(view, StoredVectors))

    def labelled(self) -> "Samples":
        """Return the pictures that have a label."""
        if (self.y >= 0).all():
            return self
        return self.take(np.flatnonzero(self.y >= 0))

    def take(self, rows: npt.NDArray[np.int64]) -> "Samples":
        """Return some of the pictures, in the order of `rows`; what lies in the store stays there."""
        paths = list(self.paths)
        views: list[Any] = [self.X, *self.others]
        held: list[Any] = [view.rows(rows) if isinstance(view, StoredVectors) else view[rows] for view in views]
        return dataclasses.replace(
            self,
            X=held[0],
            y=self.y[rows],
            paths=[paths[i] for i in rows.tolist()],
            digests=self.digests[rows],
            others=tuple(held[1:]),
        )

    def training(self, rows: npt.NDArray[np.int64] | None = None) -> tuple[Vectors, npt.NDArray[np.int32]]:
        """Return X and y of some of the pictures, or all, with every view of each."""
        views = [self.X, *self.others]
        if rows is not None:
            views = [view[rows] for view in views]
        y = self.y if rows is None else self.y[rows]
        return (views[0][:], y) if len(views) == 1 else (np.concatenate(views), np.tile(y, len(views)))
