"""Reading a feature store: which features and image sets it holds, and X, y of a split in image-set order."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.choice import choose_features, other_views
from data.errors import FingerprintMismatch, MissingFile, StoreError
from data.layout import FeatureGroup, Part, Vectors
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
        Feature vectors in the order of the image set; several features of a picture stand side by side.
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

    def labelled(self) -> "Samples":
        """Return the pictures that have a label."""
        if (self.y >= 0).all():
            return self
        keep = np.flatnonzero(self.y >= 0)
        paths = list(self.paths)
        return dataclasses.replace(
            self,
            X=self.X[keep],
            y=self.y[keep],
            paths=[paths[i] for i in keep.tolist()],
            digests=self.digests[keep],
            others=tuple(view[keep] for view in self.others),
        )

    def training(self, rows: npt.NDArray[np.int64] | None = None) -> tuple[Vectors, npt.NDArray[np.int32]]:
        """Return X and y of some of the pictures, or all, with every view of each."""
        views = [self.X, *self.others]
        if rows is not None:
            views = [view[rows] for view in views]
        y = self.y if rows is None else self.y[rows]
        return (views[0], y) if len(views) == 1 else (np.concatenate(views), np.tile(y, len(views)))


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
    def source(self) -> Source:
        """How these features are computed of new pictures."""
        weights_file = next((run["weights_file"] for run in self.provenance if run.get("weights_file")), "")
        return Source(self.spec, self.requests[0] if self.requests else {}, weights_file)


class FeatureStore(Shown):
    """A published store: one HDF5 file, or a folder of them read as one.

    Parameters
    ----------
    path : path
        The file or folder. It is opened by each method and closed again.

    Examples
    --------
    >>> FeatureStore("features.h5")
    FeatureStore('features.h5')
      features   36 x 96 float32, 13.8 kB: timm/test_resnet/penultimate (...)
      image set  pictures: 36 pictures, 3 classes (bird, cat, dog); test 12, train 24
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

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
        """
        if self.path.is_dir() and not self.part_paths():
            inside = [name for name in os.listdir(self.path) if not name.startswith(".")]
            if inside:
                raise StoreError(
                    f"{self.path} is a folder with other things in it ({', '.join(sorted(inside)[:3])}): name a file "
                    f"such as {self.path}.h5, or a new folder"
                )

    def part_paths(self) -> list[Path]:
        """Return the files that the store consists of, oldest first."""
        return sorted(self.path.glob("*.h5")) if self.path.is_dir() else [self.path]

    def views(self) -> dict[str, View]:
        """Return the image sets by name; in a folder store the newest view of a name counts."""
        with self._open() as parts:
            return _views(parts)

    def features(self) -> dict[str, FeatureInfo]:
        """Return what is held of each spec, by fingerprint."""
        with self._open() as parts:
            return {fp: _describe(groups) for fp, groups in _groups(parts).items()}

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

            def gather(fingerprints: Sequence[str]) -> list[Vectors]:
                return [self._gather(groups[fp], view.digests[rows], paths) for fp in fingerprints]

            blocks = gather(chosen)
            return Samples(
                X=_side_by_side(blocks),
                y=view.targets[rows].astype(np.int32, copy=False),
                classes=view.classes,
                paths=paths,
                digests=view.digests[rows],
                specs=tuple(groups[fp][0].spec for fp in chosen),
                dataset=view.name,
                split=split or "",
                others=tuple(_side_by_side(gather(fingerprints)) for fingerprints in views),
                widths=tuple(block.shape[1] for block in blocks),
            )

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
            return self._gather(groups[fingerprint], digests, [d.decode() for d in digests.tolist()])

    def splits(self, dataset: str | None = None) -> dict[str, int]:
        """Return how many pictures each split of an image set has; the key is empty where there is no split."""
        view = self._choose_view(self.views(), dataset)
        names, counts = np.unique(view.splits, return_counts=True)
        return {str(name): int(count) for name, count in zip(names, counts, strict=True)}

    @contextlib.contextmanager
    def _open(self) -> Iterator[list[Part]]:
        if not self.exists():
            waiting = len(staged_blocks(self.path))
            raise MissingFile(
                f"{self.path} does not exist"
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

    def _gather(self, groups: list[FeatureGroup], want: Digests, names: Sequence[str]) -> Vectors:
        located = [locate(group.digests, want) for group in groups]
        part_of = np.full(len(want), -1)
        for i in reversed(range(len(groups))):
            part_of[located[i] >= 0] = i
        if (part_of < 0).any():
            missing = np.flatnonzero(part_of < 0)
            raise StoreError(
                f"{len(missing)} of {len(want)} pictures have no features of {groups[0].spec.title} in {self.path} "
                f"(the first is {names[missing[0]]}): run `extract` on them with that backbone"
            )
        out = np.empty((len(want), groups[0].dim), dtype=groups[0].dtype)
        for i, group in enumerate(groups):
            mine = np.flatnonzero(part_of == i)
            if len(mine):
                _read_rows(group, located[i][mine], out, mine)
        return out


def locate(have: Digests, want: Digests) -> npt.NDArray[np.int64]:
    """Return the row in `have` of each digest of `want`, or -1; of equal rows the first.

    Digests are compared by a 64-bit key made of their first 16 hex digits, which sorts at the speed of integers,
    and each hit is then compared in full; where two digests of `have` share a key, a dictionary decides.
    """
    if not len(have) or not len(want):
        return np.full(len(want), -1, dtype=np.int64)
    # A split usually lies in one run of rows: look there first, at the cost of one comparison.
    start = np.flatnonzero(have == want[0])
    if len(start) and np.array_equal(have[start[0] : start[0] + len(want)], want):
        return np.arange(start[0], start[0] + len(want), dtype=np.int64)
    have_keys, want_keys = _keys(have), _keys(want)
    order = np.argsort(have_keys, kind="stable")
    ordered = have_keys[order]
    if (ordered[1:] == ordered[:-1]).any():
        table = {digest: row for row, digest in reversed(list(enumerate(have.tolist())))}
        return np.array([table.get(digest, -1) for digest in want.tolist()], dtype=np.int64)
    at = np.minimum(np.searchsorted(ordered, want_keys), len(have) - 1)
    rows = order[at]
    return np.where(have[rows] == want, rows, -1).astype(np.int64)


def _keys(digests: Digests) -> npt.NDArray[np.uint64]:
    words = np.ascontiguousarray(digests, dtype="S64").view("<u8").reshape(len(digests), 8)
    return words[:, 0] ^ (words[:, 1] * np.uint64(0x9E3779B97F4A7C15))  # 2**64 / golden ratio: spreads the bits


def _read_rows(group: FeatureGroup, rows: npt.NDArray[np.int64], out: Vectors, at: npt.NDArray[np.int64]) -> None:
    """Read `rows` of a group into `out[at]`, each block once, in two threads."""
    order = np.argsort(rows, kind="stable") if (np.diff(rows) < 0).any() else np.arange(len(rows))
    size = group.block_rows
    edges = np.flatnonzero(np.diff(rows[order] // size)) + 1
    members = np.split(order, edges)

    def copy(mine: list[npt.NDArray[np.int64]]) -> None:
        for chosen in mine:
            block = int(rows[chosen[0]]) // size
            target, source = at[chosen], rows[chosen] - block * size
            whole = len(chosen) == min(size, len(group) - block * size)
            if (
                whole
                and group.dtype == out.dtype
                and target[-1] - target[0] == len(chosen) - 1
                and (np.diff(target) == 1).all()
            ):
                group.read_block(block, out[target[0] : target[-1] + 1])
            else:
                out[target] = group.read_block(block)[source]

    group.prepare()
    half = len(members) // 2
    with ThreadPoolExecutor(2) as pool:  # reading and CRC-32 both release the interpreter
        for _ in pool.map(copy, (members[:half], members[half:])):
            pass


def _side_by_side(blocks: list[Vectors]) -> Vectors:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


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
    runs = {run["run"]: run for group in groups for run in group.provenance}
    if len({group.dim for group in groups}) > 1:
        raise FingerprintMismatch(f"features {first.fingerprint[:12]} differ in length between the store's files")
    return FeatureInfo(
        spec=first.spec,
        rows=rows,
        dim=first.dim,
        dtype=first.dtype.name,
        nbytes=rows * first.dim * first.dtype.itemsize,
        provenance=list(runs.values()),
        requests=[request for group in groups for request in group.requests],
    )


def _covers(groups: list[FeatureGroup], view: View) -> bool:
    found = np.zeros(len(view.paths), dtype=bool)
    for group in groups:
        found |= locate(group.digests, view.digests) >= 0
    return bool(found.all())
