"""Activations in a store: extracted where they lack, opened for training, removed where nobody asked for them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import TrainingError
from data.images import ImageSet
from data.splits import SplitRule
from data.store import FeatureStore
from extract.extractor import Extractor
from extract.listed import extract_listed
from extract.networks import Setup
from extract.results import Progress
from extract.wanted import Wanted
from finetune.cached import Activations, views_of
from finetune.roster import Roster, Rows
from finetune.strategies import Strategy
from finetune.surgery import Operated

# Activations that are read into memory at once, of all views; of more, each batch is read from the store.
_MEMORY = 4 << 30


@dataclasses.dataclass
class Keeper:
    """Keeps what the frozen stages of one network, before training, give.

    Parameters
    ----------
    source : ImageSet or FeatureStore
        Pictures, for which a store is made beside the checkpoint until `forget`; or the store that keeps them.
    dataset : str or None
        Image set of a store.
    rule : SplitRule or None
        How an image set is split.
    wanted : Wanted
        The network; layers, poolings and views are filled in here.
    strategy : Strategy
        Its augmentation decides the views.
    output : Path
        The checkpoint.
    device : str
        As for `extract.engines.choose_device`.
    on_progress : callable, optional
        Called with an `extract.results.Progress` after every picture.

    Attributes
    ----------
    kept : dict of str to list of str
        For each layer the fingerprints of its features, one for each view, the centre first.
    """

    source: ImageSet | FeatureStore
    dataset: str | None
    rule: SplitRule | None
    wanted: Wanted
    strategy: Strategy
    output: Path
    device: str = "auto"
    on_progress: Callable[[Progress], None] | None = None
    kept: dict[str, list[str]] = dataclasses.field(default_factory=dict, init=False)

    @property
    def store(self) -> Path:
        """Where activations are kept."""
        if isinstance(self.source, FeatureStore):
            return self.source.path
        return self.output.with_name(f"{self.output.name}.activations.h5")

    @property
    def views(self) -> tuple[str, ...]:
        """Views that training needs; none where no store can hold them."""
        return views_of(self.strategy.augment, self.strategy.views, self.strategy.seed)

    def extract(self, operated: Operated, layers: Sequence[str], views: tuple[str, ...]) -> int:
        """Extract what the store does not have of some layers' outputs, all of them in one pass over the pictures.

        A store's own pictures are left as they are where some have gone.

        Returns
        -------
        int
            Pictures that the network saw, each view counted.

        Raises
        ------
        TrainingError
            If no picture can be read.
        """
        shapes = operated.found.shapes
        poolings = tuple("" if len(shapes[layer] or ()) == 2 else "flatten" for layer in layers)
        wanted = dataclasses.replace(self.wanted, layers=tuple(layers), poolings=poolings, views=views, kept=True)
        setup = Setup(device=self.device)
        if isinstance(self.source, FeatureStore):
            images: Any = self.source.view(self.dataset)
            done = extract_listed(self.store, images, wanted, setup, self.on_progress)
        else:
            images = self.source
            done = Extractor(
                images,
                self.store,
                [wanted],
                engine=setup.engine,
                device=setup.device,
                split=self.rule,
                keep=True,
                on_progress=self.on_progress,
            ).run()
        fingerprints = [feature.fingerprint for feature in done.features]
        if not set(fingerprints) <= FeatureStore(self.store).features().keys():
            raise TrainingError(f"none of the {done.images} pictures of {images.root} can be read now: put them back")
        self.kept |= {layer: fingerprints[i * len(views) :][: len(views)] for i, layer in enumerate(layers)}
        return done.extracted * len(views)

    def open(self, layer: str, roster: Roster) -> Activations:
        """Open a layer's outputs, which were extracted, for training on a roster.

        Raises
        ------
        TrainingError
            If a picture of the roster has none.
        """
        held = FeatureStore(self.store)
        specs = [held.features()[fingerprint].spec for fingerprint in self.kept[layer]]
        share = _MEMORY // len(specs)
        samples = [held.load(dataset=roster.name, spec=spec, memory=share).labelled() for spec in specs]
        places = {digest: i for i, digest in reversed(list(enumerate(samples[0].digests.tolist())))}
        lacking = [row for row, digest in enumerate(roster.digests.tolist()) if digest not in places]
        if lacking:
            raise TrainingError(
                f"{len(lacking)} of the {len(roster)} pictures can no longer be read, "
                f"{roster.pictures.title(lacking[0])} for one, and {self.store} lacks their activations: restore them, "
                "or extract the pictures again"
            )
        rows = np.array([places[digest] for digest in roster.digests.tolist()], dtype=np.int64)
        vectors = [_Rows(one.X, rows) for one in samples]
        return Activations(roster, vectors, self.strategy.augment, self.strategy.seed)

    def saved_seconds(self, layer: str, n: int, passes: int) -> float:
        """Return what activations of n pictures took that were there before `passes`, as far as the store says."""
        fingerprints = self.kept.get(layer, ())
        if not fingerprints:
            return 0.0
        held = FeatureStore(self.store).features()
        each = sum(held[fingerprint].extract_milliseconds or 0.0 for fingerprint in fingerprints)
        return each / 1000 * max(n - passes // len(fingerprints), 0)

    def forget(self) -> None:
        """Remove activations that no store of the user's keeps."""
        if not isinstance(self.source, FeatureStore):
            self.store.unlink(missing_ok=True)


class _Rows:
    """Rows of an array that may lie in a store, by the rows of a roster."""

    def __init__(self, X: Any, rows: Rows) -> None:
        self._X = X
        self._rows = rows
        self.shape = X.shape

    def __getitem__(self, rows: Rows) -> Any:
        return self._X[self._rows[rows]]
