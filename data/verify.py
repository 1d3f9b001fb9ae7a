"""Integrity of a store: every checksum, every join, nothing that is not a number."""

import dataclasses
from pathlib import Path

import numpy as np

from data.errors import DamagedStore, MissingFile, StoreError
from data.layout import FeatureGroup, Part
from data.reading import locate
from data.spec import told_apart
from data.staging import staged_blocks
from data.store import FeatureStore


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What `verify_store` found.

    Parameters
    ----------
    files, blocks, rows, views : int
        How much was checked: files, checksummed blocks, feature vectors and image sets.
    staged : int
        Complete blocks that wait to be published; they were checked too.
    problems : list of str
        One sentence for each thing that is wrong; empty for a sound store.
    missing : dict of str to int
        For each image set and spec, as ``name: spec``, how many pictures have no vector, where any lack one. It
        is no damage: another image set may share the store under another spec.
    """

    files: int
    blocks: int
    rows: int
    views: int
    staged: int
    problems: list[str]
    missing: dict[str, int]


def verify_store(path: Path) -> Verdict:
    """Check every block and view of a store, and every staged block beside it.

    Parameters
    ----------
    path : Path
        A file or folder store.

    Returns
    -------
    Verdict

    Raises
    ------
    MissingFile
        If there is no store.
    """
    store = FeatureStore(path)
    if not store.exists():
        store.check()  # says what is missing
    problems: list[str] = []
    blocks = rows = views = 0
    staged = staged_blocks(path)
    files = [*store.part_paths(), *staged]
    for file in files:
        try:
            with Part(file) as part:
                for group in part.features().values():
                    checked = _check_group(group, problems, str(file))
                    blocks += checked
                    rows += len(group)
                views += len(part.views())
        except MissingFile:
            if file not in staged:  # a block may be published and removed by another run meanwhile
                raise
        except (DamagedStore, StoreError) as error:
            problems.append(str(error))
    missing = {} if problems else _check_joins(store, problems)
    return Verdict(len(files), blocks, rows, views, len(staged), problems, missing)


def _check_joins(store: FeatureStore, problems: list[str]) -> dict[str, int]:
    """Check each image set against its classes; return how many of its pictures have no vector, for each spec."""
    views = store.views()
    for view in views.values():
        if (view.targets >= len(view.classes)).any() or (view.targets < -1).any():
            problems.append(
                f"{store.path}: image set {view.name!r} has targets outside its {len(view.classes)} classes"
            )
    lacking = {}
    asked = [info.spec for info in store.features().values() if not info.kept]  # what is kept need not be of all
    for fingerprint, title in told_apart(asked).items():
        digests = store.digests(fingerprint)
        for view in views.values():
            lacking[f"{view.name}: {title}"] = int((locate(digests, view.digests) < 0).sum())
    return {where: n for where, n in lacking.items() if n}


def _check_group(group: FeatureGroup, problems: list[str], file: str) -> int:
    _ = group.spec, group.provenance, group.requests  # read so that damage to them shows
    if len(np.unique(group.digests)) != len(group):
        problems.append(f"{file}: {group.spec.title} has two vectors for one picture")
    for index in range(len(group.checksums)):
        try:
            if not np.isfinite(group.read_block(index)).all():
                first = index * group.block_rows
                problems.append(f"{file}: block of {group.spec.title} from row {first} holds NaN or infinity")
        except DamagedStore as error:
            problems.append(str(error))
    return len(group.checksums)
