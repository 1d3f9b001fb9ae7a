"""ONNX Runtime on the CPU: the graph is exported once for each network and set of outputs, and kept in a cache."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from data.errors import EngineError, MissingDependency, first_line
from data.staging import write_atomically
from extract.at_hand import graph_folder
from extract.backbones import Backbone
from extract.decode import Pixels

_OPSET = 17
# The exporter's version: whoever changes what is exported gives it another number, and caches start anew.
_EXPORT = 1
_INSTALL = "install it with `pip install 'penult[extract]'`"


class OnnxEngine:
    """ONNX Runtime in float32.

    Parameters
    ----------
    backbone : Backbone
        What to run. Its graph is taken from the cache, or exported.
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
            return tuple(self._session.run(None, {"pixels": np.ascontiguousarray(pixels)}))
        except Exception as error:  # the runtime's errors have no common class but this one
            raise EngineError(
                f"ONNX Runtime failed on {len(pixels)} pictures in {self._title} ({first_line(error)}): "
                "use --engine torch"
            ) from error


class _Exported(nn.Module):
    """A network from uint8 pictures (B, H, W, C): normalisation is a part of the graph."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.network = backbone.network
        self.register_buffer("mean", torch.tensor(backbone.spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.spec.std).view(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> Any:
        x = pixels.permute(0, 3, 1, 2).float() / 255
        return self.network((x - self.mean) / self.std)


def _session(backbone: Backbone, threads: int) -> Any:
    try:
        import onnx  # noqa: F401  (the exporter needs it)
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(f"the engine onnx needs {error.name}, which is not installed: {_INSTALL}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings are of graph optimisations
    # threads that spin while they wait would take the cores from decoding
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = graph_folder() / "onnx" / f"{_key(backbone)}.graph"
    for graph in _graphs(backbone, path):
        try:
            return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common class but this one
            problem = first_line(error)
    raise EngineError(f"ONNX Runtime does not take the graph of {backbone.spec.title} ({problem}): use --engine torch")


def _graphs(backbone: Backbone, path: Path) -> Iterator[bytes]:
    """Yield the graph from the cache, if whole, and, should that not do, a new one, which then is in the cache.

    A cached file is the graph behind its SHA-256.
    """
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        digest, graph = content[:32], content[32:]
        if hashlib.sha256(graph).digest() == digest:
            yield graph
    graph = _export(backbone)
    with contextlib.suppress(OSError):  # the cache may be full or read-only: the next run exports again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, hashlib.sha256(graph).digest() + graph)
    yield graph


def _key(backbone: Backbone) -> str:
    """Return a name for the graph: everything that decides it, which how pictures come to its input does not."""
    pixels: dict[str, Any] = {"resize": 0, "fit": "", "interpolation": "", "color": "", "view": "", "decoder": ""}
    specs = [dataclasses.replace(spec, **pixels) for spec in backbone.specs]
    parts = [_EXPORT, _OPSET, torch.__version__, *(spec.canonical_json() for spec in specs)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _export(backbone: Backbone) -> bytes:
    spec = backbone.spec
    example = torch.zeros((2, *spec.crop, len(spec.mean)), dtype=torch.uint8)
    names = [f"output{i}" for i in range(len(backbone.specs))]
    file: Any = io.BytesIO()
    network = backbone.network.to("cpu")
    try:
        with warnings.catch_warnings(), _quiet_exporter():
            warnings.simplefilter("ignore")  # of the exporter's age, and of shapes that are constant on purpose
            torch.onnx.export(
                _Exported(dataclasses.replace(backbone, network=network)).eval(),
                (example,),
                file,
                dynamo=False,
                opset_version=_OPSET,
                input_names=["pixels"],
                output_names=names,
                dynamic_axes={name: {0: "batch"} for name in ("pixels", *names)},
            )
    except Exception as error:  # the exporter raises nearly anything on an operation that it does not know
        raise EngineError(
            f"{spec.title} cannot be exported to ONNX ({first_line(error)}): use --engine torch"
        ) from None
    return cast(bytes, file.getvalue())


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep what the exporter prints before it fails, the whole graph, out of standard output, where --json may write.

    It does so from C++, so the file descriptor itself looks elsewhere meanwhile.
    """
    try:
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # a process without standard output
        yield
        return
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
