"""Publishing: staged blocks and a view become part of the store, atomically, under a lock.

A file store is written anew under a temporary name and renamed over the old one. A folder store gets one more
file. Either way a published file is never written to again.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import FingerprintMismatch, StoreError
from data.layout import FeatureGroup, Part, Vectors, create, write_features
from data.staging import atomic_file, clear_blocks, disk_full_hint, publish_lock, staged_blocks, sweep
from data.store import FeatureStore, locate
from data.views import Digests, View, write_view

Request = dict[str, Any]
# Rows of one group that go into the new file, as a mask.
_Source = tuple[FeatureGroup, npt.NDArray[np.bool_]]


def publish(path: Path, view: View, *, request: dict[str, Any], fingerprint: str, timeout: float = 60.0) -> bool:
    """Take every staged block and one view into the store.

    Parameters
    ----------
    path : Path
        The store: a file, or an existing folder.
    view : View
        The image set as it is now; it replaces the view of that name.
    request, fingerprint
        What was asked for, and the spec that it resolved to: remembered with the features.
    timeout : float
        Seconds to wait for another publisher.

    Returns
    -------
    bool
        False if the store held all of it already and was left untouched.

    Raises
    ------
    StoreBusy, DiskFull, DamagedStore
        With the old store as it was and every block kept.
    StoreError
        If `view` would replace the view of quite another image set.
    """
    with publish_lock(path, timeout):
        store = FeatureStore(path)
        # whoever wrote one of these had the lock, and has it no more
        sweep(path.glob("*") if path.is_dir() else path.parent.glob(f"{path.name}.*"), grace=0)
        blocks = staged_blocks(path)
        with contextlib.ExitStack() as stack:
            old = [stack.enter_context(Part(p)) for p in store.part_paths()] if store.exists() else []
            new = [stack.enter_context(Part(p)) for p in blocks]
            views = store.views() if old else {}
            refuse_stranger(path, views.get(view.name), view)
            known = any(request in g.requests for part in old for fp, g in part.features().items() if fp == fingerprint)
            same_view = view.name in views and views[view.name].same_as(view)
            if old and not new and same_view and known:
                return False
            if path.is_dir():
                target = path / f"part-{_next_number(store.part_paths()):06d}.h5"
                _write(target, _plan(new, besides=old), [view], fingerprint, request)
            else:
                views[view.name] = view
                _write(path, _plan([*old, *new]), list(views.values()), fingerprint, request)
        clear_blocks(path, blocks)
    return True


def refuse_stranger(path: Path, held: View | None, view: View) -> None:
    """Raise if `view` has the name of a stored image set from elsewhere with which it shares no picture.

    Raises
    ------
    StoreError
        With `--name` as the next step.
    """
    if held is None or held.root == view.root or not len(held.digests) or not len(view.digests):
        return
    if not np.isin(view.digests, held.digests).any():
        raise StoreError(
            f"{path} already holds an image set {view.name!r}, from {held.root}, and {view.root} shares no picture "
            "with it: give this one another name with --name"
        )


def _plan(parts: list[Part], besides: list[Part] | None = None) -> dict[str, list[_Source]]:
    """Choose the rows of each spec that go into the new file: each content once, the first one found."""
    seen: dict[str, Digests] = {}
    for part in besides or []:
        for fingerprint, group in part.features().items():
            seen[fingerprint] = np.concatenate([seen.get(fingerprint, np.empty(0, "S64")), group.digests])
    plan: dict[str, list[_Source]] = {}
    for part in parts:
        for fingerprint, group in part.features().items():
            sources = plan.setdefault(fingerprint, [])
            if sources and sources[0][0].dim != group.dim:
                raise FingerprintMismatch(
                    f"features {fingerprint[:12]} have {sources[0][0].dim} and {group.dim} values in different files: "
                    "delete the staged blocks and extract again"
                )
            before = seen.get(fingerprint, np.empty(0, "S64"))
            keep = (locate(before, group.digests) < 0) & _first_of_each(group.digests)
            sources.append((group, keep))
            seen[fingerprint] = np.concatenate([before, group.digests])
    return plan


def _write(target: Path, plan: dict[str, list[_Source]], views: list[View], fingerprint: str, request: Request) -> None:
    """Write `target` under a temporary name, flush it and rename it into place."""
    needed = sum(g.dim * g.dtype.itemsize * int(keep.sum()) for sources in plan.values() for g, keep in sources)
    with disk_full_hint(target, needed), atomic_file(target) as raw, create(raw) as file:
        for fp in sorted(plan):
            sources = plan[fp]
            asked = [request] if fp == fingerprint else []
            first = sources[0][0]
            write_features(
                file,
                spec=first.spec,
                provenance=_distinct([run for g, _ in sources for run in g.provenance]),
                requests=_distinct([r for g, _ in sources for r in g.requests] + asked),
                rows=sum(int(keep.sum()) for _, keep in sources),
                dim=first.dim,
                dtype=first.dtype,
                slabs=_slabs(sources),
            )
        for view in views:
            write_view(file, view)


def _slabs(sources: list[_Source]) -> Iterator[tuple[Digests, Vectors]]:
    for group, keep in sources:
        size = group.block_rows
        for block in range(len(group.checksums)):
            mask = keep[block * size : (block + 1) * size]
            if mask.any():
                rows = slice(block * size, block * size + len(mask))
                vectors = group.read_block(block)
                yield ((group.digests[rows], vectors) if mask.all() else (group.digests[rows][mask], vectors[mask]))


def _first_of_each(digests: Digests) -> npt.NDArray[np.bool_]:
    first = np.zeros(len(digests), dtype=bool)
    first[np.unique(digests, return_index=True)[1]] = True
    return first


def _distinct(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for i, entry in enumerate(entries) if entry not in entries[:i]]


def _next_number(parts: list[Path]) -> int:
    numbers = [int(p.stem[5:]) for p in parts if p.stem.startswith("part-") and p.stem[5:].isdigit()]
    return max(numbers, default=0) + 1
