"""Publishing: staged blocks and a view become part of the store, atomically, under a lock.

A file store is written anew under a temporary name and renamed over the old one. A folder store gets one more
file. Either way a published file is never written to again.
"""

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.bundle import refuse_bundle
from data.errors import FingerprintMismatch, StoreError
from data.layout import Part, Vectors, create, write_features
from data.listing import OBJECT
from data.provenance import Request, Run, merged_requests, merged_runs, remembers
from data.spec import FeatureSpec
from data.staging import atomic_file, clear_blocks, disk_full_hint, publish_lock, staged_blocks, sweep, temporaries
from data.store import FeatureStore
from data.views import Digests, View, write_view


@dataclasses.dataclass
class _Merged:
    """The rows of one spec that go into the new file, and where they come from."""

    spec: FeatureSpec
    dim: int
    dtype: np.dtype[Any]
    provenance: list[Run]
    requests: list[Request]
    seen: set[bytes]
    sources: list[tuple[Path, npt.NDArray[np.bool_]]]  # a file, and which of its rows are new

    @property
    def rows(self) -> int:
        return sum(int(keep.sum()) for _, keep in self.sources)


def publish(path: Path, view: View, *, commands: dict[str, Request], timeout: float = 60.0, keep: bool = False) -> bool:
    """Take every staged block and one view into the store.

    Parameters
    ----------
    path : Path
        The store: a file, or an existing folder.
    view : View
        The image set as it is now; it replaces the view of that name.
    commands : dict of str to dict
        What was asked for, by the fingerprint of the spec that it resolved to: remembered with the features.
    timeout : float
        Seconds to wait for another publisher.
    keep : bool
        Add to the view of that name instead: its other pictures stay.

    Returns
    -------
    bool
        False if the store held all of it already and was left untouched.

    Raises
    ------
    StoreBusy, DiskFull, DamagedStore, BundleError
        With the old store as it was and every block kept.
    StoreError
        If `view` would replace the view of quite another image set.
    """
    refuse_bundle(path)
    with publish_lock(path, timeout):
        store = FeatureStore(path)
        # whoever wrote one of these had the lock, and has it no more
        sweep(temporaries(path), grace=0)
        old = store.part_paths() if store.exists() else []
        blocks = staged_blocks(path)
        views = store.views() if old else {}
        refuse_stranger(path, views.get(view.name), view, keep=keep)
        if keep and view.name in views:
            view = view.with_others(views[view.name])
        held = store.features() if old else {}
        same_view = view.name in views and views[view.name].same_as(view)
        known = all(fp in held and remembers(held[fp].requests, request) for fp, request in commands.items())
        if old and not blocks and same_view and known:
            return False
        merged = _merge([*old, *blocks])
        for fingerprint, request in commands.items():
            if fingerprint in merged:
                merged[fingerprint].requests = merged_requests([*merged[fingerprint].requests, request])
        if path.is_dir():  # the rows that no older file has, and the new request
            for entry in merged.values():
                entry.sources = [source for source in entry.sources if source[0] not in old]
            merged = {fp: entry for fp, entry in merged.items() if entry.rows or fp in commands}
            _write(path / f"part-{_next_number(old):06d}.h5", merged, [view])
        else:
            views[view.name] = view
            _write(path, merged, list(views.values()))
        clear_blocks(path, blocks)
    return True


def drop(path: Path, fingerprints: Collection[str], *, timeout: float = 60.0) -> int:
    """Take features out of a store; image sets stay.

    Parameters
    ----------
    path : Path
        The store. Each of its files that holds some of them is written anew without them, and renamed over the old one.
    fingerprints : collection of str
        Which.
    timeout : float
        Seconds to wait for another publisher.

    Returns
    -------
    int
        Bytes that the files take less.

    Raises
    ------
    StoreBusy, DiskFull, DamagedStore, BundleError
        With the file in hand as it was.
    """
    refuse_bundle(path)
    freed = 0
    with publish_lock(path, timeout):
        sweep(temporaries(path), grace=0)
        for file in FeatureStore(path).part_paths():
            merged = _merge([file])
            kept = {fp: entry for fp, entry in merged.items() if fp not in fingerprints}
            if len(kept) < len(merged):
                with Part(file) as part:
                    views = list(part.views().values())
                before = file.stat().st_size
                _write(file, kept, views)
                freed += before - file.stat().st_size
    return freed


def refuse_stranger(path: Path, held: View | None, view: View, *, keep: bool = False) -> None:
    """Raise if `view` has the name of a stored image set from elsewhere and shares few pictures with it.

    Of a view that is to `keep` the stored one's pictures, root and classes must be the same.

    Raises
    ------
    StoreError
        With `--name` as the next step, if not even half of the smaller set is in the other.
    """
    if keep and held is not None and (held.root, held.classes) != (view.root, view.classes):
        raise StoreError(
            f"{path} already holds an image set {view.name!r}, from {held.root}, to which pictures of {view.root} "
            "cannot be added: give these another name"
        )
    if held is None or not len(held.digests) or not len(view.digests):
        return
    if held.root == view.root and not view.root.startswith(OBJECT):  # two objects may have one name
        return
    mine, theirs = set(view.digests.tolist()), set(held.digests.tolist())
    shared = len(mine & theirs)
    if 2 * shared < min(len(mine), len(theirs)):
        raise StoreError(
            f"{path} already holds an image set {view.name!r}, from {held.root}, and {view.root} shares {shared} "
            "pictures with it: give this one another name with --name"
        )


def _merge(files: list[Path]) -> dict[str, _Merged]:
    """Choose the rows of each spec: each content once, the first one found. Opens one file at a time."""
    merged: dict[str, _Merged] = {}
    for path in files:
        with Part(path) as part:
            for fingerprint, group in part.features().items():
                entry = merged.setdefault(fingerprint, _Merged(group.spec, group.dim, group.dtype, [], [], set(), []))
                if entry.dim != group.dim:
                    raise FingerprintMismatch(
                        f"features {fingerprint[:12]} have {entry.dim} values, and {group.dim} in {path}: "
                        "remove that file and extract again"
                    )
                keep = np.zeros(len(group), dtype=bool)
                for row, digest in enumerate(group.digests.tolist()):
                    if digest not in entry.seen:
                        entry.seen.add(digest)
                        keep[row] = True
                entry.sources.append((path, keep))
                entry.provenance = merged_runs([*entry.provenance, *group.provenance])
                entry.requests = merged_requests([*entry.requests, *group.requests])
    return merged


def _write(target: Path, merged: dict[str, _Merged], views: list[View]) -> None:
    """Write `target` under a temporary name, flush it and rename it into place."""
    needed = sum(entry.rows * entry.dim * entry.dtype.itemsize for entry in merged.values())
    with disk_full_hint(target, needed), atomic_file(target) as raw, create(raw) as file:
        for fingerprint in sorted(merged):
            entry = merged[fingerprint]
            write_features(
                file,
                spec=entry.spec,
                provenance=entry.provenance,
                requests=entry.requests,
                rows=entry.rows,
                dim=entry.dim,
                dtype=entry.dtype,
                slabs=rows_of(fingerprint, entry.sources),
            )
        for view in views:
            write_view(file, view)


def rows_of(fingerprint: str, sources: list[tuple[Path, npt.NDArray[np.bool_]]]) -> Iterator[tuple[Digests, Vectors]]:
    """Yield the rows of a spec that are wanted of some files, block by block, each checked against its checksum."""
    for path, keep in sources:
        with Part(path) as part:
            group = part.features()[fingerprint]
            for block, first in enumerate(range(0, len(group), group.block_rows)):
                mask = keep[first : first + group.block_rows]
                if mask.any():
                    digests, vectors = group.digests[first : first + len(mask)], group.read_block(block)
                    yield (digests, vectors) if mask.all() else (digests[mask], vectors[mask])


def _next_number(parts: list[Path]) -> int:
    numbers = [int(p.stem[5:]) for p in parts if p.stem.startswith("part-") and p.stem[5:].isdigit()]
    return max(numbers, default=0) + 1
