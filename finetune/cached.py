"""Activations at the end of the frozen stages, computed once and kept in a store: only the rest is run in training.

Exact where nothing random comes before the cut: the activations are those that every epoch would compute again.
A mirrored picture is one of two, and both are kept; of random crops there are as many as are asked for.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from data.errors import TrainingError
from data.images import ImageSet
from data.splits import SplitRule
from data.store import FeatureStore
from extract.backbones import PENULTIMATE
from extract.checkpoints import all_readable
from extract.extractor import Extractor
from extract.networks import Setup
from extract.results import Progress
from extract.wanted import Wanted
from finetune.pictures import Roster, Rows, mirrored
from finetune.surgery import Rest, Tuned

# Activations that are read into memory at once; of more, each batch is read from the store.
_MEMORY = 4 << 30


class Behind(nn.Module):
    """What is trained of a network: from activations, as the store has them, to scores.

    Parameters
    ----------
    rest : Rest or None
        What follows the cut; None where only the last layer does.
    network : Tuned
        Whose last layer follows that.
    """

    def __init__(self, rest: Rest | None, network: Tuned) -> None:
        super().__init__()
        self.rest = rest
        self.last = network.last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores (B, k) of activations (B, dim)."""
        if self.rest is not None:
            self.rest.training = self.training
            x = self.rest(x)
        scores: torch.Tensor = self.last(x)
        return scores


@dataclasses.dataclass
class Activations:
    """A source of stored activations.

    Parameters
    ----------
    roster : Roster
        The pictures, all of which the store has.
    vectors : list of array (n, dim)
        One for each view of the pictures, the centre first.
    augment : str
        ``none``, ``flip`` (the second view is the mirrored one) or ``views`` (the others are random crops).
    seed : int
        Of what is random.
    """

    roster: Roster
    vectors: list[Any]
    augment: str
    seed: int

    def batches(
        self, groups: Sequence[Rows], epoch: int | None = None
    ) -> Generator[npt.NDArray[np.float32], None, None]:
        """Yield the activations of each group of rows, (B, dim) float32; see `finetune.trainer.Source`."""
        for rows in groups:
            which = np.array([self._view(row, epoch) for row in rows.tolist()])
            batch = np.empty((len(rows), self.vectors[0].shape[1]), dtype=np.float32)
            for view in np.unique(which).tolist():
                mine = np.flatnonzero(which == view)
                order = np.argsort(rows[mine], kind="stable")  # a store reads rows in order
                batch[mine[order]] = self.vectors[view][rows[mine[order]]]
            yield batch

    def prepare(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the batch as it is."""
        return batch

    def _view(self, row: int, epoch: int | None) -> int:
        if epoch is None or self.augment == "none":
            return 0
        digest = bytes(self.roster.digests[row])
        if self.augment == "flip":
            return int(mirrored(self.seed, epoch, digest))
        # every picture goes through its crops in an order of its own
        start = int.from_bytes(hashlib.sha256(b"view:%d:%s" % (self.seed, digest)).digest()[:4], "big")
        return 1 + (start + epoch) % (len(self.vectors) - 1)


def views_of(augment: str, views: int, seed: int) -> tuple[str, ...]:
    """Return the views of pictures that an augmentation needs, the centre first; none where no store can hold them."""
    return {
        "none": ("center",),
        "flip": ("center", "flip"),
        "views": ("center", *(f"random:{seed}:{k}" for k in range(views))),
    }.get(augment, ())


def cache_activations(
    store: Path,
    images: ImageSet,
    roster: Roster,
    wanted: Wanted,
    layer: str,
    augment: str,
    seed: int,
    setup: Setup,
    rule: SplitRule | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    strict: bool = False,
) -> tuple[Activations, int]:
    """Extract what the store does not have of a layer's outputs, and open it.

    Parameters
    ----------
    store : Path
        Where they are kept.
    images : ImageSet
        All pictures of the set.
    roster : Roster
        The labelled ones.
    wanted : Wanted
        The network and the views.
    layer : str
        Where it is cut.
    augment, seed
        As for `Activations`.
    setup : Setup
        How the network is run.
    rule : SplitRule, optional
        How the set is split, where the store does not say.
    strict : bool
        The store lists the pictures, and is left as it is where some have gone.

    Returns
    -------
    activations : Activations
    computed : int
        Pictures that the network saw, all views together.
    """
    layered = dataclasses.replace(wanted, layers=(layer,), pooling="" if layer == PENULTIMATE else "flatten")
    held = FeatureStore(store)
    old = held.views().get(images.name) if held.exists() else None
    with all_readable(store) if strict else contextlib.nullcontext():
        done = Extractor(
            images,
            store,
            [layered],
            engine=setup.engine,
            device=setup.device,
            split=SplitRule(**old.split_rule) if old and old.split_rule else rule,
            strict=strict,
            keep=True,
            on_progress=on_progress,
        ).run()
    fingerprints = [feature.fingerprint for feature in done.features]
    specs = held.features()
    if not set(fingerprints) <= specs.keys():
        raise TrainingError(f"none of the {len(roster)} pictures of {images.root} can be read now: put them back")
    samples = [held.load(dataset=images.name, spec=specs[f].spec, memory=_MEMORY).labelled() for f in fingerprints]
    places = {digest: i for i, digest in reversed(list(enumerate(samples[0].digests.tolist())))}
    lacking = [row for row, digest in enumerate(roster.digests.tolist()) if digest not in places]
    if lacking:
        raise TrainingError(
            f"{len(lacking)} of the {len(roster)} pictures can no longer be read, {roster.pictures.title(lacking[0])} "
            f"for one, and {store} lacks their activations: restore them, or extract the pictures again"
        )
    rows = np.array([places[digest] for digest in roster.digests.tolist()], dtype=np.int64)
    vectors = [_Rows(s.X, rows) for s in samples]
    return Activations(roster, vectors, augment, seed), done.extracted * len(fingerprints)


class _Rows:
    """Rows of an array that may lie in a store, by the rows of a roster."""

    def __init__(self, X: Any, rows: Rows) -> None:
        self._X = X
        self._rows = rows
        self.shape = X.shape

    def __getitem__(self, rows: Rows) -> Any:
        return self._X[self._rows[rows]]
