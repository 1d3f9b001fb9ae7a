"""Activations at the end of the frozen stages, computed once and kept in a store: only the rest is run in training.

Exact where nothing random comes before the cut: the activations are those that every epoch would compute again.
A mirrored picture is one of two, and both are kept; of random crops there are as many as are asked for.
"""

import dataclasses
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from data.errors import BackboneError, TrainingError
from data.images import ImageSet
from data.splits import SplitRule
from data.store import FeatureStore
from data.views import View
from extract.extractor import Extractor
from extract.listed import extract_listed
from extract.networks import Setup
from extract.options import PENULTIMATE
from extract.results import Progress
from extract.wanted import Wanted
from finetune.pictures import Roster, Rows, mirrored, turn
from finetune.surgery import Operated, Rest, Tuned, rest_of

# Activations that may be kept on the disk before training runs the frozen stages itself, in bytes.
CACHE_LIMIT = 20 << 30
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


def extract_activations(
    store: Path,
    images: ImageSet | View,
    wanted: Wanted,
    setup: Setup,
    rule: SplitRule | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[dict[str, list[str]], int]:
    """Extract what the store does not have of some layers' outputs, all of them in one pass over the pictures.

    Parameters
    ----------
    store : Path
        Where they are kept.
    images : ImageSet or View
        All pictures of the set; a view is one of the store's own, which is left as it is where some have gone.
    wanted : Wanted
        The network, the layers and the views.
    setup : Setup
        How the network is run.
    rule : SplitRule, optional
        How an image set is split.
    on_progress : callable, optional
        Called with an `extract.results.Progress` after every picture.

    Returns
    -------
    kept : dict of str to list of str
        For each layer the fingerprints of its features, one for each view.
    computed : int
        Pictures that the network saw.
    """
    if isinstance(images, View):
        done = extract_listed(store, images, wanted, setup, on_progress)
    else:
        job = Extractor(
            images,
            store,
            [wanted],
            engine=setup.engine,
            device=setup.device,
            split=rule,
            keep=True,
            on_progress=on_progress,
        )
        done = job.run()
    n_views = len(wanted.views)
    fingerprints = [feature.fingerprint for feature in done.features]
    if not set(fingerprints) <= FeatureStore(store).features().keys():
        where = images.root
        raise TrainingError(f"none of the {done.images} pictures of {where} can be read now: put them back")
    kept = {layer: fingerprints[i * n_views :][:n_views] for i, layer in enumerate(wanted.layers)}
    return kept, done.extracted


def open_activations(store: Path, fingerprints: Sequence[str], roster: Roster, augment: str, seed: int) -> Activations:
    """Open a layer's outputs for training.

    Parameters
    ----------
    store : Path
        Where they are kept.
    fingerprints : sequence of str
        One for each view, the centre first.
    roster : Roster
        The labelled pictures of the set.
    augment, seed
        As for `Activations`.
    """
    held = FeatureStore(store)
    specs = [held.features()[fingerprint].spec for fingerprint in fingerprints]
    samples = [held.load(dataset=roster.name, spec=spec, memory=_MEMORY).labelled() for spec in specs]
    places = {digest: i for i, digest in reversed(list(enumerate(samples[0].digests.tolist())))}
    lacking = [row for row, digest in enumerate(roster.digests.tolist()) if digest not in places]
    if lacking:
        raise TrainingError(
            f"{len(lacking)} of the {len(roster)} pictures can no longer be read, {roster.pictures.title(lacking[0])} "
            f"for one, and {store} lacks their activations: restore them, or extract the pictures again"
        )
    rows = np.array([places[digest] for digest in roster.digests.tolist()], dtype=np.int64)
    return Activations(roster, [_Rows(s.X, rows) for s in samples], augment, seed)


class _Rows:
    """Rows of an array that may lie in a store, by the rows of a roster."""

    def __init__(self, X: Any, rows: Rows) -> None:
        self._X = X
        self._rows = rows
        self.shape = X.shape

    def __getitem__(self, rows: Rows) -> Any:
        return self._X[self._rows[rows]]
