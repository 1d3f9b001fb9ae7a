"""Rows of several files on their way into one: each content once, copied block by block and checked."""

import dataclasses
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import FingerprintMismatch
from data.layout import Part, Vectors, create, write_features
from data.provenance import Request, Run, merged_requests, merged_runs
from data.spec import FeatureSpec
from data.staging import atomic_file, disk_full_hint
from data.views import Digests, View, write_view

Rows = tuple[Path, npt.NDArray[np.bool_]]  # a file, and which of its rows are taken


@dataclasses.dataclass
class Merged:
    """The rows of one spec that go into the new file, and where they come from."""

    spec: FeatureSpec
    dim: int
    dtype: np.dtype[Any]
    provenance: list[Run]
    requests: list[Request]
    seen: set[bytes]
    sources: list[Rows]

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(int(keep.sum()) for _, keep in self.sources)


def merge(files: Iterable[Path], without: Container[bytes] = ()) -> dict[str, Merged]:
    """Choose the rows of each spec: each content once, the first one found. Opens one file at a time.

    Parameters
    ----------
    files : iterable of Path
        In the order in which rows count.
    without : container of bytes
        Digests of contents that are left out.

    Raises
    ------
    FingerprintMismatch
        If two files do not agree about the length of a vector.
    """
    merged: dict[str, Merged] = {}
    for path in files:
        with Part(path) as part:
            for fingerprint, group in part.features().items():
                entry = merged.setdefault(fingerprint, Merged(group.spec, group.dim, group.dtype, [], [], set(), []))
                if entry.dim != group.dim:
                    raise FingerprintMismatch(
                        f"features {fingerprint[:12]} have {entry.dim} values, and {group.dim} in {path}: "
                        "remove that file and extract again"
                    )
                keep = np.zeros(len(group), dtype=bool)
                for row, digest in enumerate(group.digests.tolist()):
                    if digest not in entry.seen and digest not in without:
                        entry.seen.add(digest)
                        keep[row] = True
                entry.sources.append((path, keep))
                entry.provenance = merged_runs([*entry.provenance, *group.provenance])
                entry.requests = merged_requests([*entry.requests, *group.requests])
    return merged


def write_store(target: Path, merged: dict[str, Merged], views: Iterable[View]) -> None:
    """Write the file `target` under a temporary name, flush it and rename it into place."""
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


def rows_of(
    fingerprint: str, sources: Sequence[tuple[Path, npt.NDArray[np.bool_]]]
) -> Iterator[tuple[Digests, Vectors]]:
    """Yield the rows of a spec that are wanted of some files, block by block, each checked against its checksum."""
    for path, keep in sources:
        with Part(path) as part:
            group = part.features()[fingerprint]
            for block, first in enumerate(range(0, len(group), group.block_rows)):
                mask = keep[first : first + group.block_rows]
                if mask.any():
                    digests, vectors = group.digests[first : first + len(mask)], group.read_block(block)
                    yield (digests, vectors) if mask.all() else (digests[mask], vectors[mask])
