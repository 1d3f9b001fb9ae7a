"""Features of pictures without a store: what `predict`, `verify --sample` and the fit of components compute."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.cores import available_cores
from data.errors import ProjectionError, WeightsError
from data.images import Pictures
from data.spec import FeatureSpec, Source, refuse_other
from data.views import Skipped
from extract.backbones import Backbone
from extract.decode import Pixels
from extract.flow import BATCH_ON_CPU, Batch, decoding, flow, share_cores
from extract.networks import Feature, Floats, Network, Setup
from extract.onnx import OnnxEngine, is_known
from extract.options import Output
from extract.reader import Picture
from extract.wanted import Wanted, wanted_of

if TYPE_CHECKING:
    from extract.engines import Engine

# What of a request belongs to one feature, not to the network that several share.
_OF_ONE_FEATURE = ("layer", "pooling", "view", "projection", "normalize")


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
    widths : tuple of int
        How many columns each feature has; empty where no picture has any.
    """

    indices: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    digests: list[bytes]
    skipped: list[Skipped]
    notes: list[str]
    widths: tuple[int, ...] = ()


def reopen(
    request: dict[str, Any],
    spec: FeatureSpec,
    weights_file: str,
    wants: str,
    *,
    weights: str = "",
    projection: str = "",
) -> tuple[Backbone, Feature]:
    """Build the network that features of `spec` came from; see `reopen_all`, of which this is the case of one.

    Returns
    -------
    tuple of Backbone and Feature
    """
    given = [weights] if weights else []
    components = [projection] if projection else []
    ((backbone, (feature,)),) = reopen_all(
        [Source(spec, request, weights_file)], wants, weights=given, projections=components
    )
    return backbone, feature


def reopen_all(
    sources: Sequence[Source], wants: str, *, weights: Sequence[str] = (), projections: Sequence[str] = ()
) -> list[tuple[Backbone, list[Feature]]]:
    """Build the networks that some features came from; layers of one network share one.

    Parameters
    ----------
    sources : sequence of Source
        What each network must give, and the commands that gave it.
    wants : str
        Who needs the networks, for messages.
    weights : sequence of str
        Weights that the user names instead, as for `open_backbone`; the specs' digests say whether they fit. One for
        the only network, or for each network whose weights were a file, in the order of the sources.
    projections : sequence of str
        Files of the principal components, one for each source that has any.

    Returns
    -------
    list of tuple of Backbone and list of Feature
        Each network and what is wanted of it.

    Raises
    ------
    WeightsError
        If the weights were a file and it is not there, or `weights` are not as many as are needed.
    ProjectionError
        If `projections` are not as many as are needed.
    FingerprintMismatch
        If network and weights give other features, with the fields that differ.
    """
    unknown = next((source for source in sources if not source.request), None)
    if unknown:
        raise WeightsError(f"{wants} does not say which network its features came from: extract them with Penult")
    named = _weights_of(sources, wants, weights)
    components = _components_of(sources, wants, projections)
    together: dict[Wanted, list[tuple[Source, Wanted]]] = {}
    for source, where, file in zip(sources, named, components, strict=True):
        wanted = wanted_of(source.request, where, file)
        together.setdefault(_network_of(wanted), []).append((source, wanted))
    opened = []
    for network, members in together.items():
        outputs = [Output(wanted.layers[0], wanted.pooling) for _, wanted in members]
        backbone = network.open(outputs)
        features = []
        for source, wanted in members:
            found = {feature.spec.fingerprint: feature for feature in wanted.features(backbone)}
            where = f"network {network.backbone} with weights {network.weights}"
            refuse_other([feature.spec for feature in found.values()], source.spec, where, wants)
            features.append(found[source.spec.fingerprint])
        opened.append((backbone, features))
    return opened


def reopen_cached(sources: Sequence[Source], wants: str, device: str) -> list[tuple[Backbone, list[Feature]]] | None:
    """Return what `reopen_all` would, without building a network, where their graphs are in the cache; else None.

    Of features from a graph that agreed with PyTorch on this machine nothing else is needed, so that a prediction
    starts without torch. Components are files of their own, and are left to `reopen_all`.

    Parameters
    ----------
    sources, wants
        As for `reopen_all`.
    device : str
        Where they are to be computed.

    Raises
    ------
    WeightsError
        If the weights were a file and it is not there.
    """
    if any(not source.request or source.spec.projection for source in sources):
        return None
    _weights_of(sources, wants, ())
    together: dict[str, list[Source]] = {}
    for source in sources:
        of_network = {k: v for k, v in source.request.items() if k not in _OF_ONE_FEATURE}
        together.setdefault(json.dumps(of_network, sort_keys=True), []).append(source)
    opened = []
    for members in together.values():
        plain = [dataclasses.replace(source.spec, view="center", normalize="") for source in members]
        specs = tuple(dict.fromkeys(plain))
        if not is_known(specs, device):
            return None
        features = [
            Feature(source.spec, source.request, specs.index(spec)) for source, spec in zip(members, plain, strict=True)
        ]
        opened.append((Backbone(None, specs), features))
    return opened


def _start(backbone: Backbone, setup: Setup, sample: Pixels) -> "Engine":
    """Return what runs a network, or the graph of one that `reopen_cached` did not build."""
    if backbone.network is None:
        return OnnxEngine(backbone, setup.batch_size or BATCH_ON_CPU, *share_cores())
    from extract.engines import open_engine  # after `open_backbone` has said whether torch is there

    return open_engine(backbone, setup, sample)


def _weights_of(sources: Sequence[Source], wants: str, given: Sequence[str]) -> list[str]:
    """Return for each source what `open_backbone` calls its weights."""
    keys = [json.dumps([s.request["backbone"], s.request["weights"]], sort_keys=True) for s in sources]
    networks = dict(zip(keys, sources, strict=True))
    files = [key for key, source in networks.items() if "sha256" in source.request["weights"]]
    of = dict(zip(networks if len(networks) == 1 else files, given, strict=False))
    if len(given) > len(of) or (given and len(given) < len(files)):
        names = ", ".join(networks[key].spec.backbone for key in files) or "no network"
        raise WeightsError(
            f"{wants} needs files of weights for {names}, and {len(given)} were named: name --weights once for each, "
            "in this order"
        )
    for key, source in networks.items():
        asked = source.request["weights"]
        if key in of:
            continue
        if "sha256" in asked and not Path(source.weights_file).is_file():
            raise WeightsError(
                f"{wants} needs the weights of {source.spec.backbone} from a file, which is not at "
                f"{source.weights_file or '(unknown)'}: name it with --weights FILE"
            )
        of[key] = source.weights
    return [of[key] for key in keys]


def _components_of(sources: Sequence[Source], wants: str, given: Sequence[str]) -> list[str]:
    """Return for each source the file of its components, or nothing where it needs none or none was named."""
    needing = [i for i, source in enumerate(sources) if source.spec.projection.startswith("pca")]
    if given and len(given) != len(needing):
        raise ProjectionError(
            f"{wants} has {len(needing)} features of principal components, and {len(given)} files were named: name "
            "--projection once for each, in their order"
        )
    files = dict(zip(needing, given, strict=False))
    return [files.get(i, "") for i in range(len(sources))]


def _network_of(wanted: Wanted) -> Wanted:
    """Return what features must have in common to be outputs of one network."""
    alone = wanted.projection and not wanted.projection.startswith("random")  # components suit one layer
    return dataclasses.replace(
        wanted,
        layers=wanted.layers if alone else (),
        pooling=wanted.pooling if alone else "",
        views=(),
        average=False,
        projection=wanted.projection if alone else "",
        normalize="",
    )


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
    """Compute one feature of some pictures, as an extraction would; see `embed_all`."""
    return embed_all(
        pictures,
        [(backbone, [feature])],
        [feature.spec],
        engine=engine,
        device=device,
        batch_size=batch_size,
        precision=precision,
        on_progress=on_progress,
    )


def embed_all(
    pictures: Pictures,
    opened: Sequence[tuple[Backbone, Sequence[Feature]]],
    specs: Sequence[FeatureSpec],
    *,
    engine: str = "auto",
    device: str = "auto",
    batch_size: int = 0,
    precision: str = "auto",
    on_progress: Callable[[int, int, int], None] | None = None,
) -> Embedding:
    """Compute features of some pictures, side by side, in one pass over the files.

    Parameters
    ----------
    pictures : Pictures
        What to compute them of.
    opened : sequence of tuple of Backbone and sequence of Feature
        The networks, and which of their vectors.
    specs : sequence of FeatureSpec
        The order of the vectors.
    engine, device, batch_size, precision
        As for `extract.networks.Setup`.
    on_progress : callable, optional
        Called with pictures done, in all, and skipped.
    """
    networks = [Network(features) for _, features in opened]
    places = [feature.spec.fingerprint for _, features in opened for feature in features]
    order = [places.index(spec.fingerprint) for spec in specs]
    digests: dict[int, bytes] = {}
    parts: dict[int, list[list[Floats]]] = {}  # of each picture, what each network gave
    skipped: list[Skipped] = []

    def start(i: int, first: list[Picture]) -> None:
        sample = np.stack([picture.inputs[networks[i].recipes[0]] for picture in first])
        networks[i].engine = _start(opened[i][0], Setup(engine, device, batch_size, precision), sample)

    with decoding():
        items = flow(
            pictures,
            range(len(pictures)),
            networks,
            lacking=lambda _: range(len(networks)),
            start=start,
            workers=available_cores(),
        )
        for item in items:
            if isinstance(item, Batch):
                for row, picture in enumerate(item.pictures):
                    mine = parts.setdefault(picture.index, [[] for _ in networks])
                    mine[item.network] = [vectors[row] for vectors in item.vectors]
                continue
            if item.reason:
                skipped.append(Skipped(pictures.title(item.index), item.reason))
            digests[item.index] = item.digest
            if on_progress:
                on_progress(item.index + 1, len(pictures), len(skipped))
    notes = [note for network in networks if network.engine for note in network.engine.notes]
    rows, widths = _side_by_side(parts, order)
    finite = {index: row for index, row in rows.items() if np.isfinite(row).all()}
    reason = "the network gives NaN or infinity for it"
    skipped += [Skipped(pictures.title(index), reason) for index in rows if index not in finite]
    return Embedding(
        indices=np.array(list(finite), dtype=np.int64),
        vectors=np.array(list(finite.values()), dtype=np.float32),
        digests=[digests[index] for index in finite],
        skipped=skipped,
        notes=list(dict.fromkeys(notes)),
        widths=widths,
    )


def _side_by_side(
    parts: dict[int, list[list[Floats]]], order: Sequence[int]
) -> tuple[dict[int, Floats], tuple[int, ...]]:
    """Return the vector of each picture, in the order of the pictures, and the width of each feature in it."""
    rows: dict[int, Floats] = {}
    widths: tuple[int, ...] = ()
    for index in sorted(parts):
        blocks = [vector for given in parts[index] for vector in given]
        widths = tuple(len(blocks[place]) for place in order)
        rows[index] = np.concatenate([blocks[place] for place in order])
    return rows, widths
