"""Pixels of labelled pictures as a network sees them, batch after batch."""

import collections
import dataclasses
import hashlib
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from data.cores import available_cores
from data.errors import TrainingError, first_line
from data.spec import FeatureSpec
from extract.decode import Pixels, decode
from extract.flow import decoding
from extract.preprocess import recipes, to_inputs
from finetune.roster import Roster, Rows

# Random crops of training take as little as 8% of a picture, as torchvision's RandomResizedCrop does (Szegedy et al.
# 2015): a network that is trained learns to see parts.
_LEAST_AREA = 0.08
# Inputs that are the same in every epoch are kept up to this many bytes.
_KEPT = 1 << 30


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
