"""Vectors of pictures by their places: what a store or this process's memory has, and the extraction of the rest.

A place is an absolute path or an address. What is known of a file counts while its size and modification time are as
they were, as in an extraction; a warm answer opens no picture and imports no torch.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data.disks import disk_of
from data.errors import StoreError
from data.images import UNLABELLED, ImageSet, PictureList
from data.listing import is_address, join
from data.places import Locations
from data.reading import locate
from data.staging import publish_lock
from data.store import FeatureInfo, FeatureStore
from data.views import View
from extract.backbones import open_backbone
from extract.embed import embed_all
from extract.extractor import Extractor
from extract.networks import Floats, Setup
from extract.options import ALL_STAGES, Output
from extract.reader import settled
from extract.results import Progress
from extract.target import remembered
from extract.wanted import Wanted

# Places of one picture list have no folder in common: their paths are absolute.
_ROOT = os.path.abspath(os.sep)

File = tuple[str, int, int]  # place, size, mtime
OnProgress = Callable[[Progress], None]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Vectors of some pictures.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim), float32
        In the order asked for; NaN where there are none. `dim` is 0 if no picture of the network has any yet.
    skipped : dict of str to str
        Why pictures have none, by place.
    notes : list of str
        What the user should know of what was computed.
    """

    vectors: Floats
    skipped: dict[str, str]
    notes: list[str]


class Cache(Protocol):
    """Gives vectors of pictures by their places, and keeps what it computes."""

    def vectors(self, places: Sequence[str], on_progress: OnProgress | None = None) -> Answer:
        """Return the vectors of pictures in the order asked for; a place may stand there twice."""

    def columns(self) -> list[tuple[str, int]]:
        """Return title and length of each part of a vector; none if no picture was computed yet."""


@dataclasses.dataclass
class StoreCache:
    """Vectors kept in a store, under an image set that every call adds its pictures to.

    Threads and processes take turns in computing, so that none computes what another is about to publish.

    Parameters
    ----------
    path : Path
        The store: a file, or a folder that exists. It need not exist until something is computed.
    wanted : Wanted
        The network and its vectors, which stand side by side.
    name : str
        Of the image set.
    setup : Setup
        How the network is run.
    workers : int
        Threads that read and decode; 0 takes one a core.
    dtype : str
        How new features are stored.
    """

    path: Path
    wanted: Wanted
    name: str
    setup: Setup
    workers: int = 0
    dtype: str = "float32"

    def vectors(self, places: Sequence[str], on_progress: OnProgress | None = None) -> Answer:
        """Return the vectors of pictures; see `Cache`. What is missing is extracted and published first."""
        unique = list(dict.fromkeys(places))
        files = _files(unique)
        known = _of_store(self.path)
        missing = known.missing(self.wanted, files)
        notes: list[str] = []
        fresh: set[str] = set()
        if missing:
            with _turn(self.path):
                known = _of_store(self.path)
                missing = known.missing(self.wanted, files)  # another may have computed them meanwhile
                if missing:
                    notes = self._extract(missing, on_progress)
                    fresh = {place for place, _, _ in missing}
                    known = _of_store(self.path)
        return self._answer(places, files, known, fresh, notes)

    def columns(self) -> list[tuple[str, int]]:
        """Return title and length of each part of a vector; see `Cache`."""
        known = _of_store(self.path)
        features = remembered(self.wanted, known.held)
        return [(f.spec.title, known.held[f.spec.fingerprint].dim) for f in features]

    def _extract(self, files: Sequence[File], on_progress: OnProgress | None) -> list[str]:
        job = Extractor(
            _image_set(files, self.name),
            self.path,
            [self.wanted],
            engine=self.setup.engine,
            device=self.setup.device,
            batch_size=self.setup.batch_size,
            precision=self.setup.precision,
            workers=self.workers,
            dtype=self.dtype,
            keep=True,
            on_progress=on_progress,
        )
        return job.run().notes

    def _answer(
        self, places: Sequence[str], files: Sequence[File], known: "_Known", fresh: set[str], notes: list[str]
    ) -> Answer:
        # what was read just now counts, also where its time cannot be trusted the next time
        latest = known.latest(self.name) if fresh else {}
        contents: dict[str, bytes] = {}
        skipped: dict[str, str] = {}
        for file in files:
            place = file[0]
            found = latest.get(place) if place in fresh else known.files.get(file)
            if isinstance(found, bytes):
                contents[place] = found
            else:
                skipped[place] = found or "it was removed from the store meanwhile"
        features = [f for f in remembered(self.wanted, known.held) if f.spec.fingerprint in known.held]
        rows = np.array([i for i, place in enumerate(places) if place in contents], dtype=np.int64)
        vectors = _blank(len(places), sum(known.held[f.spec.fingerprint].dim for f in features))
        if len(rows) and features:
            want = np.array([contents[places[i]] for i in rows.tolist()], dtype="S64")
            store = FeatureStore(self.path)
            parts = [store.vectors(f.spec.fingerprint, want) for f in features]
            vectors[rows] = parts[0] if len(parts) == 1 else np.hstack(parts)
        return Answer(vectors, skipped, notes)


@dataclasses.dataclass
class MemoryCache:
    """Vectors kept in the memory of this process, for every `MemoryCache` of the same network; see `forget`.

    Parameters
    ----------
    wanted : Wanted
        The network and its vectors, which stand side by side.
    setup : Setup
        How the network is run.
    """

    wanted: Wanted
    setup: Setup

    def vectors(self, places: Sequence[str], on_progress: OnProgress | None = None) -> Answer:
        """Return the vectors of pictures; see `Cache`."""
        skipped: dict[str, str] = {}
        notes: list[str] = []
        with _COMPUTING:
            memory = self._memory()  # `forget` may have taken what was there before
            files = _files(list(dict.fromkeys(places)))
            contents = {file[0]: self._content(file) for file in files}
            missing = [place for place, digest in contents.items() if digest not in memory.vectors]
            if missing:
                notes = self._compute(missing, contents, skipped, on_progress)
        vectors = _blank(len(places), sum(dim for _, dim in memory.columns))
        for i, place in enumerate(places):
            if place not in skipped:
                vectors[i] = memory.vectors[contents[place]]
        return Answer(vectors, skipped, notes)

    def columns(self) -> list[tuple[str, int]]:
        """Return title and length of each part of a vector; see `Cache`."""
        return self._memory().columns

    def _memory(self) -> "_Memory":
        return _MEMORY.setdefault(json.dumps(self.wanted.requests(), sort_keys=True), _Memory({}, []))

    def _content(self, file: File) -> bytes:
        """Return the digest of a file, read again only if it has changed; empty if it cannot be read."""
        if file not in _SEEN:
            with contextlib.suppress(OSError, ValueError):  # `embed` says what is wrong with it
                content = Locations(_ROOT).read(file[0])
                digest = hashlib.sha256(content.data).hexdigest().encode()
                if file[2] < 0 or not settled(file[2]):
                    return digest
                _SEEN[file] = digest
        return _SEEN.get(file, b"")

    def _compute(
        self, missing: Sequence[str], contents: dict[str, bytes], skipped: dict[str, str], on: OnProgress | None
    ) -> list[str]:
        memory = self._memory()
        by_content = {contents[place] or os.fsencode(place): place for place in missing}  # each content once
        pictures = PictureList([(_ROOT, place) for place in by_content.values()])
        backbone = self.wanted.open()
        features = self.wanted.features(backbone)
        found = embed_all(
            pictures,
            [(backbone, features)],
            [feature.spec for feature in features],
            engine=self.setup.engine,
            device=self.setup.device,
            batch_size=self.setup.batch_size,
            precision=self.setup.precision,
            on_progress=(lambda *counts: on(Progress(*counts))) if on else None,
        )
        if found.widths:
            memory.columns[:] = zip((f.spec.title for f in features), found.widths, strict=True)
        memory.vectors.update(zip(found.digests, found.vectors, strict=True))
        reasons = {item.path: item.reason for item in found.skipped}
        for place in missing:
            if contents[place] not in memory.vectors:
                first = by_content[contents[place] or os.fsencode(place)]
                skipped[place] = reasons.get(first, "it has changed while it was read")
        return [*backbone.report, *found.notes]


def forget() -> None:
    """Give back the memory of everything that was computed without a store."""
    with _COMPUTING:
        _MEMORY.clear()
        _SEEN.clear()


@functools.lru_cache
def stages(backbone: str) -> tuple[str, ...]:
    """Return the layers that ``all-stages`` stands for; the network is opened once in a process."""
    return tuple(spec.layer for spec in open_backbone(backbone, "random", outputs=[Output(ALL_STAGES)]).specs)


@dataclasses.dataclass
class _Memory:
    """What this process has computed with one network: vectors by content, and what they consist of."""

    vectors: dict[bytes, Floats]
    columns: list[tuple[str, int]]


_MEMORY: dict[str, _Memory] = {}
_SEEN: dict[File, bytes] = {}
# Held while a thread of this process computes: the settings of Pillow and PyTorch are the process's.
_COMPUTING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class _Known:
    """What a store holds: its features, and of each file the digest of its content or why it gave no features.

    Parameters
    ----------
    held : dict of str to FeatureInfo
        By fingerprint.
    digests : dict of str to ndarray of shape (n,), S64
        Contents that have features, by fingerprint.
    files : dict of (str, int, int) to bytes or str
        Of files whose size and time say that they are as they were.
    views : dict of str to View
        Its image sets.
    """

    held: dict[str, FeatureInfo]
    digests: dict[str, npt.NDArray[np.bytes_]]
    files: dict[File, bytes | str]
    views: dict[str, View]

    def latest(self, name: str) -> dict[str, bytes | str]:
        """Return what an image set says of each of its places, whatever their size and time are now."""
        view = self.views[name]
        return {s.path: s.reason for s in view.skipped} | dict(zip(view.paths, view.digests.tolist(), strict=True))

    def missing(self, wanted: Wanted, files: Sequence[File]) -> list[File]:
        """Return the files of which something must be read or computed."""
        features = remembered(wanted, self.held)
        if not features:
            return list(files)
        missing = [file for file in files if file not in self.files]
        known = [file for file in files if isinstance(self.files.get(file), bytes)]
        want = np.array([self.files[file] for file in known], dtype="S64")
        lacking = np.zeros(len(known), dtype=bool)
        for feature in features:
            lacking |= locate(self.digests[feature.spec.fingerprint], want) < 0
        return missing + [known[i] for i in np.flatnonzero(lacking).tolist()]


def _of_store(path: Path) -> _Known:
    """Return what a store holds now; read again only when a publish has replaced or added a file."""
    store = FeatureStore(path)
    if not store.exists():
        return _Known({}, {}, {}, {})
    stats = [(part, os.stat(part)) for part in store.part_paths()]
    return _read(path, tuple((str(p), s.st_ino, s.st_size, s.st_mtime_ns) for p, s in stats))


@functools.lru_cache(maxsize=4)
def _read(path: Path, state: tuple[tuple[str, int, int, int], ...]) -> _Known:
    """Read what a store holds; `state` tells its files from those of another time."""
    store = FeatureStore(path)
    known = _Known(store.features(), {}, {}, store.views())
    known.digests.update((fingerprint, store.digests(fingerprint)) for fingerprint in known.held)
    for view in known.views.values():
        failures = [(s.path, s.size, s.mtime, s.reason) for s in view.skipped]
        rows = zip(view.paths, view.sizes.tolist(), view.mtimes.tolist(), view.digests.tolist(), strict=True)
        for name, size, mtime, found in (*failures, *rows):
            if mtime >= 0:
                known.files[join(view.root, name), size, mtime] = found
    return known


@contextlib.contextmanager
def _turn(store: Path) -> Iterator[None]:
    """Wait until no other thread or process computes for a store; a process that dies gives its turn back."""
    if not store.parent.is_dir():
        raise StoreError(f"{store} cannot be made: there is no folder {store.parent}; make it, or name another store")
    with _COMPUTING, publish_lock(store.with_name(f"{store.name}.computing"), timeout=math.inf):
        yield


def _files(places: Sequence[str]) -> list[File]:
    """Return each place with its size and mtime, -1 where these cannot be known."""
    far = [place for place in places if is_address(place)]
    stats = dict(zip(far, disk_of(far[0]).stats(far), strict=True)) if far else {}
    return [(place, *(stats.get(place) or disk_of(place).stats([place])[0])) for place in places]


def absent(place: str) -> bool:
    """Whether nothing of this name can be there: no file, and no archive that it could lie in."""
    return not (os.path.exists(place) or is_address(place) or any(p.is_file() for p in Path(place).parents))


def _image_set(files: Sequence[File], name: str) -> ImageSet:
    places, sizes, mtimes = zip(*files, strict=True)
    return ImageSet(
        name=name,
        root=_ROOT,
        paths=list(places),
        targets=np.full(len(files), UNLABELLED, dtype=np.int32),
        splits=np.full(len(files), "", dtype="U1"),
        classes=[],
        sizes=np.array(sizes, dtype=np.int64),
        mtimes=np.array(mtimes, dtype=np.int64),
        notes=(),
        place=Locations(_ROOT),
    )


def _blank(n: int, dim: int) -> Floats:
    return np.full((n, dim), np.nan, dtype=np.float32)
