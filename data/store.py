"""Reading a feature store: which features and image sets it holds, and X, y of a split in image-set order."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import FingerprintMismatch, MissingFile, StoreError
from data.layout import FeatureGroup, Part, Vectors
from data.spec import FeatureSpec, refuse_other
from data.staging import staged_blocks
from data.views import Digests, View


@dataclasses.dataclass(frozen=True)
class Samples:
    """The pictures of one split with their features.

    Parameters
    ----------
    X : ndarray of shape (n, dim), float32 or float16 as stored
        Feature vectors in the order of the image set.
    y : ndarray of shape (n,), int32
        Index into `classes`, -1 where there is no label.
    classes : list of str
        All classes of the image set, whatever the split has.
    paths : sequence of str
        Relative to the image set's root.
    digests : ndarray of shape (n,), S64
        Content of each picture.
    spec : FeatureSpec
        What a vector is.
    dataset, split : str
        Where they are from; `split` is empty for the whole set.
    others : tuple of ndarray of shape (n, dim)
        The same pictures in other views, to train on.
    """

    X: Vectors
    y: npt.NDArray[np.int32]
    classes: list[str]
    paths: Sequence[str]
    digests: Digests
    spec: FeatureSpec
    dataset: str
    split: str
    others: tuple[Vectors, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    def labelled(self) -> "Samples":
        """Return the pictures that have a label."""
        if (self.y >= 0).all():
            return self
        return self.take(np.flatnonzero(self.y >= 0))

    def take(self, rows: npt.NDArray[np.int64]) -> "Samples":
        """Return some of the pictures, in the order of `rows`."""
        paths = list(self.paths)
        return dataclasses.replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            paths=[paths[i] for i in rows.tolist()],
            digests=self.digests[rows],
            others=tuple(view[rows] for view in self.others),
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


class FeatureStore:
    """A published store: one HDF5 file, or a folder of them read as one.

    Parameters
    ----------
    path : path
        The file or folder. It is opened by each method and closed again.

    Examples
    --------
    >>> samples = FeatureStore("features.h5").load(split="train")  # doctest: +SKIP
    >>> samples.X.shape, samples.y.shape  # doctest: +SKIP
    ((245, 1280), (245,))
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

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
        features: str | None = None,
        spec: FeatureSpec | None = None,
        wants: str = "the caller",
        augment: bool = False,
    ) -> Samples:
        """Read X and y of a split.

        Parameters
        ----------
        split : str, optional
            Its name; without one, all pictures of the image set.
        dataset : str, optional
            Name of the image set; needed where the store has several.
        features : str, optional
            Beginning of a fingerprint, or a backbone's name; needed where the image set has features of several.
        spec : FeatureSpec, optional
            The exact spec wanted, instead of `features`.
        wants : str
            Who wants `spec`, for the message if the store does not have it.
        augment : bool
            Read every other view of the pictures that is stored, too.

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
        """
        with self._open() as parts:
            view = self._choose_view(_views(parts), dataset)
            groups = _groups(parts)
            if spec is not None:
                refuse_other((g[0].spec for g in groups.values()), spec, str(self.path), wants)
                chosen = groups[spec.fingerprint]
            else:
                chosen = self._choose_features(groups, features, view)
            rows = self._rows_of(view, split)
            run = len(rows) == rows[-1] - rows[0] + 1
            every = view.paths if run else list(view.paths)
            paths = every[rows[0] : rows[-1] + 1] if run else [every[i] for i in rows.tolist()]
            others = self._other_views(groups, chosen[0].spec, view) if augment else []
            return Samples(
                X=self._gather(chosen, view.digests[rows], paths),
                y=view.targets[rows].astype(np.int32, copy=False),
                classes=view.classes,
                paths=paths,
                digests=view.digests[rows],
                spec=chosen[0].spec,
                dataset=view.name,
                split=split or "",
                others=tuple(self._gather(other, view.digests[rows], paths) for other in others),
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
        if name is None and len(views) == 1:
            return next(iter(views.values()))
        held = ", ".join(sorted(views)) or "none"
        if name is None:
            raise StoreError(f"{self.path} holds the image sets {held}: name one with --dataset")
        if name not in views:
            raise StoreError(f"{self.path} holds no image set {name!r}, only {held}: name one of these with --dataset")
        return views[name]

    def _choose_features(
        self, groups: dict[str, list[FeatureGroup]], wanted: str | None, view: View
    ) -> list[FeatureGroup]:
        def held(fingerprints: list[str]) -> str:
            return "; ".join(f"{groups[fp][0].spec.title} ({fp[:12]})" for fp in fingerprints) or "none"

        if wanted is None:
            # A store may hold other image sets under other specs: those that cover this one come first.
            found = [fp for fp, g in groups.items() if len(groups) == 1 or _covers(g, view)]
        else:
            found = [
                fp
                for fp, g in groups.items()
                if fp.startswith(wanted)
                or any(request.get("backbone") == wanted for request in g[0].requests)
                or wanted in (g[0].spec.backbone, g[0].spec.backbone.split("/")[-1], g[0].spec.title)
            ]
        # of several views of one thing the centre stands for it
        centres = {dataclasses.replace(groups[fp][0].spec, view="center").fingerprint for fp in found}
        if len(found) > 1 and all(fp in found for fp in centres):
            found = [fp for fp in found if fp in centres]
        if len(found) == 1:
            return groups[found[0]]
        if not found:
            what = f"features {wanted!r}" if wanted else f"features of every picture of {view.name!r}"
            raise StoreError(
                f"{self.path} holds no {what}, only {held(list(groups))}: extract them, or name one with --features"
            )
        raise StoreError(f"{self.path} holds several features that fit: {held(found)}: name one with --features")

    def _other_views(
        self, groups: dict[str, list[FeatureGroup]], spec: FeatureSpec, view: View
    ) -> list[list[FeatureGroup]]:
        others = [
            held
            for fp, held in groups.items()
            if fp != spec.fingerprint
            and dataclasses.replace(held[0].spec, view=spec.view) == spec
            and not held[0].spec.view.startswith("mean(")
            and _covers(held, view)
        ]
        if not others:
            raise StoreError(
                f"{self.path} holds {spec.title} in no other view: extract some, such as --views center flip random:4"
            )
        return others

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
