"""Publishing: staged blocks and a view become part of the store, atomically, under a lock.

A file store is written anew under a temporary name and renamed over the old one. A folder store gets one more
file. Either way a published file is never written to again.
"""

from pathlib import Path

from data.bundle import refuse_bundle
from data.errors import StoreError
from data.listing import OBJECT
from data.merging import merge, write_store
from data.provenance import Request, merged_requests, remembers
from data.staging import clear_blocks, publish_lock, staged_blocks, sweep, temporaries
from data.store import FeatureStore
from data.views import View
from data.words import counted


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
        merged = merge([*old, *blocks])
        for fingerprint, request in commands.items():
            if fingerprint in merged:
                merged[fingerprint].requests = merged_requests([*merged[fingerprint].requests, request])
        if path.is_dir():  # the rows that no older file has, and the new request
            for entry in merged.values():
                entry.sources = [source for source in entry.sources if source[0] not in old]
            merged = {fp: entry for fp, entry in merged.items() if entry.rows or fp in commands}
            write_store(path / f"part-{_next_number(old):06d}.h5", merged, [view])
        else:
            views[view.name] = view
            write_store(path, merged, views.values())
        clear_blocks(path, blocks)
    return True


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
            f"{path} already holds an image set {view.name!r}, from {held.root}, and {view.root} shares "
            f"{counted(shared, 'picture')} with it: give this one another name with --name"
        )


def _next_number(parts: list[Path]) -> int:
    numbers = [int(p.stem[5:]) for p in parts if p.stem.startswith("part-") and p.stem[5:].isdigit()]
    return max(numbers, default=0) + 1
