"""Making a bundle: its folder, all at once or not at all, and in it one file with some features of a store."""

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.bundle import is_bundle, read_bundle, refuse_inside
from data.errors import BundleError, DamagedStore
from data.layout import DTYPES, Part, Vectors, create, write_features
from data.merging import rows_of
from data.reading import locate
from data.spec import FeatureSpec
from data.staging import atomic_file, disk_full_hint, sync_folder, temporary_of, writer_is_dead
from data.store import FeatureInfo, FeatureStore
from data.views import Digests, View, write_view

_REPLACED = ".replaced"


@dataclasses.dataclass(frozen=True)
class Packed:
    """The features of one spec on their way into a bundle.

    Parameters
    ----------
    info : FeatureInfo
        What the store holds of them.
    spec : FeatureSpec
        What they are in the bundle: as before, or projected.
    dim : int
        Length of a vector there.
    dtype : str
        ``float32`` or ``float16``.
    transform : callable, optional
        From vectors (n, d) of the store to (n, dim).
    """

    info: FeatureInfo
    spec: FeatureSpec
    dim: int
    dtype: str
    transform: Callable[[Vectors], Vectors] | None = None

    @property
    def projection(self) -> str:
        """What was done to the vectors; empty if nothing was."""
        return self.spec.projection if self.transform else ""

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The commands that give these features of new pictures."""
        more = {"projection": self.projection} if self.projection else {}
        return [{**request, **more} for request in self.info.requests]

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """What computed them."""
        more = {"projected_from": self.info.spec.fingerprint} if self.projection else {}
        return [{**run, **more} for run in self.info.provenance]


def pack_features(
    source: FeatureStore,
    target: Path,
    features: Sequence[Packed],
    views: Sequence[View],
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write one store file with some features of the pictures of some image sets, in memory for a block at a time.

    Parameters
    ----------
    source : FeatureStore
        Where they are; each block is checked against its checksum.
    target : Path
        The file.
    features : sequence of Packed
        Which, and what becomes of them.
    views : sequence of View
        The image sets.
    on_progress : callable, optional
        Called with the number of vectors written and in all.

    Raises
    ------
    DamagedStore
        If bytes are not what was written, or no numbers.
    BundleError
        If a value is too large for float16.
    DiskFull
        If it does not fit.
    """
    wanted = np.unique(np.concatenate([view.digests for view in views]))
    places = {
        packed.info.spec.fingerprint: _places(source, packed.info.spec.fingerprint, wanted) for packed in features
    }
    rows = {fp: sum(int(keep.sum()) for _, keep in found) for fp, found in places.items()}
    total, done = sum(rows.values()), 0
    needed = sum(rows[p.info.spec.fingerprint] * p.dim * DTYPES[p.dtype].itemsize for p in features)

    def slabs(packed: Packed) -> Iterator[tuple[Digests, Vectors]]:
        nonlocal done
        fingerprint = packed.info.spec.fingerprint
        for digests, vectors in rows_of(fingerprint, places[fingerprint]):
            yield digests, _converted(packed, vectors, source.path)
            done += len(digests)
            if on_progress:
                on_progress(done, total)

    with disk_full_hint(target, needed), atomic_file(target) as raw, create(raw) as file:
        for packed in sorted(features, key=lambda packed: packed.spec.fingerprint):
            write_features(
                file,
                spec=packed.spec,
                provenance=packed.provenance,
                requests=packed.requests,
                rows=rows[packed.info.spec.fingerprint],
                dim=packed.dim,
                dtype=DTYPES[packed.dtype],
                slabs=slabs(packed),
            )
        for view in views:
            write_view(file, view)


def _places(source: FeatureStore, fingerprint: str, wanted: Digests) -> list[tuple[Path, npt.NDArray[np.bool_]]]:
    """Return in which rows of which files the wanted contents are, each content once."""
    places = []
    for path in source.part_paths():
        with Part(path) as part:
            group = part.features().get(fingerprint)
            if group is None:
                continue
            keep = locate(wanted, group.digests) >= 0
            places.append((path, keep))
            wanted = np.setdiff1d(wanted, group.digests[keep], assume_unique=True)
    return places


def _converted(packed: Packed, vectors: Vectors, where: Path) -> Vectors:
    if not np.isfinite(vectors).all():
        raise DamagedStore(f"{where}: {packed.info.spec.title} holds NaN or infinity: run `verify {where}`")
    vectors = packed.transform(vectors) if packed.transform else vectors
    if packed.dtype == "float16" and np.abs(vectors).max(initial=0.0) > np.finfo(np.float16).max:
        raise BundleError(
            f"{packed.info.spec.title} has values above {np.finfo(np.float16).max:,.0f}, which float16 cannot hold: "
            "leave out --dtype float16"
        )
    return vectors


def refuse_folder(path: Path, source: Path) -> None:
    """Raise unless a bundle may be made at `path`: nothing is there, an empty folder, or a bundle and nothing else.

    Raises
    ------
    BundleError
        With another name as the next step.
    """
    if path.exists() and source.exists() and path.samefile(source):
        raise BundleError(f"{path} is what is to be packed: name another folder with -o")
    refuse_inside(path)
    if path.is_symlink():
        raise BundleError(f"{path} is a link: name the folder that it leads to, or another with -o")
    if path.exists() and not path.is_dir():
        raise BundleError(f"{path} is a file, and a bundle is a folder: name another with -o")
    if not path.exists() or not any(path.iterdir()):
        return
    if not is_bundle(path):
        raise BundleError(f"{path} exists and is no bundle: name another folder with -o")
    strangers = read_bundle(path).strangers()
    if strangers:
        raise BundleError(
            f"{path} is a bundle that also holds {', '.join(strangers[:3])}{', ...' if len(strangers) > 3 else ''}, "
            "which making it anew would lose: move that elsewhere, or name another folder with -o"
        )


@contextlib.contextmanager
def new_folder(path: Path, source: Path, needed: int = 0) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when all ends well, and disappears otherwise.

    A bundle that was there before is moved aside and removed last, so that a kill at any moment leaves the old one or
    the new one, under its name or, between two renames, beside it, from where the next call brings it back.

    Parameters
    ----------
    path : Path
        The bundle's folder; see `refuse_folder` for what it may be already.
    source : Path
        The store that is packed.
    needed : int
        Bytes that it will take, for the message where they do not fit.

    Raises
    ------
    BundleError
        If something else is there.
    DiskFull
        If it does not fit.
    """
    path = Path(os.path.abspath(path))
    _recover(path)
    refuse_folder(path, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = temporary_of(path)
    try:
        with disk_full_hint(path, needed):
            folder.mkdir()
            yield folder
            _flush(folder)
            refuse_folder(path, source)  # again, since it took a while
            _move(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _move(folder: Path, path: Path) -> None:
    aside = folder.with_suffix(_REPLACED)
    held = path.exists()
    if held:
        os.rename(path, aside)
    try:
        os.rename(folder, path)
    except BaseException:
        if held:
            os.rename(aside, path)
        raise
    sync_folder(path.parent)
    if held:
        shutil.rmtree(aside, ignore_errors=True)


def _recover(path: Path) -> None:
    """Bring back a bundle that a killed run had moved aside, and remove what such runs had begun."""
    if not path.parent.is_dir():
        return
    ours = re.compile(re.escape(path.name) + r"\.[0-9a-f]{8}-\d+-[0-9a-f]{8}\.(writing|replaced)")
    for left in sorted(path.parent.iterdir()):
        if not ours.fullmatch(left.name) or not left.is_dir() or not writer_is_dead(left.with_suffix(".writing")):
            continue
        if left.suffix == _REPLACED and not path.exists() and is_bundle(left):
            os.rename(left, path)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _flush(folder: Path) -> None:
    for place in [*folder.rglob("*"), folder]:
        if place.is_dir():
            sync_folder(place)
        else:
            with open(place, "rb") as file:
                os.fsync(file.fileno())
