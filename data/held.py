"""What a store holds of one spec, whatever the number of its files."""

import dataclasses
from collections.abc import Sequence

from data.errors import FingerprintMismatch
from data.layout import FeatureGroup
from data.provenance import KEPT, Request, Run, extraction_milliseconds, merged_requests, merged_runs, unmarked
from data.spec import FeatureSpec, Source

# Digits of a fingerprint that stand for it, as in git.
_SHORTEST = 4


@dataclasses.dataclass(frozen=True)
class FeatureInfo:
    """What `info` says of the features of one spec."""

    spec: FeatureSpec
    rows: int
    dim: int
    dtype: str
    nbytes: int
    provenance: list[Run]
    requests: list[Request]

    @property
    def kept(self) -> bool:
        """Whether training keeps them to go on from there, and nobody asked for them as features.

        Older stores do not say so; there a layer's whole outputs are taken for kept.
        """
        return self.spec.is_activations or (bool(self.requests) and all(KEPT in request for request in self.requests))

    def is_called(self, name: str) -> bool:
        """Whether a name that a user gave is one of these features'.

        A network, a layer, both as titles have them, or the beginning of the fingerprint: four digits or more.
        """
        if len(name) >= _SHORTEST and self.spec.fingerprint.startswith(name):
            return True
        network = self.spec.backbone
        within = self.spec.title.removeprefix(f"{network}/")
        networks = {network, network.split("/")[-1]}
        networks |= {str(request["backbone"]) for request in self.requests if "backbone" in request}
        layers = {self.spec.layer, within}
        return name in networks | layers | {f"{one}/{layer}" for one in networks for layer in layers}

    @property
    def extract_milliseconds(self) -> float | None:
        """What it took to compute them, a picture; None where no run was timed."""
        return extraction_milliseconds(self.provenance)

    @property
    def source(self) -> Source:
        """How these features are computed of new pictures."""
        weights_file = next((run["weights_file"] for run in self.provenance if run.get("weights_file")), "")
        return Source(self.spec, unmarked(self.requests[0]) if self.requests else {}, weights_file)


def described(groups: Sequence[FeatureGroup]) -> FeatureInfo:
    """Return what the files of a store hold of one spec.

    Raises
    ------
    FingerprintMismatch
        If they do not agree about the length of a vector.
    """
    first, rows = groups[0], sum(len(group) for group in groups)
    other = next((group for group in groups if group.dim != first.dim), None)
    if other is not None:
        raise FingerprintMismatch(
            f"features {first.fingerprint[:12]} have {first.dim} values in {first.path}, and {other.dim} in "
            f"{other.path}: remove that file and extract again"
        )
    return FeatureInfo(
        spec=first.spec,
        rows=rows,
        dim=first.dim,
        dtype=first.dtype.name,
        nbytes=rows * first.dim * first.dtype.itemsize,
        provenance=merged_runs(run for group in groups for run in group.provenance),
        requests=merged_requests(request for group in groups for request in group.requests),
    )
