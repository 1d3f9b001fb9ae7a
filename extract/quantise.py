"""Graphs with 8-bit weights, by ONNX Runtime's quantisation."""

import contextlib
import dataclasses
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.bundle import refuse_inside
from data.errors import EngineError, MissingDependency, first_line
from data.images import ImageSet, Pictures, Subset
from data.predictions import Prediction, Unread
from data.staging import disk_full_hint, write_atomically
from extract.decode import Pixels
from extract.export import with_metadata
from extract.flow import BATCH_ON_CPU, decoding
from extract.model import ABOUT, OnnxModel
from extract.preprocess import recipes
from extract.reader import read_some
from extract.session import PIXELS
from extract.zoo import INSTALL

OnProgress = Callable[[int, int, int], None]

METHODS = ("dynamic", "static")
# Pictures that the ranges of activations are measured on, and that speed is.
CALIBRATION, _TIMED = 128, 32
# What is the network's own; normalisation, projection, head and calibration are a hundredth of the work and stay as
# they are, or probabilities would come in steps.
_NETWORK = "/network/network/"


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model says of labelled pictures.

    Parameters
    ----------
    right : ndarray of shape (n,), bool
        Of which of them it names the class.
    probabilities : ndarray of shape (n, k), float32
        Of each class.
    bytes : int
        Size of its file.
    milliseconds : float
        Of the graph alone on one picture, in batches of four on one core.
    """

    right: npt.NDArray[np.bool_]
    probabilities: npt.NDArray[np.float32]
    bytes: int
    milliseconds: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """A model in float32 and in 8 bits, on the same pictures."""

    float32: Answers
    int8: Answers

    @property
    def difference(self) -> float:
        """Largest difference of a probability between the two."""
        return float(np.abs(self.float32.probabilities - self.int8.probabilities).max())


def write_int8(
    source: Path,
    path: Path,
    measured_on: ImageSet,
    rows: Sequence[int],
    calibration: Pictures | None = None,
    on_progress: OnProgress | None = None,
) -> Cost:
    """Write an exported model in 8 bits, and measure what that costs.

    Parameters
    ----------
    source : Path
        The model in float32.
    path : Path
        Where to; an old file is replaced at once or not at all.
    measured_on : ImageSet
        Labelled pictures.
    rows : sequence of int
        Which of them to measure on.
    calibration : Pictures, optional
        As for `quantise`, of which up to `CALIBRATION` are taken.
    on_progress : callable, optional
        Called with pictures classified, in all, and unread.

    Raises
    ------
    BundleError
        If the file would be in a bundle.
    EngineError
        If none of the pictures can be read, the graph cannot be quantised, or what comes of it is not finite; nothing
        is written.
    DiskFull
        If it does not fit.
    """
    refuse_inside(path)
    plain = OnnxModel(source)
    batches = None if calibration is None else _batches(plain, calibration)
    metadata = dict(plain.metadata)
    graph = with_metadata(quantise(source.read_bytes(), batches), metadata)
    sample = _prepared(plain, Subset(measured_on, rows), _TIMED)
    costs = []
    for i, (model, size) in enumerate(((plain, source.stat().st_size), (OnnxModel(path, graph), len(graph)))):

        def told(done: int, total: int, unread: int, i: int = i) -> None:
            if on_progress:
                on_progress(done + i * total, 2 * total, unread)

        costs.append(Answers(*_answers(model, measured_on, rows, told), size, _milliseconds(model, sample)))
    cost = Cost(*costs)
    if len(cost.int8.right) != len(cost.float32.right):
        raise EngineError("in 8 bits the network gives NaN or infinity for some pictures: export without --int8")
    about = plain.about
    about["parity"]["of"] = "float32"
    about["int8"] = {
        "difference": cost.difference,
        "method": "dynamic" if calibration is None else "static",
        "pictures": len(costs[0].right),
        "accuracy": float(costs[1].right.mean()),
        "accuracy_float32": float(costs[0].right.mean()),
    }
    content = with_metadata(graph, {**metadata, ABOUT: json.dumps(about, sort_keys=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_hint(path, len(content)):
        write_atomically(path, content)
    return cost


def _answers(
    model: OnnxModel, images: ImageSet, rows: Sequence[int], on_progress: OnProgress
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    truth = [images.classes[target] for target in images.targets[np.asarray(rows)].tolist()]
    items = list(model.predict(Subset(images, rows), on_progress))
    found = [item for item in items if isinstance(item, Prediction)]
    if not found:
        why = f" ({items[0].reason})" if items and isinstance(items[0], Unread) else ""
        raise EngineError(f"none of the {len(rows)} pictures could be read{why}: put them back where they were")
    return np.array([item.label == truth[item.index] for item in found]), np.stack([f.probabilities for f in found])


def _prepared(model: OnnxModel, pictures: Pictures, count: int) -> Pixels:
    """Return pictures as the model takes them, up to `count` of them, evenly over all."""
    (recipe,) = recipes(model.pixels)
    with decoding():
        found = read_some(pictures, count, (recipe,))
    if not found:
        raise EngineError("none of the pictures could be read: put them back where they were")
    return np.stack([inputs[recipe] for inputs in found])


def _batches(model: OnnxModel, pictures: Pictures) -> list[Pixels]:
    pixels = _prepared(model, pictures, CALIBRATION)
    return [pixels[i : i + BATCH_ON_CPU] for i in range(0, len(pixels), BATCH_ON_CPU)]


def _milliseconds(model: OnnxModel, pixels: Pixels) -> float:
    batches = [pixels[i : i + BATCH_ON_CPU] for i in range(0, len(pixels), BATCH_ON_CPU)]
    model.predict_proba(batches[0])
    times = []
    for batch in batches:
        began = time.perf_counter()
        model.predict_proba(batch)
        times.append(1000 * (time.perf_counter() - began) / len(batch))
    return float(np.median(times))


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
        raise MissingDependency(f"--int8 needs {error.name}, which is not installed: {INSTALL}") from None
    with tempfile.TemporaryDirectory(prefix="penult-int8-") as folder, _quiet():
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what it warns and logs of shapes that it does not know and leaves as they are."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class _Reader:
    """Batches as ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: Iterable[Pixels]) -> None:
        self._batches: Iterator[Pixels] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, or None."""
        batch = next(self._batches, None)
        return None if batch is None else {PIXELS: np.ascontiguousarray(batch)}
