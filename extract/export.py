"""A head and its network in one file, held to what the head itself says: an ONNX graph, or PyTorch's own .pt2."""

import dataclasses
import io
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data import VERSION
from data.bundle import refuse_inside
from data.errors import EngineError, HeadError, MissingDependency, first_line
from data.images import Pictures
from data.spec import FeatureSpec
from data.staging import disk_full_hint, write_atomically
from data.tail import Exportable
from extract.backbones import Backbone
from extract.decode import Pixels
from extract.embed import reopen_all
from extract.fused import Fused
from extract.graphs import export_graph
from extract.licences import licence_of
from extract.model import (
    ABOUT,
    CLASSES,
    FORMAT_VERSION,
    LICENCE,
    PREPARED,
    PREPROCESSING,
    PROBABILITIES,
    OnnxModel,
)
from extract.networks import Feature
from extract.parity import Answer, Check, Probabilities
from extract.preprocess import recipes
from extract.session import OPSET, PIXELS
from extract.zoo import INSTALL

KINDS = (".onnx", ".pt2")


@dataclasses.dataclass(frozen=True)
class Export:
    """A file that was written, and how far it is from the head.

    Parameters
    ----------
    path : str
        The file.
    format : str
        ``onnx`` or ``pt2``.
    bytes : int
        Its size.
    opset : int or None
        Of the ONNX graph.
    head, kind : str
        What was exported.
    classes : list of str
    fingerprints : list of str
        Of the features that the head reads.
    licence : str
        Of the network's weights; empty where it is not known.
    difference : float
        Largest |p - q| of a class's probability between the head and the file.
    checked : int
        Pictures that this was measured on.
    checked_on : str
        ``pictures`` or ``drawn``.
    same_label : int
        Of how many of them both give the same class.
    seconds : float
    """

    path: str
    format: str
    bytes: int
    opset: int | None
    head: str
    kind: str
    classes: list[str]
    fingerprints: list[str]
    licence: str
    difference: float
    checked: int
    checked_on: str
    same_label: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return dataclasses.asdict(self)


def export_head(
    head: Exportable,
    path: Path,
    *,
    weights: Sequence[str] = (),
    projections: Sequence[str] = (),
    pictures: Pictures | None = None,
) -> Export:
    """Fuse a head with its network and write both as one file.

    The file is compared with PyTorch in float32 followed by the head itself, and only then written.

    Parameters
    ----------
    head : Exportable
        From `classify.tail.exportable`.
    path : Path
        ``.onnx`` or ``.pt2``; an old file is replaced at once or not at all.
    weights, projections : sequence of str
        As for `extract.embed.reopen_all`.
    pictures : Pictures, optional
        To compare on, of which some are taken; without them, drawn ones.

    Raises
    ------
    BundleError
        If the file would be in a bundle.
    HeadError
        If its features come from several networks, or the file's ending says nothing.
    SpecError
        If its features are of a view that is not made of the centre crop.
    WeightsError, ProjectionError, FingerprintMismatch
        If the network cannot be built again.
    EngineError
        If it cannot be exported, or the export says something else than the head; nothing is written.
    MissingDependency
        If torch, or for a graph onnx or onnxruntime, is not installed.
    DiskFull
        If it does not fit.
    """
    began = time.perf_counter()
    refuse_inside(path)
    kind = _kind(head, path)
    backbone, features = _network_of(head, weights, projections)
    fused = Fused(backbone, features, _widths(backbone), head.tail).eval()
    (prepared,) = recipes(_prepared(backbone.spec))
    check = Check.of(head, backbone, features, prepared, pictures)
    made = _FORMATS[kind](fused, _shape(backbone.spec), f"{head.name} on {backbone.spec.title}")
    difference, same = check.compare(head.name, made.answer)
    metadata = _metadata(head, backbone, features, {"difference": difference, "checked": len(check.expected)})
    content = made.content(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_hint(path, len(content)):
        write_atomically(path, content)
    return Export(
        path=str(path),
        format=kind.removeprefix("."),
        bytes=len(content),
        opset=OPSET if kind == ".onnx" else None,
        head=head.name,
        kind=head.kind,
        classes=head.classes,
        fingerprints=[feature.spec.fingerprint for feature in features],
        licence=metadata[LICENCE],
        difference=difference,
        checked=len(check.expected),
        checked_on="drawn" if check.drawn else "pictures",
        same_label=same,
        seconds=time.perf_counter() - began,
    )


def _kind(head: Exportable, path: Path) -> str:
    if path.suffix not in KINDS:
        raise HeadError(f"{path} does not say what to write: end it in {' or '.join(KINDS)}")
    if path.is_dir() or os.path.realpath(path) == os.path.realpath(head.name):
        raise HeadError(f"{path} is {'a folder' if path.is_dir() else 'the head itself'}: name another file with -o")
    if path.suffix == ".onnx":
        for package in ("onnx", "onnxruntime"):
            try:
                __import__(package)
            except ImportError:
                raise MissingDependency(f"an ONNX graph needs {package}, which is not installed: {INSTALL}") from None
    return path.suffix


def _network_of(head: Exportable, weights: Sequence[str], projections: Sequence[str]) -> tuple[Backbone, list[Feature]]:
    """Build the one network that a head's features come from."""
    names = list(dict.fromkeys(source.spec.backbone for source in head.sources))
    opened = []
    if len(names) == 1:
        opened = reopen_all(head.sources, f"head {head.name}", weights=weights, projections=projections)
    if len(opened) != 1:
        raise HeadError(
            f"{head.name} reads features of several networks or of several preprocessings of one ({', '.join(names)}), "
            "and a graph has one input: fit a head on the features of one network with --features, or keep predicting "
            "from the head"
        )
    backbone, found = opened[0]
    by_print = {feature.spec.fingerprint: feature for feature in found}
    return backbone, [by_print[source.spec.fingerprint] for source in head.sources]


def _widths(backbone: Backbone) -> list[int]:
    spec = backbone.spec
    with torch.inference_mode():
        outputs = backbone.network.to("cpu")(torch.zeros(1, len(spec.mean), *spec.crop))
    return [int(output.shape[1]) for output in outputs]


def _prepared(spec: FeatureSpec) -> FeatureSpec:
    """Return what the graph takes of a picture: the centre crop, in colour; the rest it makes itself."""
    return dataclasses.replace(spec, color="rgba" if spec.color == "rgba" else "rgb", view="center")


def _shape(spec: FeatureSpec) -> tuple[int, int, int]:
    """Return height, width and channels of what the graph takes of a picture."""
    return (*spec.crop, 4 if spec.color == "rgba" else 3)


def _metadata(
    head: Exportable, backbone: Backbone, features: Sequence[Feature], parity: dict[str, float]
) -> dict[str, str]:
    """Return what the file says of itself, docs/onnx.md."""
    spec, prepared = backbone.spec, _prepared(backbone.spec)
    preprocessing = {
        **{name: getattr(prepared, name) for name in PREPARED},
        "input": {"name": PIXELS, "dtype": "uint8", "shape": ["batch", *_shape(spec)]},
        "in_graph": {"scale": 1 / 255, "mean": spec.mean, "std": spec.std, "color": spec.color},
    }
    about = {
        "format": FORMAT_VERSION,
        "version": VERSION,
        "opset": OPSET,
        "features": [
            {"fingerprint": f.spec.fingerprint, "title": f.spec.title, "spec": json.loads(f.spec.canonical_json())}
            for f in features
        ],
        "head": {"kind": head.kind, "name": Path(head.name).name, **head.about},
        "parity": parity,
    }
    return {
        ABOUT: json.dumps(about, sort_keys=True),
        CLASSES: json.dumps(head.classes),
        PREPROCESSING: json.dumps(preprocessing, sort_keys=True),
        LICENCE: licence_of(head.sources[0]),
        "fingerprint": ",".join(feature.spec.fingerprint for feature in features),
    }


@dataclasses.dataclass(frozen=True)
class _Made:
    """An export before it is written.

    Parameters
    ----------
    answer : callable
        What it says of pictures.
    content : callable
        Its file with some metadata.
    """

    answer: Answer
    content: Callable[[dict[str, str]], bytes]


def _onnx(fused: Fused, shape: tuple[int, int, int], title: str) -> _Made:
    graph = export_graph(fused, shape, (PROBABILITIES, "logits"), title)
    model = OnnxModel(title, graph)
    return _Made(
        lambda pixels: model.predict_proba(pixels).astype(np.float64),
        lambda metadata: with_metadata(graph, metadata),
    )


def _pt2(fused: Fused, shape: tuple[int, int, int], title: str) -> _Made:
    def saved(metadata: dict[str, str]) -> bytes:
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(program, file, extra_files={f"{key}.json": text for key, text in metadata.items()})
        return file.getvalue()

    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            batch = torch.export.Dim("batch", min=1, max=65_536)
            example = torch.zeros((2, *shape), dtype=torch.uint8)
            program = torch.export.export(fused, (example,), dynamic_shapes=({0: batch},))
            module = torch.export.load(io.BytesIO(saved({}))).module()
    except Exception as error:  # torch.export raises nearly anything on what it cannot follow
        raise EngineError(f"{title} cannot be exported by torch.export ({first_line(error)}): write .onnx") from None

    def answer(pixels: Pixels) -> Probabilities:
        with torch.inference_mode():
            found: Probabilities = module(torch.from_numpy(pixels))[0].double().numpy()
        return found

    return _Made(answer, saved)


_FORMATS: dict[str, Callable[[Fused, tuple[int, int, int], str], _Made]] = {".onnx": _onnx, ".pt2": _pt2}


def with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """Return a graph that says of itself what `metadata` says, and nothing else."""
    import onnx

    model = onnx.load_from_string(content)
    model.producer_name, model.producer_version = "penult", VERSION
    onnx.helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())
