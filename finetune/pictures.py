"""Labelled pictures to train on: from an image set or a store, their parts, and batches of their pixels."""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from data.errors import ImageSetError, TrainingError, first_line
from data.images import ImageSet, Pictures, Subset
from data.spec import FeatureSpec
from data.splits import SplitRule, measured_split, stratified_split
from data.store import FeatureStore
from data.views import Digests, Skipped
from extract.datasets import image_set_of
from extract.decode import Pixels, decode
from extract.flow import available_cores, decoding
from extract.preprocess import Recipe, recipes, to_inputs
from extract.reader import read_picture

Rows = npt.NDArray[np.int64]

# Random crops of training take as little as 8% of a picture, as torchvision's RandomResizedCrop does (Szegedy et al.
# 2015): a network that is trained learns to see parts.
_LEAST_AREA = 0.08
# Inputs that are the same in every epoch are kept up to this many bytes.
_KEPT = 1 << 30


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
        parts = Parts(train[splits != "val"], held, measure, f"{len(held)} pictures held out of train", on)
    missing = sorted(set(range(len(roster.classes))) - set(roster.targets[parts.train].tolist()))
    if missing:
        names = ", ".join(roster.classes[i] for i in missing[:3])
        raise TrainingError(f"no training picture shows {names}: every class of {roster.source} must be in train")
    return parts


def mirrored(seed: int, epoch: int, digest: bytes) -> bool:
    """Whether a picture is mirrored in an epoch: half of them are."""
    return bool(hashlib.sha256(b"flip:%d:%d:%s" % (seed, epoch, digest)).digest()[0] & 1)


def turn(seed: int, epoch: int, digest: bytes, views: int) -> int:
    """Return which of its random views a picture shows in an epoch: it goes through them in an order of its own."""
    start = int.from_bytes(hashlib.sha256(b"view:%d:%s" % (seed, digest)).digest()[:4], "big")
    return (start + epoch) % views


class Inputs:
    """Pixels as a network sees them, batch after batch, decoded in threads ahead of it.

    Parameters
    ----------
    roster : Roster
        The pictures.
    spec : FeatureSpec
        How they are resized, cropped and normalised where nothing is random.
    augment : str
        A key of `finetune.strategies.AUGMENTATIONS`.
    seed : int
        Of what is random; an epoch, a seed and a picture's content decide its pixels.
    workers : int
        Threads; 0 takes one a core.
    views : int
        Random crops of each picture where `augment` is ``views``.
    """

    def __init__(
        self, roster: Roster, spec: FeatureSpec, augment: str, seed: int, workers: int = 0, views: int = 8
    ) -> None:
        self.views = views
        self.roster = roster
        (self.recipe,) = recipes(spec)
        self._mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(spec.std).view(1, -1, 1, 1)
        self.augment = augment
        self.seed = seed
        self.workers = workers or available_cores()
        self._kept: dict[int, Pixels] = {}
        self._room = _KEPT

    def batches(self, groups: Sequence[Rows], epoch: int | None = None) -> Generator[Pixels, None, None]:
        """Yield the pixels of each group of rows, (B, H, W, C) uint8.

        Parameters
        ----------
        groups : sequence of ndarray of int64
            Rows of the roster.
        epoch : int, optional
            Number of the pass over the training pictures, which decides what is random; without one nothing is.

        Raises
        ------
        TrainingError
            If a file is gone or has changed.
        """
        reading: collections.deque[list[Future[Pixels]]] = collections.deque()
        waiting = iter(groups)
        with decoding(), ThreadPoolExecutor(self.workers, thread_name_prefix="penult-reader") as pool:
            try:
                for group in waiting:
                    reading.append([pool.submit(self._input, row, epoch) for row in group.tolist()])
                    if len(reading) > 2:
                        yield np.stack([future.result() for future in reading.popleft()])
                while reading:
                    yield np.stack([future.result() for future in reading.popleft()])
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def prepare(self, batch: torch.Tensor) -> torch.Tensor:
        """Return normalised pictures, (B, C, H, W) float32 in channels-last memory, of pixels on a device."""
        if self._mean.device != batch.device:  # once: each such copy waits for the device
            self._mean, self._std = self._mean.to(batch.device), self._std.to(batch.device)
        return batch.permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._std)

    def _input(self, row: int, epoch: int | None) -> Pixels:
        if epoch is not None and self.augment in ("crop", "views"):
            digest = bytes(self.roster.digests[row])
            kept = self.augment == "views"  # the crops that a store would keep
            number = turn(self.seed, epoch, digest, self.views) if kept else epoch
            view = dataclasses.replace(self.recipe, view=f"random:{self.seed}:{number}")
            area = {} if kept else {"least_area": _LEAST_AREA}
            return to_inputs(self._decode(row), (view,), digest, **area)[0]
        pixels = self._kept.get(row)
        if pixels is None:
            (pixels,) = to_inputs(self._decode(row), (self.recipe,), b"")
            if self._room >= pixels.nbytes:  # threads may overdraw it by a picture each
                self._room -= pixels.nbytes
                self._kept[row] = pixels
        if epoch is not None and self.augment == "flip" and mirrored(self.seed, epoch, bytes(self.roster.digests[row])):
            return np.ascontiguousarray(pixels[:, ::-1])
        return pixels

    def _decode(self, row: int) -> Pixels:
        pictures = self.roster.pictures
        try:
            content = pictures.read(row).data
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"{pictures.title(row)} can no longer be read ({first_line(error)}): restore it and run the same "
                "command again to go on"
            ) from None
        if hashlib.sha256(content).hexdigest().encode() != bytes(self.roster.digests[row]):
            raise TrainingError(
                f"{pictures.title(row)} is not the picture that it was when it was listed: extract the pictures again, "
                "or restore the file"
            )
        alpha, shorter = self.recipe.decoding
        return decode(content, alpha=alpha, shorter=shorter)
