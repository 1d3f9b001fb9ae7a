"""Image sets as a store remembers them: rows of pictures, joined to features by digest."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import h5py
import numpy as np
import numpy.typing as npt
from zlib_ng.zlib_ng import crc32

from data.errors import DamagedStore

DIGEST_DTYPE = np.dtype("S64")  # SHA-256 as hex, so that h5dump and bare h5py show what people can compare
Digests = npt.NDArray[np.bytes_]
# The next step where bytes are not what was written.
RESTORE = "restore it from a copy, or delete it and extract again"
# Texts up to this many bytes are stored at a fixed length, which reads faster than HDF5's heap of strings.
_FIXED_TEXT = 512


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A picture that gave no features, and why; `mtime` is -1 where another try may succeed."""

    path: str
    reason: str
    size: int = -1
    mtime: int = -1


class Texts(Sequence[str]):
    """Texts of a column, decoded only when they are looked at: most fits never ask for a path.

    Parameters
    ----------
    column : ndarray of shape (n,), bytes
        UTF-8, padded with zero bytes.
    """

    def __init__(self, column: npt.NDArray[np.bytes_]) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Texts": ...
    def __getitem__(self, index: int | slice) -> "str | Texts":
        if isinstance(index, slice):
            return Texts(self._column[index])
        return bytes(self._column[index]).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        # one decoding for all: neither file names nor splits hold a zero byte
        joined = b"\0".join(self._column.tolist()).decode("utf-8", "surrogateescape")
        return iter(joined.split("\0") if len(self) else [])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class View:
    """An image set as the store remembers it: rows of pictures, joined to features by digest.

    Parameters
    ----------
    name, root : str
        Its name in the store, and the absolute folder that it was last read from.
    classes : list of str
        One list for all splits.
    paths : sequence of str
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
    source : str
        What was named to list the pictures, such as a manifest; empty where that is `root` or is not known.
    named : bool
        Whether `name` was chosen rather than taken from the source.
    """

    name: str
    root: str
    classes: list[str]
    paths: Sequence[str]
    digests: Digests
    targets: npt.NDArray[np.int32]
    splits: npt.NDArray[np.str_]
    sizes: npt.NDArray[np.int64]
    mtimes: npt.NDArray[np.int64]
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    split_rule: dict[str, Any] | None = None
    source: str = ""
    named: bool = False

    def same_as(self, other: "View") -> bool:
        """Whether two views hold the same rows, labels, splits and file times, wherever these were listed."""
        mine, theirs = _columns(self), _columns(other)
        same = (self.root, self.classes, self.split_rule) == (other.root, other.classes, other.split_rule)
        return same and all(np.array_equal(mine[key], theirs[key]) for key in _COLUMNS)

    def split_counts(self) -> dict[str, int]:
        """Return how many pictures each split has; the key is empty where there is no split."""
        names, counts = np.unique(self.splits, return_counts=True)
        return {str(name): int(count) for name, count in zip(names, counts, strict=True)}

    def of_split(self, split: str) -> "View":
        """Return this view with the pictures of one split alone, and none that was skipped."""
        rows = np.flatnonzero(self.splits == split)
        paths = list(self.paths)
        return dataclasses.replace(
            self,
            paths=[paths[i] for i in rows.tolist()],
            digests=self.digests[rows],
            targets=self.targets[rows],
            splits=self.splits[rows],
            sizes=self.sizes[rows],
            mtimes=self.mtimes[rows],
            skipped=[],
        )

    def with_others(self, old: "View") -> "View":
        """Return this view with those pictures of an older one of the same root and classes that it does not name."""
        mine = {*self.paths, *(s.path for s in self.skipped)}
        rows = np.array([i for i, path in enumerate(old.paths) if path not in mine], dtype=np.int64)
        return dataclasses.replace(
            self,
            paths=[*(old.paths[i] for i in rows.tolist()), *self.paths],
            digests=np.concatenate([old.digests[rows], self.digests]),
            targets=np.concatenate([old.targets[rows], self.targets]),
            splits=np.concatenate([old.splits[rows], self.splits]),
            sizes=np.concatenate([old.sizes[rows], self.sizes]),
            mtimes=np.concatenate([old.mtimes[rows], self.mtimes]),
            skipped=[*(s for s in old.skipped if s.path not in mine), *self.skipped],
            source=self.source or old.source,
            named=self.named or old.named,
        )


def write_view(file: h5py.File, view: View) -> None:
    """Write one image-set view."""
    group = file.require_group("datasets").create_group(view.name)
    columns = _columns(view)
    for name, column in columns.items():
        if column.dtype.itemsize > _FIXED_TEXT:
            text = h5py.string_dtype("utf-8")
            group.create_dataset(name, column.shape, dtype=text, data=np.array(column.tolist(), dtype=object))
        else:
            text = h5py.string_dtype("utf-8", column.dtype.itemsize)
            group.create_dataset(name, data=column.astype(text) if name in _TEXTS else column)
    attributes: list[str | bytes] = [
        _utf8(view.root),
        json.dumps(view.split_rule, sort_keys=True),
        json.dumps(view.classes),
    ]
    for name, attribute in zip(_ATTRIBUTES, attributes, strict=True):
        group.attrs[name] = attribute
    group.attrs["checksum"] = np.uint32(_checksum(attributes, columns))
    if view.source or view.named:
        group.attrs["provenance"] = json.dumps({"source": view.source, "named": view.named})


def read_view(group: h5py.Group, path: Path) -> View:
    """Read a view back.

    Raises
    ------
    DamagedStore
        If it does not match its checksum.
    """
    name = str(group.name).rsplit("/", 1)[-1]
    attributes = [group.attrs[key] for key in _ATTRIBUTES]
    columns = {key: group[key][:] for key in _COLUMNS}
    columns.update({key: _padded(column.tolist()) for key, column in columns.items() if column.dtype.kind == "O"})
    if _checksum(attributes, columns) != int(group.attrs["checksum"]):
        raise DamagedStore(f"{path}: the image set {name!r} does not match its checksum: {RESTORE}")
    provenance = dict(json.loads(group.attrs.get("provenance", "{}")))
    skipped = (columns[key].tolist() for key in ("skipped/path", "skipped/reason", "skipped/size", "skipped/mtime_ns"))
    return View(
        name=name,
        root=_utf8(attributes[0]).decode("utf-8", "surrogateescape"),
        split_rule=json.loads(attributes[1]),
        classes=json.loads(attributes[2]),
        paths=Texts(columns["path"]),
        digests=columns["digest"],
        targets=columns["target"],
        splits=_as_str(columns["split"]),
        sizes=columns["size"],
        mtimes=columns["mtime_ns"],
        skipped=[
            Skipped(p.decode("utf-8", "surrogateescape"), r.decode("utf-8", "surrogateescape"), size, mtime)
            for p, r, size, mtime in zip(*skipped, strict=True)
        ],
        source=provenance.get("source", ""),
        named=provenance.get("named", False),
    )


_ATTRIBUTES = ("root", "split_rule", "classes")
_TEXTS = ("path", "split", "skipped/path", "skipped/reason")
_COLUMNS = (
    *("path", "digest", "target", "split", "size", "mtime_ns"),
    *("skipped/path", "skipped/reason", "skipped/size", "skipped/mtime_ns"),
)


def _columns(view: View) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a view as they are stored, in the order of `_COLUMNS`."""
    columns: tuple[npt.NDArray[Any], ...] = (
        _padded([_utf8(path) for path in view.paths]),
        view.digests.astype(DIGEST_DTYPE),
        view.targets.astype("<i4"),
        _padded([_utf8(split) for split in view.splits.tolist()]),
        view.sizes.astype("<i8"),
        view.mtimes.astype("<i8"),
        _padded([_utf8(s.path) for s in view.skipped]),
        _padded([_utf8(s.reason) for s in view.skipped]),
        np.array([s.size for s in view.skipped], dtype="<i8"),
        np.array([s.mtime for s in view.skipped], dtype="<i8"),
    )
    return dict(zip(_COLUMNS, columns, strict=True))


def _checksum(attributes: list[str | bytes], columns: dict[str, npt.NDArray[Any]]) -> int:
    """CRC-32 of root, split rule and classes, a zero byte after each, then of every column's bytes."""
    crc = crc32(b"".join(_utf8(text) + b"\0" for text in attributes))
    for column in columns.values():
        crc = crc32(np.ascontiguousarray(column).tobytes(), crc)
    return crc


def _padded(texts: list[bytes]) -> npt.NDArray[np.bytes_]:
    """Return texts as one array, each padded with zero bytes to the longest, which takes a byte at least."""
    return np.array(texts, dtype="S" if texts and any(texts) else "S1")


def _as_str(column: npt.NDArray[np.bytes_]) -> npt.NDArray[np.str_]:
    try:
        return column.astype(np.str_)  # ASCII alone, and ten times as fast
    except UnicodeDecodeError:
        return np.array(list(Texts(column)), dtype=np.str_)


def _utf8(text: str | bytes) -> bytes:
    # a file name need not be valid UTF-8, and surrogateescape keeps whatever it was
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
