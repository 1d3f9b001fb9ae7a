"""Image sets as a store remembers them: rows of pictures, joined to features by digest."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

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


def read_view(group: h5py.Group, path: Path) -> View:
    """Read a view back.

    Raises
    ------
    DamagedStore
        If it does not match its checksum.
    """
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
        raise DamagedStore(f"{path}: the image set {view.name!r} does not match its checksum: {RESTORE}")
    return view


def _view_checksum(view: View) -> int:
    """CRC-32 over every column; texts are UTF-8, each followed by a zero byte."""
    texts = [
        view.root,
        json.dumps(view.split_rule, sort_keys=True),
        *view.classes,
        *view.paths,
        *view.splits.tolist(),
    ]
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
