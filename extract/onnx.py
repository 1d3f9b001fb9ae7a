"""ONNX Runtime on the CPU: the graph is exported once for each network and set of outputs, and kept in a cache."""

import contextlib
import dataclasses
import hashlib
import json
import platform
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data.errors import EngineError, MissingDependency, first_line
from data.provenance import version_of
from data.spec import FeatureSpec
from data.staging import write_atomically
from extract.backbones import Backbone
from extract.decode import Pixels
from extract.graph_cache import agreement_file, keep_graph, kept_graph
from extract.session import OPSET, PIXELS, open_session
from extract.zoo import INSTALL

# The exporter's version: whoever changes what is exported gives it another number, and caches start anew.
_EXPORT = 1


class OnnxEngine:
    """ONNX Runtime in float32.

    Parameters
    ----------
    backbone : Backbone
        What to run. Its graph is taken from the cache, or exported; one without a network is in the cache.
    batch_size, lanes, threads : int
        Pictures in a batch, batches at once, and threads for each.

    Raises
    ------
    EngineError
        If the network cannot be exported.
    MissingDependency
        If ONNX or its runtime is not installed.
    """

    name = "onnx/cpu"
    device = "cpu"
    precision = "float32"

    def __init__(self, backbone: Backbone, batch_size: int, lanes: int, threads: int) -> None:
        self.batch_size = batch_size
        self.lanes = lanes
        self.notes: list[str] = []
        self.clock = lambda: threads * time.thread_time()
        self._title = backbone.spec.title
        self._session = _session(backbone, threads)

    def forward(self, pixels: Pixels) -> tuple[Any, ...]:
        """Return each output, (B, dim) float32, for pictures (B, H, W, C) uint8.

        Raises
        ------
        EngineError
            If the graph fails on them.
        """
        try:
            return tuple(self._session.run(None, {PIXELS: np.ascontiguousarray(pixels)}))
        except Exception as error:  # the runtime's errors have no common class but this one
            raise EngineError(
                f"ONNX Runtime failed on {len(pixels)} pictures in {self._title} ({first_line(error)}): "
                "use --engine torch"
            ) from error


def note_agreement(specs: Sequence[FeatureSpec], automatic: bool) -> None:
    """Remember that the graph of a network agrees with PyTorch on this machine, in the runtime that is installed.

    Parameters
    ----------
    specs : sequence of FeatureSpec
        Of the network's outputs.
    automatic : bool
        Whether the engine ``auto`` on the device ``auto`` takes this one here: there is no GPU.
    """
    mark, words = agreement_file(_key(specs)), _agreement(automatic)
    with contextlib.suppress(OSError):  # the cache may be full or read-only: the next run compares again
        if not mark.exists() or mark.read_text() != words:
            mark.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(mark, words.encode())


def is_known(specs: Sequence[FeatureSpec], device: str) -> bool:
    """Whether the cache has the graph of a network, and it agreed with PyTorch here; imports no torch.

    Parameters
    ----------
    specs : sequence of FeatureSpec
        Of the network's outputs.
    device : str
        ``cpu``, or ``auto`` where that was found to be the CPU.
    """
    try:
        words = agreement_file(_key(specs)).read_text()
    except (OSError, ValueError):
        return False
    agreed = words == _agreement(True) or (device == "cpu" and words == _agreement(False))
    able = device in ("auto", "cpu") and bool(version_of("onnxruntime"))
    return agreed and able and kept_graph(_key(specs)) is not None


def _session(backbone: Backbone, threads: int) -> Any:
    try:
        if backbone.network is not None:
            import onnx  # noqa: F401  (the exporter needs it)
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"the engine onnx needs {error.name}, which is not installed: {INSTALL}") from None
    title = f"the graph of {backbone.spec.title}"
    problem = "it is not in the cache any more"
    for graph in _graphs(backbone):
        try:
            return open_session(graph, threads, title)
        except EngineError as error:
            problem = str(error)
    raise EngineError(f"{problem}: use --engine torch")


def _graphs(backbone: Backbone) -> Iterator[bytes]:
    """Yield the graph from the cache, if whole, and, should that not do, a new one, which then is in the cache."""
    key = _key(backbone.specs)
    cached = kept_graph(key)
    if cached is not None:
        yield cached
    if backbone.network is None:
        return
    graph = _export(backbone)
    keep_graph(key, graph)
    yield graph


def _key(specs: Sequence[FeatureSpec]) -> str:
    """Return a name for the graph: everything that decides it, which how pictures come to its input does not."""
    pixels: dict[str, Any] = {"resize": 0, "fit": "", "interpolation": "", "view": "", "decoder": ""}
    plain = [dataclasses.replace(spec, **pixels, color="rgb" if spec.color == "gray" else spec.color) for spec in specs]
    parts = [_EXPORT, OPSET, version_of("torch"), *(spec.canonical_json() for spec in plain)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _agreement(automatic: bool) -> str:
    # the cache may be shared by machines with a GPU and without
    return f"onnxruntime {version_of('onnxruntime')} on {platform.node()}{' by default' if automatic else ''}"


def _export(backbone: Backbone) -> bytes:
    from extract.graphs import Normalised, export_graph  # which need torch

    spec = backbone.spec
    network = backbone.network.to("cpu")
    module = Normalised(dataclasses.replace(backbone, network=network)).eval()
    names = [f"output{i}" for i in range(len(backbone.specs))]
    try:
        return export_graph(module, (*spec.crop, len(spec.mean)), names, spec.title)
    except EngineError as error:
        raise EngineError(f"{error}: use --engine torch") from None
