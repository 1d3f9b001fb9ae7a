"""The open files of a store, read as one: its image sets, its features, and where the vectors of pictures lie."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.errors import StoreError
from data.held import FeatureInfo, described
from data.layout import FeatureGroup, Part
from data.reading import Located, StoredVectors, locate
from data.views import Digests, View


class OpenStore:
    """A store whose files are open.

    Parameters
    ----------
    parts : sequence of Part
        Its files, oldest first.
    path : Path
        How messages name it.
    """

    def __init__(self, parts: Sequence[Part], path: Path) -> None:
        self._parts = parts
        self._path = path

    @functools.cached_property
    def views(self) -> dict[str, View]:
        """The image sets by name; the newest view of a name counts."""
        merged: dict[str, View] = {}
        for part in self._parts:
            merged.update(part.views())
        return merged

    @functools.cached_property
    def groups(self) -> dict[str, list[FeatureGroup]]:
        """What the files hold of each spec, by fingerprint."""
        merged: dict[str, list[FeatureGroup]] = {}
        for part in self._parts:
            for fingerprint, group in part.features().items():
                merged.setdefault(fingerprint, []).append(group)
        return merged

    @functools.cached_property
    def features(self) -> dict[str, FeatureInfo]:
        """What is held of each spec, by fingerprint."""
        return {fingerprint: described(groups) for fingerprint, groups in self.groups.items()}

    def digests(self, fingerprint: str) -> Digests:
        """Return the contents that have features of a spec, (n,) S64; empty if none."""
        return np.concatenate([np.empty(0, "S64"), *(group.digests for group in self.groups.get(fingerprint, []))])

    def lacking(self, fingerprint: str, view: View) -> int:
        """Return how many pictures of an image set have no features of a spec."""
        found = np.zeros(len(view.paths), dtype=bool)
        for group in self.groups[fingerprint]:
            found |= locate(group.digests, view.digests) >= 0
        return int((~found).sum())

    def located(self, fingerprint: str, digests: Digests, names: Sequence[str]) -> Located:
        """Find the vectors of some contents; `names` are what messages call these.

        Raises
        ------
        StoreError
            If there are no features of that spec, or not of every content.
        """
        if fingerprint not in self.groups:
            raise StoreError(f"{self._path} holds no features {fingerprint[:12]}: see `info {self._path}`")
        return Located.among(self.groups[fingerprint], digests, names, self._path)

    def side_by_side(self, fingerprints: Sequence[str], digests: Digests, names: Sequence[str]) -> StoredVectors:
        """Find the vectors of several features of the same contents."""
        return StoredVectors([self.located(fp, digests, names) for fp in fingerprints], len(digests))
