"""Stored features as a PyTorch data set, for heads and training loops of one's own."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data.errors import MissingDependency, how_to_install
from data.store import FeatureStore, Samples

try:
    import torch
    from torch.utils.data import Dataset
except ImportError:
    raise MissingDependency(f"torch is not installed: {how_to_install('extract')}") from None

if TYPE_CHECKING:
    from torch import Tensor

    Item = tuple[Tensor, int]
    _Base = Dataset[Item]
else:
    _Base = Dataset


class StoreDataset(_Base):
    """The features of one split: each item is a vector, (dim,) float32, and its target, an int.

    The store is read when the first item is asked for, once, and checked. Workers of a `DataLoader` share what was read
    (forked ones as it lies, spawned ones through PyTorch's shared memory); float16 stays float16 there and becomes
    float32 item by item.

    Parameters
    ----------
    store : path or FeatureStore
        Where the features are.
    split : str, optional
        Its name; without one, all pictures of the image set.
    features : str or sequence of str, optional
        As for `data.store.FeatureStore.load`.
    dataset : str, optional
        Name of the image set, where the store has several.
    augment : bool
        Let every stored view of a picture be an item, those of the first view first.
    labelled : bool
        Leave out pictures without a label; otherwise their target is -1.

    Examples
    --------
    >>> from torch.utils.data import DataLoader
    >>> train = StoreDataset("features.h5", "train")
    >>> len(train), train.classes
    (24, ['bird', 'cat', 'dog'])
    >>> vectors, targets = next(iter(DataLoader(train, batch_size=8, shuffle=True)))
    >>> vectors.shape, targets.dtype
    (torch.Size([8, 96]), torch.int64)
    >>> X, y = train.as_tensors()
    >>> X.shape, X.dtype
    (torch.Size([24, 96]), torch.float32)
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | FeatureStore,
        split: str | None = None,
        *,
        features: str | Sequence[str] | None = None,
        dataset: str | None = None,
        augment: bool = False,
        labelled: bool = True,
    ) -> None:
        self.store = store
        self.split = split
        self.features = features
        self.dataset = dataset
        self.augment = augment
        self.labelled = labelled
        self._tensors: tuple[Tensor, Tensor] | None = None
        self._classes: list[str] = []

    def __len__(self) -> int:
        return len(self._read()[1])

    def __getitem__(self, index: int) -> "Item":
        X, y = self._read()
        return X[index].float(), int(y[index])

    def __getitems__(self, indices: list[int]) -> "list[Item]":
        """Return the items of a batch, gathered at once."""
        X, y = self._read()
        rows = torch.as_tensor(indices)
        return list(zip(X[rows].float().unbind(), y[rows].tolist(), strict=True))

    @property
    def classes(self) -> list[str]:
        """Names of the targets."""
        self._read()
        return self._classes

    @property
    def targets(self) -> "Tensor":
        """Targets of all items, (n,) int64, such as a sampler wants them."""
        return self._read()[1]

    def as_tensors(self) -> "tuple[Tensor, Tensor]":
        """Return X, (n, dim) float32, and y, (n,) int64; float32 features are not copied."""
        X, y = self._read()
        return X.float(), y

    def _read(self) -> "tuple[Tensor, Tensor]":
        if self._tensors is None:
            store = self.store if isinstance(self.store, FeatureStore) else FeatureStore(self.store)
            samples: Samples = store.load(
                self.split, dataset=self.dataset, features=self.features, augment=self.augment
            )
            X, y = (samples.labelled() if self.labelled else samples).training()
            self._classes = samples.classes
            self._tensors = torch.from_numpy(X), torch.from_numpy(y.astype(np.int64))
        return self._tensors
