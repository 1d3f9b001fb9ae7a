"""Reading a feature store: which features and image sets it holds, and X, y of a split in image-set order."""

import contextlib
import functools
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.bundle import is_bundle, read_bundle, refuse_bundle
from data.choice import Held, choose_features, choose_view, fingerprints_of, other_views
from data.errors import MissingFile, StoreError
from data.held import FeatureInfo
from data.layout import Part, Vectors
from data.opened import OpenStore
from data.reading import StoredVectors
from data.relabel import Corrections
from data.samples import Samples
from data.shown import Facts, Shown, show_store
from data.spec import FeatureSpec, refuse_other
from data.staging import staged_blocks
from data.views import Digests, View
from data.words import WAITING, counted

__all__ = ["FeatureInfo", "FeatureStore", "Samples"]


class FeatureStore(Shown):
    """A published store: one HDF5 file, a folder of them read as one, or a bundle.

    Parameters
    ----------
    path : path
        The file or folder. It is opened by each method and closed again.
    corrections : Corrections, optional
        Labels to read instead of those that are stored.

    Examples
    --------
    >>> FeatureStore("features.h5")
    FeatureStore('features.h5')
      features   36 x 96 float32, 13.8 kB: timm/test_resnet/penultimate (...)
      image set  pictures: 36 pictures, 3 classes (bird, cat, dog); test 12, train 24
    """

    def __init__(self, path: str | os.PathLike[str], corrections: Corrections | None = None) -> None:
        self.path, self.corrections = Path(path), corrections

    def _shown(self) -> tuple[str, Facts]:
        return show_store(self)

    def exists(self) -> bool:
        """Whether anything was published here yet."""
        return bool(self.part_paths()) if self.path.is_dir() else self.path.exists()

    def refuse_other_folder(self) -> None:
        """Raise if this is a folder that holds other things than a store, before anything is written into it.

        Raises
        ------
        StoreError
            With a path to name instead.
        BundleError
            If it is a bundle, which nothing is written into.
        """
        refuse_bundle(self.path)
        if self.path.is_dir() and not self.part_paths():
            inside = [name for name in os.listdir(self.path) if not name.startswith(".")]
            if inside:
                raise StoreError(
                    f"{self.path} is a folder with other things in it ({', '.join(sorted(inside)[:3])}): name a file "
                    f"such as {self.path}.h5, or a new folder"
                )

    def part_paths(self) -> list[Path]:
        """Return the files that the store consists of, oldest first; of a bundle the one that it names."""
        if is_bundle(self.path):
            return [read_bundle(self.path).features]
        if not self.path.is_dir():
            return [self.path]
        # hidden ones are not ours: macOS leaves ._NAME beside each NAME where it copies to
        return sorted(path for path in self.path.glob("*.h5") if not path.name.startswith("."))

    def views(self) -> dict[str, View]:
        """Return the image sets by name; in a folder store the newest view of a name counts."""
        with self._open() as held:
            return held.views

    def view(self, name: str | None = None) -> View:
        """Return one image set: the one of that name, or the only one with labels.

        Raises
        ------
        StoreError
            If it is not there, or not unique.
        """
        return choose_view(self.views(), name, str(self.path))

    def features(self) -> dict[str, FeatureInfo]:
        """Return what is held of each spec, by fingerprint."""
        with self._open() as held:
            return held.features

    def named(self, name: str) -> list[str]:
        """Return the fingerprints of all features that a name fits; see `data.choice.fingerprints_of`."""
        return fingerprints_of(self.features(), name)

    def digests(self, fingerprint: str) -> Digests:
        """Return the digests of the pictures that have features of this spec, (n,) S64; empty if none."""
        with self._open() as held:
            return held.digests(fingerprint)

    def load(
        self,
        split: str | None = None,
        *,
        dataset: str | None = None,
        features: str | Sequence[str] | None = None,
        spec: FeatureSpec | Sequence[FeatureSpec] | None = None,
        wants: str = "the caller",
        augment: bool = False,
        memory: int | None = None,
    ) -> Samples:
        """Read X and y of a split.

        Parameters
        ----------
        split : str, optional
            Its name; without one, all pictures of the image set.
        dataset : str, optional
            Name of the image set; needed where the store has several with labels.
        features : str or sequence of str, optional
            Beginning of a fingerprint, or the name of a backbone, a layer or both (``resnet50/layer3``); needed where
            the image set has several features. Several names give their vectors side by side, in this order;
            ``all-stages`` stands for every layer of one backbone, ``NAME/all-stages`` says of which.
        spec : FeatureSpec or sequence of FeatureSpec, optional
            The exact specs wanted, instead of `features`.
        wants : str
            Who wants `spec`, for the message if the store does not have it.
        augment : bool
            Read every other view of the pictures that is stored, too; of several features each must have the same.
        memory : int, optional
            Bytes: vectors that take more than half of them stay in the store, as `data.reading.StoredVectors`.

        Returns
        -------
        Samples
            Every block that was read has been checked against its checksum.

        Raises
        ------
        StoreError
            If the image set, the split or the features are not there, not unique or not complete.
        FingerprintMismatch
            If the store has no features of `spec`; names the fields that differ.
        DamagedStore
            If the bytes are not those that were written.
        ImageSetError
            If a correction is of no picture or class of the image set.

        Examples
        --------
        >>> train = FeatureStore("features.h5").load("train")
        >>> train
        Samples of pictures, train
          X      24 x 96 float32, 9.2 kB: timm/test_resnet/penultimate
          y      bird 8, cat 8, dog 8
          paths  train/bird/0.png, ...
        >>> X, y, paths = train.X, train.y, train.paths
        >>> X.shape, train.classes[y[0]], paths[0]
        ((24, 96), 'bird', 'train/bird/0.png')
        """
        with self._open() as held:
            view = choose_view(held.views, dataset, str(self.path))
            covers = functools.cache(lambda fp: not held.lacking(fp, view))
            if spec is None:
                names = [features] if isinstance(features, str) else list(features or ())
                chosen = choose_features(held.features, names, covers, str(self.path), view.name)
            else:
                chosen = self._exactly(spec, held.features, wants)
            others = other_views(held.features, chosen, covers, str(self.path)) if augment else []
            rows = _rows_of(view, split)
            paths, digests = _taken(view.paths, rows), view.digests[rows]
            vectors = self._read([held.side_by_side(fps, digests, paths) for fps in (chosen, *others)], memory)
            samples = Samples(
                X=vectors[0],
                y=view.targets[rows].astype(np.int32, copy=False),
                classes=view.classes,
                paths=paths,
                digests=digests,
                specs=tuple(held.features[fp].spec for fp in chosen),
                dataset=view.name,
                split=split or "",
                others=tuple(vectors[1:]),
                widths=tuple(held.features[fp].dim for fp in chosen),
            )
        return self.corrections.apply(samples, view, str(self.path)) if self.corrections else samples

    def vectors(self, fingerprint: str, digests: Digests) -> Vectors:
        """Return the vectors of some contents, (n, dim), in the order asked for.

        Raises
        ------
        StoreError
            If there are no features of that spec, or not of every content.
        """
        with self._open() as held:
            names = [digest.decode() for digest in digests.tolist()]
            return held.located(fingerprint, digests, names).read(slice(0, len(digests)))

    def splits(self, dataset: str | None = None) -> dict[str, int]:
        """Return how many pictures each split of an image set has; the key is empty where there is no split."""
        return self.view(dataset).split_counts()

    def check(self) -> None:
        """Open every file of the store and close it again.

        Raises
        ------
        MissingFile, StoreError, DamagedStore
            If there is no store, or something else in its place.
        """
        with self._open():
            pass

    @contextlib.contextmanager
    def _open(self) -> Iterator[OpenStore]:
        if not self.exists():
            raise MissingFile(self._what_is_missing())
        with contextlib.ExitStack() as stack:
            yield OpenStore([stack.enter_context(Part(path)) for path in self.part_paths()], self.path)

    def _what_is_missing(self) -> str:
        """Say that there is no store, and what makes one."""
        waiting = len(staged_blocks(self.path))
        if not self.path.is_dir():
            missing = f"{self.path} does not exist"
        elif waiting:
            missing = f"{self.path} is a folder that holds no store"
        else:
            return (
                f"{self.path} is a folder that holds no store: if it holds pictures, run `extract "
                f"{shlex.quote(str(self.path))} -o features.h5` and name that"
            )
        if not waiting:
            return f"{missing}: run `extract IMAGES -o {self.path}` to make it"
        blocks = counted(waiting, *WAITING)
        return f"{missing}, but {blocks} beside it: run `extract IMAGES -o {self.path}` again to finish it"

    def _exactly(self, spec: FeatureSpec | Sequence[FeatureSpec], held: Held, wants: str) -> list[str]:
        """Return the fingerprints of the specs that are wanted, each of which the store must hold."""
        specs = [spec] if isinstance(spec, FeatureSpec) else list(spec)
        for one in specs:
            refuse_other((info.spec for info in held.values()), one, str(self.path), wants)
        return [one.fingerprint for one in specs]

    def _read(self, views: list[StoredVectors], memory: int | None) -> list[Any]:
        """Read vectors into memory, or open them for good where they take more than half of it."""
        if memory is not None and sum(vectors.nbytes for vectors in views) > memory / 2:
            return [vectors.keeping(self.part_paths()) for vectors in views]
        return [vectors[:] for vectors in views]


def _rows_of(view: View, split: str | None) -> npt.NDArray[np.int64]:
    rows = np.arange(len(view.paths)) if split is None else np.flatnonzero(view.splits == split)
    if len(rows):
        return rows.astype(np.int64)
    if not view.classes:
        raise StoreError(
            f"no picture of {view.name!r} has a label: put each class into a folder of its own, or name the labels in "
            "a manifest, and extract again (which computes nothing anew)"
        )
    names = ", ".join(sorted({s for s in view.splits.tolist() if s})) or "none"
    makes = "--val-fraction" if split == "val" else "--test-fraction"
    raise StoreError(
        f"the image set {view.name!r} has no split {split!r}, its splits are: {names}; "
        f"name one of these, or extract again with {makes} 0.2 (which computes nothing anew)"
    )


def _taken(paths: Sequence[str], rows: npt.NDArray[np.int64]) -> Sequence[str]:
    """Return some of the paths; of a run of rows without decoding any."""
    if len(rows) == rows[-1] - rows[0] + 1:
        return paths[rows[0] : rows[-1] + 1]
    every = list(paths)
    return [every[i] for i in rows.tolist()]
