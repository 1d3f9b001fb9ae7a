"""Graphs with 8-bit weights, by ONNX Runtime's quantisation."""

import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import EngineError, MissingDependency, first_line
from extract.decode import Pixels
from extract.session import PIXELS

METHODS = ("dynamic", "static")
# What is the network's own; normalisation, projection, head and calibration are a hundredth of the work and stay as
# they are, or probabilities would come in steps.
_NETWORK = "/network/network/"
_INSTALL = "install it with `pip install 'penult[extract]'`"


def quantise(graph: bytes, calibration: Iterable[Pixels] | None = None) -> bytes:
    """Return a graph whose convolutions and products have 8-bit weights, a scale for each channel.

    Parameters
    ----------
    graph : bytes
        An exported graph, float32.
    calibration : iterable of ndarray of shape (B, H, W, C), uint8, optional
        Pictures on which the range of every activation is measured once and for all (static); without them it is
        measured anew on every batch (dynamic).

    Raises
    ------
    MissingDependency
        If onnx or onnxruntime is not installed.
    EngineError
        If the graph cannot be quantised.
    """
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization import shape_inference
    except ImportError as error:
        raise MissingDependency(f"--int8 needs {error.name}, which is not installed: {_INSTALL}") from None
    with tempfile.TemporaryDirectory(prefix="penult-int8-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, made = Path(folder, "plain.onnx"), Path(folder, "int8.onnx")
        try:
            shape_inference.quant_pre_process(
                onnx.load_from_string(graph), plain, skip_optimization=True, skip_symbolic_shape=True
            )
            nodes = onnx.load(plain).graph.node
            others = [node.name for node in nodes if not node.name.startswith(_NETWORK)]
            if calibration is None:
                quantization.quantize_dynamic(
                    plain, made, per_channel=True, weight_type=quantization.QuantType.QInt8, nodes_to_exclude=others
                )
            else:
                quantization.quantize_static(
                    plain,
                    made,
                    _Reader(calibration),
                    quant_format=quantization.QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                    nodes_to_exclude=others,
                )
        except Exception as error:  # its errors have no common class but this one
            raise EngineError(f"the graph cannot be quantised ({first_line(error)}): export without --int8") from None
        return made.read_bytes()


class _Reader:
    """Batches as ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: Iterable[Pixels]) -> None:
        self._batches: Iterator[Pixels] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, or None."""
        batch = next(self._batches, None)
        return None if batch is None else {PIXELS: np.ascontiguousarray(batch)}
