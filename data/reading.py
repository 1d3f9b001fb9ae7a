"""Vectors of some pictures, read from the open files of a store, at once or slice by slice."""

import contextlib
import dataclasses
import math
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import StoreError
from data.layout import FeatureGroup, Part, Vectors
from data.views import Digests

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Located:
    """Where the vectors of some pictures lie.

    Parameters
    ----------
    groups : sequence of FeatureGroup
        The features of one spec, in the files of the store.
    part : ndarray of shape (n,)
        In which of them a picture's vector is.
    row : ndarray of shape (n,)
        In which row of it.
    """

    groups: Sequence[FeatureGroup]
    part: Rows
    row: Rows

    @classmethod
    def among(cls, groups: Sequence[FeatureGroup], want: Digests, names: Sequence[str], where: Path) -> "Located":
        """Find pictures by their digests, (n,).

        Raises
        ------
        StoreError
            If one has no features; its name is of `names`, the store's is `where`.
        """
        part, row = np.full(len(want), -1, dtype=np.int64), np.full(len(want), -1, dtype=np.int64)
        for i in reversed(range(len(groups))):
            found = locate(groups[i].digests, want)
            part[found >= 0], row[found >= 0] = i, found[found >= 0]
        if (part < 0).any():
            missing = np.flatnonzero(part < 0)
            raise StoreError(
                f"{len(missing)} of {len(want)} pictures have no features of {groups[0].spec.title} in {where} "
                f"(the first is {names[missing[0]]}): run `extract` on them with that backbone"
            )
        return cls(groups, part, row)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.groups[0].dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """As it is stored, in the first of the files."""
        return self.groups[0].dtype

    def read(self, which: slice | Rows) -> Vectors:
        """Return some of the vectors, (m, dim), each block of a file read once and checked."""
        part, row = self.part[which], self.row[which]
        out = np.empty((len(row), self.dim), dtype=self.dtype)
        for i, group in enumerate(self.groups):
            mine = np.flatnonzero(part == i)
            if len(mine):
                _read_rows(group, row[mine], out, mine)
        return out

    def moved_to(self, groups: Sequence[FeatureGroup]) -> "Located":
        """Return the same places in other handles on the same files."""
        return dataclasses.replace(self, groups=groups)


class StoredVectors:
    """Vectors that stay in the store: an array of n rows of which slices and rows are read when asked for.

    Several features stand side by side in the columns. `keeping` opens the files for as long as the object lives.
    """

    def __init__(self, features: Sequence[Located], n: int, rows: Rows | None = None) -> None:
        self._features = features
        self._rows = rows  # numbers in what was located; None: all
        self.shape = (n if rows is None else len(rows), sum(feature.dim for feature in features))
        self.dtype = np.result_type(*(feature.dtype for feature in features))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """What all of it would take in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, which: slice | npt.NDArray[Any]) -> Vectors:
        """Return some rows, (m, d)."""
        if not isinstance(which, slice):
            which = np.flatnonzero(which) if which.dtype == bool else which
        chosen = which if self._rows is None else self._rows[which]
        blocks = [feature.read(chosen) for feature in self._features]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Vectors:
        return np.asarray(self[:], dtype=dtype)

    def rows(self, which: Rows) -> "StoredVectors":
        """Return some rows, still in the store."""
        kept = which if self._rows is None else self._rows[which]
        other = StoredVectors(self._features, len(kept), kept)
        other._owner = self  # type: ignore[attr-defined]  # who keeps the files open
        return other

    def keeping(self, parts: Sequence[Path]) -> "StoredVectors":
        """Return the same with open files of its own, which are closed when it goes."""
        with contextlib.ExitStack() as stack:
            opened = {path: stack.enter_context(Part(path)).features() for path in parts}
            features = []
            for feature in self._features:
                groups = [opened.get(group.path, {}).get(group.fingerprint) for group in feature.groups]
                for new, old in zip(groups, feature.groups, strict=True):
                    if new is None or not np.array_equal(new.digests, old.digests):
                        raise StoreError(f"{old.path} was replaced while it was read: run the same command again")
                    new.prepare()
                features.append(feature.moved_to([group for group in groups if group is not None]))
            kept = StoredVectors(features, self.shape[0], self._rows)
            weakref.finalize(kept, stack.pop_all().close)
        return kept


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
            whole = np.array_equal(source, np.arange(min(size, len(group) - block * size)))
            run = whole and target[-1] - target[0] == len(chosen) - 1 and (np.diff(target) == 1).all()
            if run and group.dtype == out.dtype:
                group.read_block(block, out[target[0] : target[-1] + 1])
            else:
                out[target] = group.read_block(block)[source]

    group.prepare()
    half = len(members) // 2
    with ThreadPoolExecutor(2) as pool:  # reading and CRC-32 both release the interpreter
        for _ in pool.map(copy, (members[:half], members[half:])):
            pass
