"""What fine-tuning and its frozen rivals are given in a contest: the same pictures, splits, weights, preprocessing."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.spec import FeatureSpec, Source
from data.store import FeatureStore, Samples
from extract.listed import extract_listed
from extract.networks import Setup
from extract.options import ALL_STAGES, PENULTIMATE
from extract.results import Progress
from extract.wanted import Wanted, wanted_of
from finetune.results import Array, Tuning
from finetune.strategies import make_strategy
from finetune.tuning import Tuner


@dataclasses.dataclass
class Rivals:
    """One image set of a store and one network, as its stored penultimate features say.

    Parameters
    ----------
    store : FeatureStore
        Which keeps the features and activations that a contest needs.
    dataset : str
        The image set.
    source : Source
        Of its penultimate features.
    preset : str
        A key of `finetune.strategies.PRESETS`.
    changes : dict
        Values of a `Strategy` that are not the preset's.
    split : str
        To measure on.
    save : Path, optional
        Folder that keeps the checkpoints.
    device : str
        As for `extract.engines.choose_device`.
    probe : callable, optional
        As for `finetune.tuning.Tuner`.
    on_progress, on_step : callable, optional
        As for `finetune.tuning.Tuner`.
    """

    store: FeatureStore
    dataset: str
    source: Source
    preset: str
    changes: dict[str, Any]
    split: str
    save: Path | None = None
    device: str = "auto"
    probe: Callable[[Samples], tuple[Array, Array]] | None = None
    on_progress: Callable[[Progress], None] | None = None
    on_step: Callable[[int, int], None] | None = None

    def wanted(self, color: str) -> Wanted:
        """Return the network in a colour mode."""
        own = wanted_of(self.source.request, self.source.weights, "")
        return dataclasses.replace(own, options=dataclasses.replace(own.options, color=color), layers=(PENULTIMATE,))

    def features(self, color: str, every_stage: bool) -> list[FeatureSpec]:
        """Extract what the store lacks, to be kept for contests; return the specs, the penultimate features first.

        Parameters
        ----------
        color : str
            Colour mode.
        every_stage : bool
            Whether features of every stage are needed, too.
        """
        layers = (PENULTIMATE, ALL_STAGES) if every_stage else (PENULTIMATE,)
        wanted = dataclasses.replace(self.wanted(color), layers=layers, kept=True)
        setup = Setup(device=self.device)
        done = extract_listed(self.store.path, self.store.view(self.dataset), wanted, setup, self.on_progress)
        held = self.store.features()
        return [held[feature.fingerprint].spec for feature in done.features]

    def train(self, mode: str, color: str, seed: int) -> Tuning:
        """Fine-tune in one mode, with one seed."""
        wanted = self.wanted(color)
        strategy = make_strategy(mode, self.preset, {**self.changes, "seed": seed})
        with tempfile.TemporaryDirectory(prefix="penult-contest-") as scratch:
            folder = self.save or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            return Tuner(
                self.store,
                folder / f"{self.dataset}-{color}-{mode}-{seed}.ckpt",
                strategy,
                wanted.backbone,
                wanted.weights,
                wanted.options,
                wanted.partial,
                self.dataset,
                on=self.split,
                device=self.device,
                probe=self.probe,
                on_progress=self.on_progress,
                on_step=self.on_step,
            ).run()
