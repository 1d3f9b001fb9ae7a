"""Features of pictures without a store: what `predict` and `verify --sample` compute on the fly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import WeightsError
from data.images import Pictures
from data.spec import FeatureSpec, refuse_other
from data.views import Skipped
from extract.backbones import Backbone, Options, open_backbone
from extract.preprocess import pillow_settings
from extract.reader import Picture, read_pictures


def reopen_backbone(
    request: dict[str, Any], spec: FeatureSpec, weights_file: str, wants: str, named: str = ""
) -> Backbone:
    """Build the network that features of `spec` came from.

    Parameters
    ----------
    request : dict
        As `extract.backbones.request` made it.
    spec : FeatureSpec
        What the network must give.
    weights_file : str
        Where the weights were, if they came from a file; it may have moved since.
    wants : str
        Who needs the network, for messages.
    named : str
        Weights that the user names instead, as for `open_backbone`; the spec's digest says whether they fit.

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
    if named:
        weights = named
    elif "sha256" in source and not Path(weights_file).is_file():
        raise WeightsError(
            f"{wants} needs the weights of {spec.backbone} from a file, which is not at {weights_file or '(unknown)'}: "
            "name it with --weights FILE"
        )
    else:
        weights = weights_file if "sha256" in source else "random" if "random" in source else source["named"]
    changes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in request["options"].items()}
    backbone = open_backbone(request["backbone"], weights, Options(**changes), source.get("random", 0))
    refuse_other([backbone.spec], spec, f"network {request['backbone']} with weights {weights}", wants)
    return backbone


def embed(
    pictures: Pictures,
    backbone: Backbone,
    *,
    engine: str = "auto",
    device: str = "auto",
    batch_size: int = 0,
    workers: int = 2,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], list[bytes], list[Skipped]]:
    """Compute features of some pictures, as an extraction would.

    Parameters
    ----------
    pictures : Pictures
        What to compute them of.
    backbone : Backbone
        The network.
    engine, device, batch_size
        As for `extract.engines.open_engine`.
    workers : int
        Threads that read and decode.
    on_progress : callable, optional
        Called with pictures done, in all, and skipped.

    Returns
    -------
    indices : ndarray of shape (n,), int64
        Which of `pictures` have features.
    vectors : ndarray of shape (n, dim), float32
        Their features.
    digests : list of bytes
        Their contents.
    skipped : list of Skipped
        The others, with reasons.
    """
    from extract.engines import open_engine  # after `open_backbone` has said whether torch is there

    runner = open_engine(backbone, engine, device, batch_size)
    indices: list[int] = []
    digests: list[bytes] = []
    vectors: list[npt.NDArray[np.float32]] = []
    skipped: list[Skipped] = []
    batch: list[Picture] = []

    def forward() -> None:
        features = runner.forward(np.stack([p.pixels for p in batch if p.pixels is not None]))
        for picture, vector in zip(batch, features, strict=True):
            if np.isfinite(vector).all():
                indices.append(picture.index)
                digests.append(picture.digest)
                vectors.append(vector)
            else:
                skipped.append(Skipped(pictures.title(picture.index), "the network gives NaN or infinity for it"))
        batch.clear()

    with pillow_settings():
        ahead = 2 * runner.batch_size + workers
        for picture in read_pictures(pictures, range(len(pictures)), backbone.spec, (), workers=workers, ahead=ahead):
            if picture.pixels is None:
                skipped.append(Skipped(pictures.title(picture.index), picture.reason))
            else:
                batch.append(picture)
            if len(batch) == runner.batch_size:
                forward()
            if on_progress:
                on_progress(picture.index + 1, len(pictures), len(skipped))
        if batch:
            forward()
    return np.array(indices, dtype=np.int64), np.array(vectors), digests, skipped
