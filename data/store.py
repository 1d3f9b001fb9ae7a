"""Reading a feature store: which features and image sets it holds, and X, y of a split in image-set order."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.bundle import is_bundle, read_bundle, refuse_bundle
from data.choice import choose_features, fingerprints_of, other_views
from data.errors import FingerprintMismatch, MissingFile, StoreError
from data.layout import FeatureGroup, Part, Vectors
from data.provenance import extraction_milliseconds, merged_runs
from data.reading import Located, StoredVectors, locate
from data.relabel import Corrections
from data.shown import Facts, Shown, show_samples, show_store
from data.spec import FeatureSpec, Source, only, refuse_other
from data.staging import staged_blocks
from data.views import Digests, View


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


@dataclasses.dataclass(frozen=True)
class FeatureInfo:
    """What `info` says of the features of one spec."""

    spec: FeatureSpec
    rows: int
    dim: int
    dtype: str
    nbytes: int
    provenance: list[dict[str, Any]]
    requests: list[dict[str, Any]]

    @property
    def extract_milliseconds(self) -> float | None:
        """What it took to compute them, a picture; None where no run was timed."""
        return extraction_milliseconds(self.provenance)

    @property
    def source(self) -> Source:
        """How these features are computed of new pictures."""
        weights_file = next((run["weights_file"] for run in self.provenance if run.get("weights_file")), "")
        return Source(self.spec, self.requests[0] if self.requests else {}, weights_file)


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
        return sorted(self.path.glob("*.h5")) if self.path.is_dir() else [self.path]

    def views(self) -> dict[str, View]:
        """Return the image sets by name; in a folder store the newest view of a name counts."""
        with self._open() as parts:
            return _views(parts)

    def view(self, name: str | None = None) -> View:
        """Return one image set: the one of that name, or the only one with labels.

        Raises
        ------
        StoreError
            If it is not there, or not unique.
        """
        return self._choose_view(self.views(), name)

    def features(self) -> dict[str, FeatureInfo]:
        """Return what is held of each spec, by fingerprint."""
        with self._open() as parts:
            return {fp: _describe(groups) for fp, groups in _groups(parts).items()}

    def named(self, name: str) -> list[str]:
        """Return the fingerprints of all features that a name fits; see `data.choice.fingerprints_of`."""
        with self._open() as parts:
            return fingerprints_of(_groups(parts), name)

    def digests(self, fingerprint: str) -> Digests:
        """Return the digests of the pictures that have features of this spec, (n,) S64; empty if none."""
        with self._open() as parts:
            groups = _groups(parts).get(fingerprint, [])
            return np.concatenate([np.empty(0, "S64"), *(group.digests for group in groups)])

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
        with self._open() as parts:
            view = self._choose_view(_views(parts), dataset)
            groups = _groups(parts)
            covers = functools.cache(lambda fp: _covers(groups[fp], view))
            if spec is not None:
                wanted = [spec] if isinstance(spec, FeatureSpec) else list(spec)
                for one in wanted:
                    refuse_other((g[0].spec for g in groups.values()), one, str(self.path), wants)
                chosen = [one.fingerprint for one in wanted]
            else:
                names = [features] if isinstance(features, str) else list(features or ())
                chosen = choose_features(groups, names, covers, str(self.path), view.name)
            views = other_views(groups, chosen, covers, str(self.path)) if augment else []
            rows = self._rows_of(view, split)
            run = len(rows) == rows[-1] - rows[0] + 1
            every = view.paths if run else list(view.paths)
            paths = every[rows[0] : rows[-1] + 1] if run else [every[i] for i in rows.tolist()]

            def stored(fingerprints: Sequence[str]) -> StoredVectors:
                found = [Located.among(groups[fp], view.digests[rows], paths, self.path) for fp in fingerprints]
                return StoredVectors(found, len(rows))

            every_view = [stored(fingerprints) for fingerprints in [chosen, *views]]
            widths = tuple(groups[fp][0].dim for fp in chosen)
            if memory is not None and sum(vectors.nbytes for vectors in every_view) > memory / 2:
                held: list[Any] = [vectors.keeping(self.part_paths()) for vectors in every_view]
            else:
                held = [vectors[:] for vectors in every_view]
            samples = Samples(
                X=held[0],
                y=view.targets[rows].astype(np.int32, copy=False),
                classes=view.classes,
                paths=paths,
                digests=view.digests[rows],
                specs=tuple(groups[fp][0].spec for fp in chosen),
                dataset=view.name,
                split=split or "",
                others=tuple(held[1:]),
                widths=widths,
            )
            return self.corrections.apply(samples, view, str(self.path)) if self.corrections else samples

    def vectors(self, fingerprint: str, digests: Digests) -> Vectors:
        """Return the vectors of some contents, (n, dim), in the order asked for.

        Raises
        ------
        StoreError
            If there are no features of that spec, or not of every content.
        """
        with self._open() as parts:
            groups = _groups(parts)
            if fingerprint not in groups:
                raise StoreError(f"{self.path} holds no features {fingerprint[:12]}: see `info {self.path}`")
            names = [digest.decode() for digest in digests.tolist()]
            return Located.among(groups[fingerprint], digests, names, self.path).read(slice(0, len(digests)))

    def splits(self, dataset: str | None = None) -> dict[str, int]:
        """Return how many pictures each split of an image set has; the key is empty where there is no split."""
        view = self.view(dataset)
        names, counts = np.unique(view.splits, return_counts=True)
        return {str(name): int(count) for name, count in zip(names, counts, strict=True)}

    @contextlib.contextmanager
    def _open(self) -> Iterator[list[Part]]:
        if not self.exists():
            waiting = len(staged_blocks(self.path))
            folder = self.path.is_dir()
            if folder and not waiting:
                raise MissingFile(
                    f"{self.path} is a folder that holds no store: if it holds pictures, run `extract {self.path} -o "
                    "features.h5` and name that"
                )
            raise MissingFile(
                f"{self.path} {'is a folder that holds no store' if folder else 'does not exist'}"
                + (f", but {waiting} blocks of an unfinished extraction wait beside it" if waiting else "")
                + f": run `extract IMAGES -o {self.path}`"
                + (" again to finish it" if waiting else " to make it")
            )
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(Part(path)) for path in self.part_paths()]

    def _choose_view(self, views: dict[str, View], name: str | None) -> View:
        # beside one with labels, sets without are pictures that were classified, or that `PenultFeatures` was given
        labelled = [view for view in views.values() if view.classes] or list(views.values())
        if name is None and len(labelled) == 1:
            return labelled[0]
        held = ", ".join(sorted(views)) or "none"
        if name is None:
            raise StoreError(f"{self.path} holds the image sets {held}: name one with --dataset")
        if name not in views:
            raise StoreError(f"{self.path} holds no image set {name!r}, only {held}: name one of these with --dataset")
        return views[name]

    def check(self) -> None:
        """Open every file of the store and close it again.

        Raises
        ------
        MissingFile, StoreError, DamagedStore
            If there is no store, or something else in its place.
        """
        with self._open():
            pass

    def _rows_of(self, view: View, split: str | None) -> npt.NDArray[np.int64]:
        rows = np.arange(len(view.paths)) if split is None else np.flatnonzero(view.splits == split)
        if not len(rows):
            if not view.classes:
                raise StoreError(
                    f"no picture of {view.name!r} has a label: put each class into a folder of its own, or name the "
                    "labels in a manifest, and extract again (which computes nothing anew)"
                )
            names = ", ".join(sorted({s for s in view.splits.tolist() if s})) or "none"
            raise StoreError(
                f"the image set {view.name!r} has no split {split!r}, its splits are: {names}; "
                "name one of these, or extract again with --test-fraction 0.2 (which computes nothing anew)"
            )
        return rows.astype(np.int64)


def _views(parts: list[Part]) -> dict[str, View]:
    merged: dict[str, View] = {}
    for part in parts:
        merged.update(part.views())
    return merged


def _groups(parts: list[Part]) -> dict[str, list[FeatureGroup]]:
    merged: dict[str, list[FeatureGroup]] = {}
    for part in parts:
        for fingerprint, group in part.features().items():
            merged.setdefault(fingerprint, []).append(group)
    return merged


def _describe(groups: list[FeatureGroup]) -> FeatureInfo:
    rows = sum(len(group) for group in groups)
    first = groups[0]
    if len({group.dim for group in groups}) > 1:
        raise FingerprintMismatch(f"features {first.fingerprint[:12]} differ in length between the store's files")
    return FeatureInfo(
        spec=first.spec,
        rows=rows,
        dim=first.dim,
        dtype=first.dtype.name,
        nbytes=rows * first.dim * first.dtype.itemsize,
        provenance=merged_runs(run for group in groups for run in group.provenance),
        requests=[request for group in groups for request in group.requests],
    )


def _covers(groups: list[FeatureGroup], view: View) -> bool:
    found = np.zeros(len(view.paths), dtype=bool)
    for group in groups:
        found |= locate(group.digests, view.digests) >= 0
    return bool(found.all())
