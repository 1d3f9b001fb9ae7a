"""The rows of a split with their features, chosen at once and read piece by piece: what exports write."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data.choice import choose_features
from data.layout import Vectors
from data.spec import FeatureSpec
from data.store import FeatureStore, _covers, _groups, _views
from data.views import Digests

OnProgress = Callable[[int, int], None]

# Bytes of features in memory at a time; a row group of a Parquet file has as many.
PIECE = 64 << 20


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a split, whose features are read piece by piece.

    Parameters
    ----------
    store : FeatureStore
        Where they are.
    dataset, split : str
        What they are; `split` is empty for the whole set.
    specs, widths, dtypes
        Of the features that stand side by side.
    classes : list of str
        All classes of the image set.
    paths : list of str
        Relative to `root`.
    root : str
        Of the image set.
    y, splits, digests : ndarray of shape (n,)
        As in `data.store.Samples` and `data.views.View`.
    """

    store: FeatureStore
    dataset: str
    split: str
    specs: tuple[FeatureSpec, ...]
    widths: tuple[int, ...]
    dtypes: tuple[str, ...]
    classes: list[str]
    paths: list[str]
    root: str
    y: npt.NDArray[np.int32]
    splits: npt.NDArray[np.str_]
    digests: Digests

    def __len__(self) -> int:
        return len(self.y)

    @property
    def dim(self) -> int:
        """Length of a row of features."""
        return sum(self.widths)

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Of the features side by side: as stored, or the wider one where they differ."""
        return np.result_type(*map(np.dtype, self.dtypes))

    @property
    def spec_json(self) -> str:
        """The spec's canonical JSON, or a list of specs."""
        texts = [spec.canonical_json() for spec in self.specs]
        return texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"

    def pieces(self, on_progress: OnProgress | None = None, dtype: Any = None) -> Iterator[tuple[slice, Vectors]]:
        """Yield runs of rows and their features, (rows, dim), each checked against its checksum."""
        dtype = dtype or self.dtype
        step = max(PIECE // (self.dim * np.dtype(dtype).itemsize), 1)
        for first in range(0, len(self), step):
            rows = slice(first, min(first + step, len(self)))
            parts = [self.store.vectors(spec.fingerprint, self.digests[rows]) for spec in self.specs]
            yield rows, (parts[0] if len(parts) == 1 else np.hstack(parts)).astype(dtype, copy=False)
            if on_progress:
                on_progress(rows.stop, len(self))


def choose_table(
    store: FeatureStore | str | os.PathLike[str],
    split: str | None = None,
    *,
    dataset: str | None = None,
    features: str | Sequence[str] | None = None,
) -> Table:
    """Return the rows of a split; parameters and errors as for `data.store.FeatureStore.load`."""
    store = store if isinstance(store, FeatureStore) else FeatureStore(store)
    with store._open() as parts:
        view = store._choose_view(_views(parts), dataset)
        groups = _groups(parts)
        covers = functools.cache(lambda fingerprint: _covers(groups[fingerprint], view))
        names = [features] if isinstance(features, str) else list(features or ())
        chosen = [groups[fp][0] for fp in choose_features(groups, names, covers, str(store.path), view.name)]
        rows = store._rows_of(view, split)
        every = list(view.paths)
        return Table(
            store=store,
            dataset=view.name,
            split=split or "",
            specs=tuple(group.spec for group in chosen),
            widths=tuple(group.dim for group in chosen),
            dtypes=tuple(group.dtype.name for group in chosen),
            classes=view.classes,
            paths=[every[row] for row in rows.tolist()],
            root=view.root,
            y=view.targets[rows].astype(np.int32, copy=False),
            splits=view.splits[rows],
            digests=view.digests[rows],
        )
