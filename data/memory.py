"""What the store and the blocks beside it already know of an image set's files."""

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from data.errors import MissingFile
from data.images import ImageSet
from data.layout import Part
from data.staging import staged_blocks
from data.store import FeatureStore
from data.views import Skipped, View


@dataclasses.dataclass(frozen=True)
class Memory:
    """Contents and files that need no extraction.

    Parameters
    ----------
    digests : dict of str to set of bytes
        Contents that have features, published or staged, by fingerprint.
    files : dict of str to (int, int, bytes)
        Size, modification time and digest of files seen under this image set's name and root.
    failures : dict of str to Skipped
        Files of that set that could not be decoded.
    """

    digests: dict[str, set[bytes]]
    files: dict[str, tuple[int, int, bytes]]
    failures: dict[str, Skipped]


def recall(path: Path, fingerprints: Iterable[str], images: ImageSet, *, rehash: bool = False) -> Memory:
    """Collect what is known of `images` and of the features of some specs.

    Parameters
    ----------
    path : Path
        The store; it need not exist yet.
    fingerprints : iterable of str
        The specs'.
    images : ImageSet
        Its name and root say which remembered files count: the same relative path elsewhere is another file.
    rehash : bool
        Forget all files, so that each is read again.
    """
    memory = Memory({fingerprint: set() for fingerprint in fingerprints}, {}, {})
    views: list[View] = []
    # Blocks first: one that is published and removed meanwhile is then found in the store.
    for block in staged_blocks(path):
        with contextlib.suppress(MissingFile), Part(block) as part:
            for fingerprint, group in part.features().items():
                if fingerprint in memory.digests:
                    memory.digests[fingerprint].update(group.digests.tolist())
            views += part.views().values()
    store = FeatureStore(path)
    if store.exists():
        for fingerprint, known in memory.digests.items():
            known.update(store.digests(fingerprint).tolist())
        views = [*store.views().values(), *views]
    for view in views:
        if view.name == images.name and view.root == images.root and not rehash:
            files = zip(view.sizes.tolist(), view.mtimes.tolist(), view.digests.tolist(), strict=True)
            memory.files.update(zip(view.paths, files, strict=True))
            memory.failures.update({s.path: s for s in view.skipped})
    return memory
