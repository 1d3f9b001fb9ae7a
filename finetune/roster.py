"""Labelled pictures to train on: from an image set or a store, and what each of them is used for."""

import dataclasses
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from data.cores import available_cores
from data.errors import ImageSetError, TrainingError
from data.images import ImageSet, Pictures, Subset
from data.splits import SplitRule, measured_split, stratified_split
from data.store import FeatureStore
from data.views import Digests, Skipped
from extract.datasets import image_set_of
from extract.flow import decoding
from extract.preprocess import Recipe
from extract.reader import read_picture

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Roster:
    """The labelled pictures of a set, each known by its content.

    Parameters
    ----------
    name : str
        Of the image set.
    source : str
        What the user named.
    pictures : Pictures
        Reads them, by row.
    digests : ndarray of shape (n,), S64
    targets : ndarray of shape (n,), int64
    splits : ndarray of shape (n,), str
    classes : list of str
    skipped : list of Skipped
        Pictures that cannot be used.
    notes : tuple of str
        What the user should know of how the set was read.
    """

    name: str
    source: str
    pictures: Pictures
    digests: Digests
    targets: Rows
    splits: npt.NDArray[np.str_]
    classes: list[str]
    skipped: list[Skipped]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, split: str) -> Rows:
        """Return the pictures of a split.

        Raises
        ------
        TrainingError
            If there are none.
        """
        rows = np.flatnonzero(self.splits == split)
        if not len(rows):
            held = ", ".join(f"{name or '(none)'}" for name in np.unique(self.splits).tolist())
            raise TrainingError(
                f"{self.source} has no labelled picture in the split {split!r}, only in {held}: name another set, or "
                "split the pictures anew with --test-fraction"
            )
        return rows

    @property
    def identity(self) -> str:
        """SHA-256 of contents, labels and splits, in order: what is learnt from and measured on."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for content, target, split in zip(
            self.digests.tolist(), self.targets.tolist(), self.splits.tolist(), strict=True
        ):
            digest.update(b"%s %d %s\n" % (content, target, split.encode("utf-8", "surrogateescape")))
        return digest.hexdigest()


def roster_of_images(
    images: ImageSet, rule: SplitRule | None = None, on_progress: Callable[[int, int, int], None] | None = None
) -> Roster:
    """Read and decode every labelled picture once, to know its content and that it can be used.

    Parameters
    ----------
    images : ImageSet
        A set without splits is split as `extract` would split it.
    rule : SplitRule, optional
        Split the set anew.
    on_progress : callable, optional
        Called with pictures done, in all, and skipped.

    Raises
    ------
    ImageSetError
        If no picture is left, or there is one class alone.
    """
    labelled = np.flatnonzero(images.targets >= 0)
    digests = np.zeros(len(labelled), dtype="S64")
    skipped: list[Skipped] = []
    good = np.ones(len(labelled), dtype=bool)
    plain = Recipe(8, "squash", (8, 8), "nearest", "rgb", "center", "pillow")  # decoded in full, made small
    with decoding(), ThreadPoolExecutor(available_cores()) as pool:
        found = pool.map(lambda i: read_picture(images, i, lambda _: (plain,)), labelled.tolist())
        for row, picture in enumerate(found):
            digests[row] = picture.digest
            if picture.reason:
                skipped.append(Skipped(images.paths[picture.index], picture.reason))
                good[row] = False
            if on_progress:
                on_progress(row + 1, len(labelled), len(skipped))
    labelled, digests = labelled[good], digests[good]
    splits = images.splits[labelled]
    notes = images.notes
    if len(labelled) and (rule is not None or not (splits != "").any()):
        rule = rule or SplitRule()
        splits = stratified_split(images.targets[labelled], digests, rule)
        notes = (*notes, f"no split of its own was used: {rule.test_fraction:.0%} of each class for test")
    return _checked(
        Roster(
            name=images.name,
            source=images.root,
            pictures=Subset(images, labelled.tolist()),
            digests=digests,
            targets=images.targets[labelled].astype(np.int64),
            splits=splits,
            classes=images.classes,
            skipped=skipped,
            notes=notes,
        )
    )


def roster_of_store(store: FeatureStore, dataset: str | None = None) -> Roster:
    """Return the pictures of an image set of a store, which says where they are, with its labels and splits.

    Raises
    ------
    StoreError
        If the set is not there, or was read from a Python object.
    """
    view = store.view(dataset)
    labelled = np.flatnonzero(view.targets >= 0)
    return _checked(
        Roster(
            name=view.name,
            source=str(store.path),
            pictures=Subset(image_set_of(view), labelled.tolist()),
            digests=view.digests[labelled],
            targets=view.targets[labelled].astype(np.int64),
            splits=view.splits[labelled],
            classes=view.classes,
            skipped=[],
        )
    )


def _checked(roster: Roster) -> Roster:
    shown = np.unique(roster.targets)
    if not len(shown):
        why = f"{len(roster.skipped)} cannot be decoded" if roster.skipped else "none has a label"
        raise ImageSetError(
            f"{roster.source} has no picture to train on, {why}: name a folder with a folder for each class"
        )
    if len(shown) < 2:
        raise ImageSetError(
            f"{roster.source} has labelled pictures of one class alone, {roster.classes[shown[0]]}: at least two are "
            "needed to tell apart"
        )
    return roster


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the pictures of a roster are used for.

    Parameters
    ----------
    train : ndarray of int64
        Rows that the gradient sees.
    choose : ndarray of int64
        Rows that choose the epoch; empty where the last one is kept.
    measure : ndarray of int64
        Rows that choose nothing.
    chosen_on, measured_on : str
        What these are, in words and as a split.
    """

    train: Rows
    choose: Rows
    measure: Rows
    chosen_on: str
    measured_on: str


def divide(roster: Roster, *, on: str | None, keep: str, hold_out: float, seed: int) -> Parts:
    """Say which pictures train, which choose the epoch and which measure.

    The epoch is chosen on ``val`` where another split measures, else on a part of ``train``, of which copies of one
    content stay together.

    Parameters
    ----------
    roster : Roster
        The pictures.
    on : str, optional
        The split to measure on; by default ``test``, or ``val`` where there is none.
    keep : str
        ``last`` holds nothing out.
    hold_out : float
        Share of ``train`` that chooses where ``val`` cannot.
    seed : int
        Of that part.

    Raises
    ------
    TrainingError
        If a split is missing.
    """
    there = set(np.unique(roster.splits).tolist())
    on = on or measured_split(there)
    train, measure = roster.rows("train"), roster.rows(on)
    if on == "train":
        raise TrainingError(f"{roster.source} would be measured on what it is trained on: name another split with --on")
    nothing = np.empty(0, dtype=np.int64)
    if keep == "last":
        parts = Parts(train, nothing, measure, "", on)
    elif "val" in there and on != "val":
        parts = Parts(train, roster.rows("val"), measure, "val", on)
    else:
        rule = SplitRule(test_fraction=0.0, val_fraction=hold_out, seed=seed)
        splits = stratified_split(roster.targets[train].astype(np.int32), roster.digests[train], rule)
        held = train[splits == "val"]
        if not len(held):
            raise TrainingError(
                f"{roster.source} has one training picture of each class, of which none can be spared to choose the "
                "epoch: add pictures, or take the last epoch with --keep last"
            )
        parts = Parts(train[splits != "val"], held, measure, f"{len(held)} pictures held out of train", on)
    missing = sorted(set(range(len(roster.classes))) - set(roster.targets[parts.train].tolist()))
    if missing:
        names = ", ".join(roster.classes[i] for i in missing[:3])
        raise TrainingError(f"no training picture shows {names}: every class of {roster.source} must be in train")
    return parts
