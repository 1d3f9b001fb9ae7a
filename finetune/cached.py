"""Activations at the end of the frozen stages, computed once: where a network is cut, and training on what is kept.

Exact where nothing random comes before the cut: the activations are those that every epoch would compute again.
A mirrored picture is one of two, and both are kept; of random crops there are as many as are asked for.
"""

import dataclasses
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from data.errors import BackboneError
from extract.options import PENULTIMATE
from finetune.pictures import mirrored, turn
from finetune.roster import Roster, Rows
from finetune.surgery import Operated, Rest, Tuned, rest_of

# Activations that may be kept on the disk before training runs the frozen stages itself, in bytes.
CACHE_LIMIT = 20 << 30


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
        """Yield the activations of each group of rows, (B, dim) float32; see `finetune.course.Source`."""
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
        return 1 + turn(self.seed, epoch, digest, len(self.vectors) - 1)


def views_of(augment: str, views: int, seed: int) -> tuple[str, ...]:
    """Return the views of pictures that an augmentation needs, the centre first; none where no store can hold them."""
    return {
        "none": ("center",),
        "flip": ("center", "flip"),
        "views": ("center", *(f"random:{seed}:{k}" for k in range(views))),
    }.get(augment, ())


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a network is cut, so that what comes before runs once for each picture.

    Parameters
    ----------
    frozen : int
        Stages before it, as for `finetune.surgery.freeze`.
    layer : str
        Whose outputs are kept; empty where all of the network runs in every epoch.
    rest : Rest or None
        What follows it; None where only the last layer does.
    nbytes : int
        What its outputs for all pictures take.
    why : str
        Why it is not cut although there are frozen stages; empty if it is, or if there are none.
    """

    frozen: int
    layer: str = ""
    rest: Rest | None = None
    nbytes: int = 0
    why: str = ""


def find_cut(operated: Operated, frozen: int, n_views: int, n_pictures: int, room: int) -> Cut:
    """Say whether the outputs of frozen stages can be kept.

    Parameters
    ----------
    operated : Operated
        The network.
    frozen : int
        Stages that are not trained.
    n_views, n_pictures : int
        How many outputs there would be; no views where no store can hold them.
    room : int
        Bytes that they may take.
    """
    if not frozen:
        return Cut(frozen)
    if not n_views:
        why = "random crops are new in every epoch: --augment none, flip or views lets the frozen stages run once"
        return Cut(frozen, why=why)
    whole = frozen > len(operated.stages)
    layer = PENULTIMATE if whole else operated.stages[frozen - 1]
    nbytes = 4 * int(np.prod((operated.found.shapes[layer] or (1,))[1:])) * n_pictures * n_views
    if nbytes > room:
        why = f"activations of {layer} would take {nbytes / 1e9:.0f} GB: the frozen stages run in every epoch"
        return Cut(frozen, why=why)
    try:
        rest = None if whole else rest_of(operated, layer)
    except BackboneError as error:
        return Cut(frozen, why=f"{error}: the frozen stages run in every epoch")
    return Cut(frozen, layer, rest, nbytes)
