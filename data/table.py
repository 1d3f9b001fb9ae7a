"""The rows of a split whose features stay in the store, to be read piece by piece: what exports write."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data.layout import Vectors
from data.store import FeatureStore, Samples

OnProgress = Callable[[int, int], None]

# Bytes of features in memory at a time; a row group of a Parquet file has as many.
PIECE = 64 << 20


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a split.

    Parameters
    ----------
    samples : Samples
        Whose vectors stay in the store.
    splits : ndarray of shape (n,), str
        Of each picture; empty where it has none.
    """

    samples: Samples
    splits: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def dim(self) -> int:
        """Length of a row of features, of several side by side."""
        return int(self.samples.X.shape[1])

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Of the features as stored, or the wider one where several differ."""
        return np.dtype(self.samples.X.dtype)

    @property
    def spec_json(self) -> str:
        """The spec's canonical JSON, or a list of specs."""
        texts = [spec.canonical_json() for spec in self.samples.specs]
        return texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"

    def pieces(self, on_progress: OnProgress | None = None, dtype: Any = None) -> Iterator[tuple[slice, Vectors]]:
        """Yield runs of rows and their features, (rows, dim), each checked against its checksum."""
        dtype = dtype or self.dtype
        step = max(PIECE // (self.dim * np.dtype(dtype).itemsize), 1)
        for first in range(0, len(self), step):
            rows = slice(first, min(first + step, len(self)))
            yield rows, self.samples.X[rows].astype(dtype, copy=False)
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
    samples = store.load(split, dataset=dataset, features=features, memory=0)
    if split is not None:
        return Table(samples, np.full(len(samples), split))
    view = store.view(samples.dataset)
    kept = np.isin(view.digests, samples.digests)  # corrections drop contents, with all their copies
    return Table(samples, view.splits[kept])
