"""One file in Penult's format: how features and image-set views lie in HDF5 (docs/format.md says it in prose).

The only importer of h5py. A published store, a part of a folder store and a staged block are all such a file.
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import numpy.typing as npt
from zlib_ng.zlib_ng import crc32

from data.errors import DamagedStore, MissingFile, SpecError, StoreError
from data.spec import FeatureSpec

FORMAT_VERSION = 1
# 256 rows of 1,280 float32 are 1.3 MB: large enough for the disk's full speed, small enough to check one by one.
BLOCK_ROWS = 256
DIGEST_DTYPE = np.dtype("S64")  # SHA-256 as hex, so that h5dump and bare h5py show what people can compare
DTYPES = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
# Superblock 3: HDF5 1.10 and newer read it, and its metadata carries checksums of its own.
_LIBVER = ("v110", "v110")
# Texts up to this many bytes are stored at a fixed length, which reads 5 times as fast as HDF5's heap of strings.
_FIXED_TEXT = 512

Digests = npt.NDArray[np.bytes_]
Vectors = npt.NDArray[np.floating[Any]]
Run = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A picture that gave no features, and why; `mtime` is -1 where another try may succeed."""

    path: str
    reason: str
    size: int = -1
    mtime: int = -1


@dataclasses.dataclass(frozen=True)
class View:
    """An image set as the store remembers it: rows of pictures, joined to features by digest.

    Parameters
    ----------
    name, root : str
        Its name in the store, and the absolute folder that it was last read from.
    classes : list of str
        One list for all splits.
    paths : list of str
        Relative to `root`, with forward slashes.
    digests : ndarray of shape (n,), S64
        SHA-256 of each file's bytes, in hex.
    targets : ndarray of shape (n,), int32
        Index into `classes`, -1 where there is no label.
    splits : ndarray of shape (n,), str
        Name of the split, empty where there is none.
    sizes, mtimes : ndarray of shape (n,), int64
        Bytes, and nanoseconds since 1970 or -1 where the file must be looked at again.
    skipped : list of Skipped
        Pictures of the set that gave no features.
    split_rule : dict, optional
        Fractions and seed of a split that Penult made; None where the pictures brought their own or have none.
    """

    name: str
    root: str
    classes: list[str]
    paths: list[str]
    digests: Digests
    targets: npt.NDArray[np.int32]
    splits: npt.NDArray[np.str_]
    sizes: npt.NDArray[np.int64]
    mtimes: npt.NDArray[np.int64]
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    split_rule: dict[str, Any] | None = None

    def same_as(self, other: "View") -> bool:
        """Whether two views hold the same rows, labels, splits and file times."""
        return _view_checksum(self) == _view_checksum(other)


class FeatureGroup:
    """The features of one spec in one open file; vectors are read block by block, each checked against its CRC."""

    def __init__(self, group: h5py.Group, path: Path, descriptor: int) -> None:
        self._group = group
        self._path = path
        self._descriptor = descriptor
        self.fingerprint = str(group.name).rsplit("/", 1)[-1]

    @functools.cached_property
    def spec(self) -> FeatureSpec:
        """The spec, whose fingerprint must be the group's name."""
        with _damage(self._path, f"the spec of features {self.fingerprint[:12]}"):
            spec = FeatureSpec.from_json(self._group.attrs["spec"])
        if spec.fingerprint != self.fingerprint:
            raise DamagedStore(
                f"{self._path}: the spec stored with features {self.fingerprint[:12]} has fingerprint "
                f"{spec.fingerprint[:12]}: {_RESTORE}"
            )
        return spec

    @property
    def provenance(self) -> list[Run]:
        """What computed the rows: one entry a run, with engine, device, versions and date."""
        return cast(list[Run], _json_attr(self._group, "provenance", self._path))

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Commands (network, weights, options, versions) that are known to resolve to this spec."""
        return cast(list[dict[str, Any]], _json_attr(self._group, "requests", self._path))

    @functools.cached_property
    def _vectors(self) -> h5py.Dataset:
        with _damage(self._path, f"the vectors of {self.fingerprint[:12]}"):
            return self._group["vectors"]

    def __len__(self) -> int:
        return int(self._vectors.shape[0])

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self._vectors.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Storage dtype of the vectors."""
        return np.dtype(self._vectors.dtype)

    @functools.cached_property
    def block_rows(self) -> int:
        """Rows in a checksummed block (the last one may have fewer)."""
        return int(self._group.attrs["block_rows"])

    @functools.cached_property
    def digests(self) -> Digests:
        """Hex digests of the pictures, (n,) S64, in the order of the vectors."""
        with _damage(self._path, f"the digests of {self.fingerprint[:12]}"):
            return cast(Digests, self._group["digest"][:])

    @functools.cached_property
    def checksums(self) -> npt.NDArray[np.uint32]:
        """CRC-32 of each block: its digests, then its vectors."""
        with _damage(self._path, f"the checksums of {self.fingerprint[:12]}"):
            sums = cast("npt.NDArray[np.uint32]", self._group["checksum"][:])
        if len(sums) != -(-len(self) // self.block_rows) or len(self.digests) != len(self):
            raise DamagedStore(f"{self._path}: digests, vectors and checksums differ in length: {_RESTORE}")
        return sums

    @functools.cached_property
    def _offsets(self) -> dict[int, int]:
        """Where the chunk that begins with a row lies in the file."""
        offsets: dict[int, int] = {}
        with _damage(self._path, f"the index of {self.fingerprint[:12]}"):
            self._vectors.id.chunk_iter(lambda chunk: offsets.__setitem__(chunk.chunk_offset[0], chunk.byte_offset))
        return offsets

    def prepare(self) -> None:
        """Read what `read_block` needs besides the vectors, so that threads may call it."""
        _ = self.checksums, self._offsets

    def read_block(self, index: int, out: Vectors | None = None) -> Vectors:
        """Return the vectors of block `index`, checked.

        Chunks are unfiltered, so a block is read straight from the file at the place where HDF5 says it lies:
        1.6 times the speed of the same read through HDF5, and threads do not wait for its lock.

        Parameters
        ----------
        index : int
            Which block.
        out : ndarray of shape (rows of the block, dim), optional
            Contiguous memory to read into.

        Raises
        ------
        DamagedStore
            If the bytes are not those that were written.
        """
        first = index * self.block_rows
        last = min(first + self.block_rows, len(self))
        block = np.empty((last - first, self.dim), self.dtype) if out is None else out
        raw = memoryview(block.reshape(-1).view(np.uint8))
        if first not in self._offsets or os.preadv(self._descriptor, [raw], self._offsets[first]) != len(raw):
            raise DamagedStore(f"{self._path} is cut short: {_RESTORE}")
        if block_checksum(self.digests[first:last], block) != self.checksums[index]:
            raise DamagedStore(
                f"{self._path}: rows {first} to {last - 1} of {self.spec.title} do not match their checksum: {_RESTORE}"
            )
        return block


class Part(contextlib.AbstractContextManager["Part"]):
    """An open file in Penult's format, read-only.

    Raises
    ------
    MissingFile
        If there is no such file.
    DamagedStore
        If HDF5 cannot read it.
    StoreError
        If it is no store of Penult's, or one of a newer format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise MissingFile(f"{path} does not exist: make it with `extract IMAGES -o {path}`")
        if path.is_file() and not h5py.is_hdf5(path):
            raise StoreError(f"{path} is not a feature store (no HDF5 file, or cut short): {_RESTORE}")
        with _damage(path, "the file"):
            self._file = h5py.File(path, "r")
        version = self._file.attrs.get("penult_format")
        if version is None or int(version) > FORMAT_VERSION:
            self._file.close()
            if version is None:
                raise StoreError(f"{path} is an HDF5 file but not a feature store of Penult's: name one")
            raise StoreError(
                f"{path} has format {version}, this Penult reads up to {FORMAT_VERSION}: update Penult"
            )

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def features(self) -> dict[str, FeatureGroup]:
        """Return the features by fingerprint."""
        with _damage(self.path, "/features"):
            group = self._file.get("features", {})
            descriptor = self._file.id.get_vfd_handle()
            return {name: FeatureGroup(group[name], self.path, descriptor) for name in group}

    def views(self) -> dict[str, View]:
        """Return the image-set views by name, each checked against its checksum."""
        with _damage(self.path, "/datasets"):
            group = self._file.get("datasets", {})
            return {name: _read_view(group[name], self.path) for name in group}



def block_checksum(digests: Digests, vectors: Vectors) -> int:
    """CRC-32 of the rows' digests followed by their vectors, as they lie in the file."""
    start = crc32(np.ascontiguousarray(digests).view(np.uint8).data)
    return crc32(np.ascontiguousarray(vectors).view(np.uint8).data, start)


@contextlib.contextmanager
def create(path: Path) -> Iterator[h5py.File]:
    """Open a new file of this format for writing; the caller renames it into place."""
    with h5py.File(path, "w", libver=_LIBVER) as file:
        file.attrs["penult_format"] = FORMAT_VERSION
        yield file


def block_image(features: dict[str, Any], view: View) -> bytes:
    """Return the bytes of a small file with one spec's rows and one partial view, made in memory.

    The disk then sees one ordinary write, whose failure is an ordinary error.
    """
    with h5py.File("block", "w", driver="core", backing_store=False, libver=_LIBVER) as file:
        file.attrs["penult_format"] = FORMAT_VERSION
        write_features(file, **features)
        write_view(file, view)
        file.flush()
        return cast(bytes, file.id.get_file_image())


def write_features(
    file: h5py.File,
    *,
    spec: FeatureSpec,
    provenance: list[Run],
    requests: list[dict[str, Any]],
    rows: int,
    dim: int,
    dtype: np.dtype[Any],
    slabs: Iterable[tuple[Digests, Vectors]],
) -> None:
    """Write the features of one spec.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    spec, provenance, requests
        As `FeatureGroup` gives them back.
    rows, dim : int
        Shape of the vectors.
    dtype : dtype
        float32 or float16; slabs of another dtype are converted by numpy.
    slabs : iterable of (digests, vectors)
        Together exactly `rows` rows, in any lengths.
    """
    group = file.require_group("features").create_group(spec.fingerprint)
    group.attrs["spec"] = spec.canonical_json()
    group.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
    group.attrs["requests"] = json.dumps(requests, sort_keys=True)
    block_rows = min(BLOCK_ROWS, max(rows, 1))
    group.attrs["block_rows"] = block_rows
    chunks = (block_rows, dim) if rows else None
    vectors = group.create_dataset("vectors", (rows, dim), dtype=dtype, chunks=chunks)
    digests = group.create_dataset("digest", (rows,), dtype=DIGEST_DTYPE)
    checksums = []
    at = 0
    for block_digests, block in _reblock(slabs, block_rows, dtype):
        vectors[at : at + len(block)] = block
        digests[at : at + len(block)] = block_digests
        checksums.append(block_checksum(block_digests, block))
        at += len(block)
    assert at == rows, f"{at} rows were given where {rows} were announced"
    group.create_dataset("checksum", data=np.array(checksums, dtype="<u4"))


def write_view(file: h5py.File, view: View) -> None:
    """Write one image-set view."""
    group = file.require_group("datasets").create_group(view.name)
    group.attrs["root"] = _utf8(view.root)
    group.attrs["classes"] = json.dumps(view.classes)
    group.attrs["split_rule"] = json.dumps(view.split_rule, sort_keys=True)
    group.attrs["checksum"] = np.uint32(_view_checksum(view))
    _write_text(group, "path", view.paths)
    group.create_dataset("digest", data=view.digests.astype(DIGEST_DTYPE))
    group.create_dataset("target", data=view.targets.astype("<i4"))
    _write_text(group, "split", view.splits.tolist())
    group.create_dataset("size", data=view.sizes.astype("<i8"))
    group.create_dataset("mtime_ns", data=view.mtimes.astype("<i8"))
    skipped = group.create_group("skipped")
    _write_text(skipped, "path", [s.path for s in view.skipped])
    _write_text(skipped, "reason", [s.reason for s in view.skipped])
    skipped.create_dataset("size", data=np.array([s.size for s in view.skipped], dtype="<i8"))
    skipped.create_dataset("mtime_ns", data=np.array([s.mtime for s in view.skipped], dtype="<i8"))


_RESTORE = "restore it from a copy, or delete it and extract again"


def _read_view(group: h5py.Group, path: Path) -> View:
    skipped = group["skipped"]
    view = View(
        name=str(group.name).rsplit("/", 1)[-1],
        root=os.fsdecode(_utf8(group.attrs["root"])),
        classes=json.loads(group.attrs["classes"]),
        paths=_read_text(group["path"]),
        digests=group["digest"][:],
        targets=group["target"][:],
        splits=np.array(_read_text(group["split"]), dtype=np.str_),
        sizes=group["size"][:],
        mtimes=group["mtime_ns"][:],
        skipped=[
            Skipped(p, r, int(s), int(m))
            for p, r, s, m in zip(
                _read_text(skipped["path"]),
                _read_text(skipped["reason"]),
                skipped["size"][:],
                skipped["mtime_ns"][:],
                strict=True,
            )
        ],
        split_rule=json.loads(group.attrs["split_rule"]),
    )
    if _view_checksum(view) != int(group.attrs["checksum"]):
        raise DamagedStore(f"{path}: the image set {view.name!r} does not match its checksum: {_RESTORE}")
    return view


def _view_checksum(view: View) -> int:
    """CRC-32 over every column; texts are UTF-8, each followed by a zero byte."""
    texts = [view.root, json.dumps(view.split_rule, sort_keys=True), *view.classes, *view.paths, *view.splits.tolist()]
    texts += [text for s in view.skipped for text in (s.path, s.reason)]
    crc = crc32(_utf8("\0".join(texts) + "\0"))
    skipped_stats = np.array([[s.size, s.mtime] for s in view.skipped], dtype="<i8")
    columns: list[tuple[npt.NDArray[Any], Any]] = [
        (view.digests, DIGEST_DTYPE),
        (view.targets, "<i4"),
        (view.sizes, "<i8"),
        (view.mtimes, "<i8"),
        (skipped_stats, "<i8"),
    ]
    for column, dtype in columns:
        crc = crc32(np.ascontiguousarray(column.astype(dtype, copy=False)).tobytes(), crc)
    return crc


def _reblock(
    slabs: Iterable[tuple[Digests, Vectors]], rows: int, dtype: np.dtype[Any]
) -> Iterator[tuple[Digests, Vectors]]:
    """Cut slabs of any length into blocks of `rows` rows (the last may be shorter), converted to `dtype`."""
    held: list[tuple[Digests, Vectors]] = []
    count = 0
    for digests, vectors in slabs:
        at = 0
        while at < len(digests):
            take = min(rows - count, len(digests) - at)
            held.append((digests[at : at + take], vectors[at : at + take].astype(dtype, copy=False)))
            at += take
            count += take
            if count == rows:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(held: list[tuple[Digests, Vectors]]) -> tuple[Digests, Vectors]:
    if len(held) == 1:
        return held[0]
    return np.concatenate([d for d, _ in held]), np.concatenate([v for _, v in held])


def _write_text(group: h5py.Group, name: str, texts: list[str]) -> None:
    # As bytes: a file name need not be valid UTF-8, and surrogateescape keeps whatever it was.
    raw = [_utf8(text) for text in texts]
    longest = max(map(len, raw), default=1) or 1
    if longest <= _FIXED_TEXT:
        group.create_dataset(name, data=np.array(raw, dtype=h5py.string_dtype("utf-8", longest)))
    else:
        group.create_dataset(name, (len(raw),), dtype=h5py.string_dtype("utf-8"), data=np.array(raw, dtype=object))


def _read_text(dataset: h5py.Dataset) -> list[str]:
    if not len(dataset):
        return []
    # One decoding for all: file names hold no zero byte, and neither do our reasons.
    return b"\0".join(dataset[:].tolist()).decode("utf-8", "surrogateescape").split("\0")


def _utf8(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _json_attr(group: h5py.Group, name: str, path: Path) -> Any:
    with _damage(path, f"the {name} of {group.name}"):
        return json.loads(group.attrs[name])


@contextlib.contextmanager
def _damage(path: Path, what: str) -> Iterator[None]:
    """Turn what h5py and json raise on broken bytes into one error that names the file."""
    try:
        yield
    except (DamagedStore, StoreError, PermissionError):
        raise
    except SpecError as error:
        raise DamagedStore(f"{path}: {what}: {error}") from error
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise DamagedStore(f"{path}: {what} cannot be read ({error}): {_RESTORE}") from error
