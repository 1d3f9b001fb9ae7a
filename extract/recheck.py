"""Extracting a random sample of a store again, to see that its features are what they claim to be."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from data.images import PictureList
from data.spec import told_apart
from data.store import FeatureInfo, FeatureStore
from extract import COSINE
from extract.components import components_file
from extract.datasets import NAMED
from extract.embed import embed, reopen

# Relative deviation that another machine, batch size or library version explains; float16 rounds to 1/2048.
_TOLERANCE = {"float32": 1e-3, "float16": 2e-3}
# Of rows computed in mixed precision: the deviation at the least cosine that engines are held to.
_MIXED = math.sqrt(2 * (1 - COSINE))


@dataclasses.dataclass(frozen=True)
class Recheck:
    """How far freshly computed features of one spec are from the stored ones.

    Parameters
    ----------
    spec : str
        Its title, and as much more as tells it from others of the store.
    checked, changed : int
        Pictures compared; pictures whose file is gone or has another content now.
    largest_deviation, tolerance : float
        Largest |new - stored| / |stored| (Euclidean) over the sample, and what is allowed.
    """

    spec: str
    checked: int
    changed: int
    largest_deviation: float
    tolerance: float

    @property
    def sound(self) -> bool:
        """Whether the sample is within the tolerance."""
        return self.largest_deviation <= self.tolerance


def recheck(path: Path, n: int, *, seed: int = 0, weights: str = "", device: str = "auto") -> list[Recheck]:
    """Extract `n` random pictures of each spec again and compare.

    Parameters
    ----------
    path : Path
        The store.
    n : int
        Pictures of each spec, as far as their files can be found.
    seed : int
        Of the sample.
    weights : str
        Weights file, where the stored place is no longer right.
    device : str
        As for `extract.engines.choose_device`.

    Raises
    ------
    WeightsError, FingerprintMismatch, MissingDependency
        If the network cannot be built again.
    """
    store = FeatureStore(path)
    views = store.views().values()
    rng = np.random.default_rng(seed)
    results = []
    features = store.features()
    titles = told_apart(info.spec for info in features.values())
    for fingerprint, info in features.items():
        held = set(store.digests(fingerprint).tolist())
        places = {  # one file for each content
            digest: (view.root, name)
            for view in views
            for name, digest in zip(view.paths, view.digests.tolist(), strict=True)
            if digest in held
        }
        if not info.requests or not places:
            continue
        every, source, projection = list(places.items()), info.source, ""
        chosen = [every[i] for i in rng.permutation(len(every))[:n].tolist()]
        if info.spec.projection.startswith("pca"):  # a random one needs no file
            projection = str(components_file(path, info.spec.projection))
        backbone, feature = reopen(
            source.request, source.spec, source.weights_file, str(path), weights=weights, projection=projection
        )
        found = embed(PictureList([place for _, place in chosen], NAMED), backbone, feature, device=device)
        vectors, digests = found.vectors, found.digests
        same = [j for j, i in enumerate(found.indices.tolist()) if digests[j] == chosen[i][0]]
        stored = store.vectors(fingerprint, np.array([digests[j] for j in same], dtype="S64")).astype(np.float64)
        off = (
            np.linalg.norm(vectors[same] - stored, axis=1) / np.maximum(np.linalg.norm(stored, axis=1), 1e-12)
            if same
            else np.zeros(0)
        )
        results.append(
            Recheck(
                titles[fingerprint],
                len(same),
                len(chosen) - len(same),
                float(off.max(initial=0.0)),
                _tolerance(info),
            )
        )
    return results


def _tolerance(info: FeatureInfo) -> float:
    mixed = any(run.get("precision", "float32") != "float32" for run in info.provenance)
    return max(_TOLERANCE[info.dtype], _MIXED if mixed else 0.0)
