"""Features of pictures without a store: what `predict`, `verify --sample` and the fit of components compute."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import WeightsError
from data.images import Pictures
from data.spec import FeatureSpec, refuse_other
from data.views import Skipped
from extract.backbones import Backbone
from extract.flow import Batch, available_cores, decoding, flow
from extract.networks import Feature, Network, Setup
from extract.reader import Picture
from extract.wanted import wanted_of


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Features of some pictures.

    Parameters
    ----------
    indices : ndarray of shape (n,), int64
        Which of the pictures have features, in their order.
    vectors : ndarray of shape (n, dim), float32
        Their features.
    digests : list of bytes
        Their contents.
    skipped : list of Skipped
        The others, with reasons.
    notes : list of str
        What a user would want to know.
    """

    indices: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    digests: list[bytes]
    skipped: list[Skipped]
    notes: list[str]


def reopen(
    request: dict[str, Any],
    spec: FeatureSpec,
    weights_file: str,
    wants: str,
    *,
    weights: str = "",
    projection: str = "",
) -> tuple[Backbone, Feature]:
    """Build the network that features of `spec` came from.

    Parameters
    ----------
    request : dict
        As `extract.wanted.Wanted.requests` made it.
    spec : FeatureSpec
        What the network must give.
    weights_file : str
        Where the weights were, if they came from a file; it may have moved since.
    wants : str
        Who needs the network, for messages.
    weights : str
        Weights that the user names instead, as for `open_backbone`; the spec's digest says whether they fit.
    projection : str
        File of the principal components, where there are any.

    Raises
    ------
    WeightsError
        If the weights were a file and it is not there.
    FingerprintMismatch
        If network and weights give other features, with the fields that differ.
    """
    if not request:
        raise WeightsError(f"{wants} does not say which network its features came from: extract them with Penult")
    source = request["weights"]
    if not weights and "sha256" in source:
        if not Path(weights_file).is_file():
            raise WeightsError(
                f"{wants} needs the weights of {spec.backbone} from a file, which is not at "
                f"{weights_file or '(unknown)'}: name it with --weights FILE"
            )
        weights = weights_file
    weights = weights or ("random" if "random" in source else source["named"])
    wanted = wanted_of(request, weights, projection)
    backbone = wanted.open()
    feature = wanted.features(backbone)[0]
    refuse_other([feature.spec], spec, f"network {request['backbone']} with weights {weights}", wants)
    return backbone, feature


def embed(
    pictures: Pictures,
    backbone: Backbone,
    feature: Feature,
    *,
    engine: str = "auto",
    device: str = "auto",
    batch_size: int = 0,
    precision: str = "auto",
    on_progress: Callable[[int, int, int], None] | None = None,
) -> Embedding:
    """Compute one feature of some pictures, as an extraction would.

    Parameters
    ----------
    pictures : Pictures
        What to compute it of.
    backbone : Backbone
        The network.
    feature : Feature
        Which of its vectors.
    engine, device, batch_size, precision
        As for `extract.networks.Setup`.
    on_progress : callable, optional
        Called with pictures done, in all, and skipped.
    """
    from extract.engines import open_engine  # after `open_backbone` has said whether torch is there

    network = Network([feature])
    notes: list[str] = []
    rows: list[tuple[int, bytes, npt.NDArray[np.float32]]] = []
    skipped: list[Skipped] = []

    def start(_: int, first: list[Picture]) -> None:
        sample = np.stack([picture.inputs[network.recipes[0]] for picture in first])
        network.engine = open_engine(backbone, Setup(engine, device, batch_size, precision), sample)
        notes.extend(network.engine.notes)

    with decoding():
        items = flow(
            pictures,
            range(len(pictures)),
            [network],
            lacking=lambda _: [0],
            start=start,
            workers=available_cores(),
        )
        for item in items:
            if isinstance(item, Batch):
                for picture, vector in zip(item.pictures, item.vectors[0], strict=True):
                    if np.isfinite(vector).all():
                        rows.append((picture.index, picture.digest, vector))
                    else:
                        reason = "the network gives NaN or infinity for it"
                        skipped.append(Skipped(pictures.title(picture.index), reason))
                continue
            if item.reason:
                skipped.append(Skipped(pictures.title(item.index), item.reason))
            if on_progress:
                on_progress(item.index + 1, len(pictures), len(skipped))
    return Embedding(
        indices=np.array([row[0] for row in rows], dtype=np.int64),
        vectors=np.array([row[2] for row in rows], dtype=np.float32),
        digests=[row[1] for row in rows],
        skipped=skipped,
        notes=notes,
    )
