"""Features and image sets that are not needed any more leave a store, each of whose files is replaced whole."""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from data.bundle import refuse_bundle
from data.choice import choose_view
from data.layout import Part
from data.merging import merge, write_store
from data.staging import publish_lock, sweep, temporaries
from data.store import FeatureStore


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
    with _writing(path, timeout) as path:
        return sum(_rewrite(file, fingerprints) for file in FeatureStore(path).part_paths())


def drop_set(path: Path, name: str, *, timeout: float = 60.0) -> tuple[int, dict[str, int]]:
    """Take an image set out of a store, and the vectors of those of its pictures that no other image set has.

    Vectors that no image set names, such as those of pictures that were removed from a folder, stay. Files that hold
    the set are written last: if it is stopped between two, the same call again goes on.

    Parameters
    ----------
    path : Path
        The store.
    name : str
        Which image set.
    timeout : float
        Seconds to wait for another publisher.

    Returns
    -------
    freed : int
        Bytes that the files take less.
    rows : dict of str to int
        How many vectors went, by fingerprint; features of which none is left went, too.

    Raises
    ------
    StoreError
        If there is no such image set.
    StoreBusy, DiskFull, DamagedStore, BundleError
        With the file in hand as it was.
    """
    with _writing(path, timeout) as path:
        store = FeatureStore(path)
        views = store.views()
        gone = choose_view(views, name, str(path))
        others = [view.digests for view in views.values() if view is not gone]
        alone = np.setdiff1d(gone.digests, np.concatenate([np.empty(0, "S64"), *others]))
        held = {fingerprint: store.digests(fingerprint) for fingerprint in store.features()}
        rows = {fp: int(np.isin(digests, alone).sum()) for fp, digests in held.items()}
        empty = [fp for fp, digests in held.items() if 0 < len(digests) == rows[fp]]
        files = sorted(store.part_paths(), key=lambda file: _holds(file, name))
        freed = sum(_rewrite(file, empty, frozenset(alone.tolist()), name) for file in files)
    return freed, {fingerprint: count for fingerprint, count in rows.items() if count}


@contextlib.contextmanager
def _writing(path: Path, timeout: float) -> Iterator[Path]:
    """Hold the right to write a store; yield its own path where `path` is a link to it."""
    refuse_bundle(path)
    path = path.resolve()
    with publish_lock(path, timeout):
        sweep(temporaries(path), grace=0)
        yield path


def _holds(file: Path, name: str) -> bool:
    with Part(file) as part:
        return name in part.views()


def _rewrite(file: Path, features: Collection[str], contents: Collection[bytes] = (), name: str = "") -> int:
    """Write a file anew without some features, contents and an image set; return the bytes that it takes less."""
    with Part(file) as part:
        views, rows = part.views(), {fp: len(group) for fp, group in part.features().items()}
    merged = {fp: entry for fp, entry in merge([file], contents).items() if fp not in features}
    if name not in views and rows == {fp: entry.rows for fp, entry in merged.items()}:
        return 0
    before = file.stat().st_size
    write_store(file, merged, [view for view in views.values() if view.name != name])
    return before - file.stat().st_size
