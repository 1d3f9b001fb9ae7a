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
import numpy.typing as npt
import torch

from data import VERSION
from data.errors import EngineError, HeadError, MissingDependency, first_line
from data.images import Pictures
from data.spec import FeatureSpec
from data.staging import disk_full_hint, write_atomically
from data.tail import Exportable
from extract.backbones import Backbone
from extract.decode import Pixels
from extract.embed import reopen_all
from extract.engines import TorchEngine
from extract.flow import decoding
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
from extract.networks import Feature, Inputs, Network, Setup
from extract.preprocess import recipes, to_inputs
from extract.reader import read_picture
from extract.session import OPSET, PIXELS

# Largest difference of a probability, beyond which an export is refused; float32 explains some 1e-6.
TOLERANCE = 1e-4
# Pictures that the export is compared on: ten times as many find no larger difference, and cost ten times as much.
CHECKED = 64
KINDS = (".onnx", ".pt2")
_INSTALL = "install it with `pip install 'penult[extract]'`"

Probabilities = npt.NDArray[np.float64]


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
    kind = _kind(head, path)
    backbone, features = _network_of(head, weights, projections)
    fused = Fused(backbone, features, _widths(backbone), head.tail).eval()
    check = _Check.of(head, backbone, features, pictures)
    metadata = _metadata(head, backbone, features)
    content, answer = _FORMATS[kind](fused, metadata, f"{head.name} on {backbone.spec.title}")
    difference, same = check.compare(head.name, answer)
    about = {**json.loads(metadata[ABOUT]), "parity": {"difference": difference, "checked": len(check.expected)}}
    metadata[ABOUT] = json.dumps(about, sort_keys=True)
    if kind == ".onnx":
        content = with_metadata(content, metadata)
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
                raise MissingDependency(f"an ONNX graph needs {package}, which is not installed: {_INSTALL}") from None
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


def _metadata(head: Exportable, backbone: Backbone, features: Sequence[Feature]) -> dict[str, str]:
    """Return what the file says of itself, docs/onnx.md."""
    spec, prepared = backbone.spec, _prepared(backbone.spec)
    preprocessing = {
        **{name: getattr(prepared, name) for name in PREPARED},
        "input": {"name": PIXELS, "dtype": "uint8", "shape": ["batch", *spec.crop, 4 if spec.color == "rgba" else 3]},
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
    }
    return {
        ABOUT: json.dumps(about, sort_keys=True),
        CLASSES: json.dumps(head.classes),
        PREPROCESSING: json.dumps(preprocessing, sort_keys=True),
        LICENCE: licence_of(head.sources[0]),
        "fingerprint": ",".join(feature.spec.fingerprint for feature in features),
    }


Answer = Callable[[Pixels], Probabilities]


def _onnx(fused: Fused, metadata: dict[str, str], title: str) -> tuple[bytes, Answer]:
    *size, channels = json.loads(metadata[PREPROCESSING])["input"]["shape"][1:]
    content = export_graph(fused, (*size, channels), (PROBABILITIES, "logits"), title)
    model = OnnxModel(title, content)
    return content, lambda pixels: model.predict_proba(pixels).astype(np.float64)


def _pt2(fused: Fused, metadata: dict[str, str], title: str) -> tuple[bytes, Answer]:
    shape = json.loads(metadata[PREPROCESSING])["input"]["shape"][1:]
    file = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            batch = torch.export.Dim("batch", min=1, max=65_536)
            example = torch.zeros((2, *shape), dtype=torch.uint8)
            program = torch.export.export(fused, (example,), dynamic_shapes=({0: batch},))
            torch.export.save(program, file, extra_files={f"{key}.json": text for key, text in metadata.items()})
            module = torch.export.load(io.BytesIO(file.getvalue())).module()
    except Exception as error:  # torch.export raises nearly anything on what it cannot follow
        raise EngineError(f"{title} cannot be exported by torch.export ({first_line(error)}): write .onnx") from None

    def answer(pixels: Pixels) -> Probabilities:
        with torch.inference_mode():
            found: Probabilities = module(torch.from_numpy(pixels))[0].double().numpy()
        return found

    return file.getvalue(), answer


_FORMATS: dict[str, Callable[[Fused, dict[str, str], str], tuple[bytes, Answer]]] = {".onnx": _onnx, ".pt2": _pt2}


def with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """Return a graph that says of itself what `metadata` says, and nothing else."""
    import onnx

    model = onnx.load_from_string(content)
    model.producer_name, model.producer_version = "penult", VERSION
    onnx.helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


@dataclasses.dataclass(frozen=True)
class _Check:
    """Pictures as the graph takes them, (n, h, w, c) uint8, and what the head says of each, (n, k)."""

    pixels: Pixels
    expected: Probabilities
    drawn: bool

    @classmethod
    def of(
        cls, head: Exportable, backbone: Backbone, features: Sequence[Feature], pictures: Pictures | None
    ) -> "_Check":
        """Run the reference, PyTorch in float32 and then the head, on some pictures."""
        network = Network(features)
        (prepared,) = recipes(_prepared(backbone.spec))
        wanted = tuple(dict.fromkeys((prepared, *network.recipes)))
        with decoding():
            found = _read(pictures, wanted) if pictures is not None else []
            inputs = found or [dict(zip(wanted, to_inputs(p, wanted, b""), strict=True)) for p in _drawn()]
            network.engine = TorchEngine(backbone, Setup("torch", "cpu", precision="float32"))
            parts = [network.compute(inputs[i : i + 8]) for i in range(0, len(inputs), 8)]
        vectors = np.concatenate([np.concatenate(part, axis=1) for part in parts])
        return cls(np.stack([i[prepared] for i in inputs]), head.predict_proba(vectors), not found)

    def compare(self, name: str, answer: Answer) -> tuple[float, int]:
        """Return the largest difference of a probability, and of how many pictures the class is the same.

        Raises
        ------
        EngineError
            If the difference is too large.
        """
        # batches of five and what is left, and one alone: the number of pictures must not matter
        parts = [answer(self.pixels[i : i + 5]) for i in range(0, len(self.pixels), 5)]
        parts[0][0] = answer(self.pixels[:1])[0]
        found = np.concatenate(parts)
        difference = float(np.abs(found - self.expected).max())
        if not difference <= TOLERANCE:
            raise EngineError(
                f"the export of {name} is off by {difference:.1e} in a probability, measured on {len(self.pixels)} "
                f"pictures, where {TOLERANCE:.0e} is allowed: nothing was written; predict from the head itself"
            )
        return difference, int((found.argmax(axis=1) == self.expected.argmax(axis=1)).sum())


def _read(pictures: Pictures, wanted: tuple[Any, ...]) -> list[Inputs]:
    """Return up to `CHECKED` pictures, evenly over all, that can be read."""
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(CHECKED, len(pictures))).round().astype(int))
    read = [read_picture(pictures, i, lambda _: wanted) for i in chosen.tolist()]
    return [picture.inputs for picture in read if picture.inputs]


def _drawn() -> list[Pixels]:
    """Return pictures of soft colours with fine noise, of many sizes: in contrast and brightness all kinds."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(CHECKED):
        height, width = rng.integers(120, 400, 2).tolist()
        steps = rng.integers(2, 12)
        coarse = rng.normal(size=(steps, steps, 3)) * rng.uniform(20, 90)
        rows, columns = (np.arange(n) * steps // n for n in (height, width))
        noise = rng.normal(size=(height, width, 3)) * rng.uniform(0, 40)
        opaque = np.full((height, width, 1), 255.0)
        colours = rng.uniform(60, 200, 3) + coarse[rows][:, columns] + noise
        drawn.append(np.concatenate([colours, opaque], axis=2).clip(0, 255).astype(np.uint8))
    return drawn
