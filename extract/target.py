"""One network of an extraction: its features, known from the store or by opening it, its engine, its blocks."""

import dataclasses
import datetime
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data import VERSION
from data.errors import FingerprintMismatch
from data.provenance import unmarked, version_of
from data.spec import FeatureSpec, differences
from data.store import FeatureInfo
from extract.backbones import Backbone, same_command
from extract.blocks import BlockWriter
from extract.networks import Feature, Network, Setup
from extract.projection import Pca
from extract.reader import Picture
from extract.wanted import Wanted

_RECORDED = ("torch", "torchvision", "timm", "onnxruntime", "pillow", "simplejpeg", "numpy", "h5py")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all processes of an extraction have in common.

    Parameters
    ----------
    store : Path
        What the rows are for.
    address : str
        Where blocks are staged; empty for beside the store.
    setup : Setup
        How networks are run.
    readers : int
        Threads of a process that read and decode.
    """

    store: Path
    address: str
    setup: Setup
    readers: int


class Target:
    """One network of an extraction.

    Parameters
    ----------
    plan : Plan
        How it is run, and where its rows go.
    wanted : Wanted
        The network, and the vectors wanted of it.
    known : sequence of Feature
        What is known of these vectors: that the network still gives them is checked when it is opened. If there are
        none it is opened at once.
    dtype : callable
        From a fingerprint to how such features are stored.
    components : callable
        From the opened network to the principal components of its vectors, where the projection asks for them.
    """

    def __init__(
        self,
        plan: Plan,
        wanted: Wanted,
        known: Sequence[Feature],
        dtype: Callable[[str], str],
        components: Callable[[Backbone], Pca],
    ) -> None:
        self.plan = plan
        self.wanted = wanted
        self.backbone: Backbone | None = None
        self._components = components
        self.features = list(known) or self._open()
        self.network = Network(self.features)
        self.lacking = list(range(len(self.features)))  # those that some picture has not, which the network computes
        self.writers = [BlockWriter(plan.store, f.spec, dtype(f.spec.fingerprint), plan.address) for f in self.features]

    def compute_only(self, lacking: list[int]) -> None:
        """Leave out of the network the features that every picture has, and the views that only they need."""
        self.lacking = lacking
        self.network = Network([self.features[i] for i in lacking])

    def start_engine(self, first: list[Picture]) -> list[str]:
        """Build the engine, trying it on the first pictures; return what the user should know.

        Raises
        ------
        FingerprintMismatch
            If the network no longer gives the features that are known.
        """
        from extract.engines import open_engine  # torch is loaded only when something must be computed

        if self.backbone is None:
            opened = self._open()
            for now, then in zip(opened, self.features, strict=True):
                _refuse_another(now.spec, then.spec, self.wanted.backbone, self.plan.store)
            self.network.features = [
                dataclasses.replace(opened[i], request=self.features[i].request) for i in self.lacking
            ]
        assert self.backbone is not None
        sample = np.stack([picture.inputs[self.network.recipes[0]] for picture in first])
        engine = self.network.engine = open_engine(self.backbone, self.plan.setup, sample)
        for writer, feature in zip(self.writers, self.features, strict=True):
            writer.run = self._provenance(writer.run_id, feature)
            writer.requests = [feature.request]
        return [*self.backbone.report, *engine.notes]

    def _open(self) -> list[Feature]:
        """Build the network and return its features."""
        self.backbone = self.wanted.open()
        return self.wanted.features(self.backbone, self._components)

    def _provenance(self, run_id: str, feature: Feature) -> dict[str, Any]:
        engine = self.network.engine
        assert engine is not None
        versions = {"penult": VERSION, **{p: v for p in _RECORDED if (v := version_of(p))}}
        return {
            "run": run_id,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "engine": engine.name,
            "device": engine.device,
            "precision": engine.precision,
            "batch_size": engine.batch_size,
            "request": feature.request,
            "weights_file": os.path.abspath(self.wanted.weights) if "sha256" in feature.request["weights"] else "",
            "versions": versions,
        }


def remembered(wanted: Wanted, held: dict[str, FeatureInfo]) -> list[Feature]:
    """Return the features of commands that a store knows; none if it does not know all of them.

    One that is only kept is known too, and becomes one that was asked for if it is now.
    """
    features = []
    for request in map(unmarked, wanted.requests() or ()):
        known = ((i.spec, old) for i in held.values() for old in i.requests if same_command(request, unmarked(old)))
        spec, old = next(known, (None, {}))
        if spec is None:
            return []
        features.append(Feature(spec, old if wanted.kept else unmarked(old)))
    return features


def _refuse_another(now: FeatureSpec, then: FeatureSpec, backbone: str, store: Path) -> None:
    if now != then:
        raise FingerprintMismatch(
            f"the network {backbone} is not the one that {store} remembers for this command "
            f"({'; '.join(differences(now, then))}): extract into a new store"
        )
