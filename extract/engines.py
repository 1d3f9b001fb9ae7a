"""What runs a network: the only file that knows of devices; ONNX Runtime's side is in `extract.onnx`.

An engine turns uint8 pictures into float32 outputs. Entries of `ENGINES` differ in speed, and agree with each other
within `COSINE`; what a feature is, the spec alone decides.
"""

import contextlib
import dataclasses
import importlib.util
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from data.cores import available_cores
from data.errors import BackboneError, EngineError, MissingDependency, first_line
from extract import COSINE
from extract.backbones import Backbone
from extract.decode import Pixels
from extract.flow import BATCH_ON_CPU, share_cores
from extract.networks import Setup
from extract.tracing import HookedCut

Outputs = tuple[npt.NDArray[np.float32], ...]

# Pictures in a batch. On a CPU larger ones fall out of the caches; a GPU needs many to be busy.
_BATCH = {"cpu": BATCH_ON_CPU, "mps": 64, "cuda": 128}
_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = ("auto", "float32", *_AUTOCAST)


class Engine(Protocol):
    """Runs one backbone.

    Attributes
    ----------
    name, device, precision : str
        For the provenance.
    batch_size : int
        Pictures in a batch.
    lanes : int
        How many batches may be run at once, each in a thread of the caller's.
    clock : callable
        Seconds, whose difference around `forward` is the work that it was.
    notes : list of str
        What a user would want to know.
    """

    name: str
    device: str
    precision: str
    batch_size: int
    lanes: int
    clock: Callable[[], float]
    notes: list[str]

    def forward(self, pixels: Pixels) -> Outputs:
        """Return each output, (B, dim) float32, for pictures (B, H, W, C) uint8."""


def choose_device(wanted: str = "auto") -> str:
    """Return the device to run on: CUDA before MPS before the CPU.

    Raises
    ------
    BackboneError
        If `wanted` names a device that is not there.
    """
    mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    kind, _, index = wanted.partition(":")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": mps}
    if kind not in there or (index and not index.isdigit()):
        raise BackboneError(f"no device {wanted!r}: use auto, cpu, cuda, cuda:1 or mps")
    if not there[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise BackboneError(
            f"device {wanted} is not available to this PyTorch ({torch.__version__}): use --device auto"
        )
    return wanted


@dataclasses.dataclass
class TorchEngine:
    """PyTorch with channels-last memory; on CUDA with pinned memory, asynchronous copies and mixed precision.

    TF32 is off while it runs, so that float32 on a GPU equals a CPU's to about 1e-5. That and the thread counts of
    the threads that call `forward` are put back by `extract.flow.decoding`.

    Parameters
    ----------
    backbone : Backbone
        Its network is moved to the device; parameters, buffers and mode stay as they are.
    setup : Setup
        How to run it.
    """

    backbone: Backbone
    setup: Setup = dataclasses.field(default_factory=Setup)

    def __post_init__(self) -> None:
        self.device = choose_device(self.setup.device)
        kind = self.device.partition(":")[0]
        self.precision = self.setup.precision
        if self.precision == "auto":
            self.precision = "fp16" if kind == "cuda" else "float32"
        self.name = f"torch/{kind}"
        self.batch_size = self.setup.batch_size or _BATCH[kind]
        self.notes: list[str] = []
        # on a GPU the second batch is copied while the first is computed
        self.lanes, self._threads = share_cores(self.setup.cores) if kind == "cpu" else (2, 1)
        if isinstance(self.backbone.network, HookedCut):  # which keeps the outputs of one pass in itself
            self.lanes, self._threads = 1, self.setup.cores or available_cores()
        self.clock: Callable[[], float] = time.perf_counter
        if kind == "cpu":
            self.clock = lambda: self._threads * time.thread_time()
        self._network: Any = None
        self._lock = threading.Lock()
        self._lane = threading.local()

    def prepare(self) -> None:
        """Move the network to the device, once."""
        with self._lock:
            if self._network is not None:
                return
            spec = self.backbone.spec
            network = self.backbone.network.to(self.device, memory_format=torch.channels_last)
            self._mean = torch.tensor(spec.mean, device=self.device).view(1, -1, 1, 1)
            self._std = torch.tensor(spec.std, device=self.device).view(1, -1, 1, 1)
            if self.device.startswith("cuda"):
                torch.backends.cudnn.allow_tf32 = False
                torch.cuda.synchronize(self.device)  # the lanes' streams do not wait for the default one
            self._network = torch.compile(network) if self.setup.compile else network

    def _stream(self) -> Any:
        """Return the stream of this thread's lane: its copies overlap with the layers of the other's batch."""
        if not hasattr(self._lane, "stream"):
            self._lane.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._lane.stream)

    def forward(self, pixels: Pixels) -> Outputs:
        """Return each output, (B, dim) float32, for pictures (B, H, W, C) uint8.

        Raises
        ------
        BackboneError
            If the network fails on them.
        """
        self.prepare()
        kind = self.device.partition(":")[0]
        if kind == "cpu" and torch.get_num_threads() != self._threads:  # of this thread; `extract.flow` puts it back
            torch.set_num_threads(self._threads)
        # (B, H, W, C) seen as (B, C, H, W) is channels_last already: nothing is copied
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if kind == "cuda":
                stack.enter_context(self._stream())
                batch = batch.pin_memory()
            if self.precision in _AUTOCAST:
                stack.enter_context(torch.autocast(kind, _AUTOCAST[self.precision]))
            x = batch.to(self.device, non_blocking=kind == "cuda")
            x = x.float().div_(255).sub_(self._mean).div_(self._std)  # torchvision's ToTensor and Normalize
            try:
                outputs = self._network(x)
            except (RuntimeError, AssertionError) as error:
                raise BackboneError(
                    f"{self.backbone.spec.title} failed on {len(x)} pictures of {tuple(x.shape[2:])} "
                    f"({first_line(error)}): try another --input-size, or a smaller --batch-size"
                ) from error
            return tuple(output.float().cpu().numpy() for output in outputs)


def _onnx(backbone: Backbone, setup: Setup) -> Engine:
    from extract.onnx import OnnxEngine

    if choose_device(setup.device) != "cpu":
        raise BackboneError(f"the engine onnx runs on the CPU alone, not on {setup.device}: use --engine torch")
    if setup.precision not in ("auto", "float32"):
        raise BackboneError(f"the engine onnx computes in float32, not in {setup.precision}: use --engine torch")
    return OnnxEngine(backbone, setup.batch_size or _BATCH["cpu"], *share_cores(setup.cores))


def _note_agreement(backbone: Backbone) -> None:
    from extract.onnx import note_agreement

    note_agreement(backbone.specs, choose_device() == "cpu")


ENGINES: dict[str, Callable[[Backbone, Setup], Engine]] = {"torch": TorchEngine, "onnx": _onnx}


def open_engine(backbone: Backbone, setup: Setup, sample: Pixels) -> Engine:
    """Choose an engine, build it and try it on some pictures.

    ``auto`` takes ONNX Runtime on a CPU where it is installed, else PyTorch. Whatever is not PyTorch in float32 is
    compared with it on the sample; ``auto`` falls back to it where they do not agree, and says so in `notes`.

    Parameters
    ----------
    backbone : Backbone
        What to run.
    setup : Setup
        How.
    sample : ndarray of shape (B, H, W, C), uint8
        The first pictures.

    Raises
    ------
    EngineError
        If an engine or precision that was named cannot run this network, or does not agree with the reference.
    """
    if setup.engine == "auto" and (setup.precision not in ("auto", "float32") or setup.compile):
        setup = dataclasses.replace(setup, engine="torch")
    reference = TorchEngine(backbone, dataclasses.replace(setup, precision="float32", compile=False))
    name = setup.engine
    if name == "auto":
        on_cpu = choose_device(setup.device) == "cpu"
        name = "onnx" if on_cpu and all(importlib.util.find_spec(p) for p in ("onnx", "onnxruntime")) else "torch"
    automatic = setup.engine == "auto" or (name == "torch" and setup.precision == "auto")
    try:
        engine = ENGINES[name](backbone, setup)
        if engine.name == reference.name and engine.precision == "float32" and not setup.compile:
            return reference
        least = agreement(reference.forward(sample), engine.forward(sample))
        if least >= COSINE:
            if name == "onnx":
                _note_agreement(backbone)
            return engine
        problem = f"its outputs have a cosine of {least:.5f} with the reference's, less than {COSINE}"
    except (EngineError, MissingDependency) as error:
        if not automatic:
            raise
        problem = str(error)
    title = f"{name} in {engine.precision}" if name == "torch" else name
    if not automatic:
        raise EngineError(f"the engine {title} does not suit {backbone.spec.title}: {problem}: use --engine auto")
    reference.notes.append(f"the engine {title} was passed over for {reference.name}: {problem}")
    return reference


def agreement(ours: Outputs, theirs: Outputs) -> float:
    """Return the least cosine between the rows of two engines' outputs; rows that are NaN or zero in both agree.

    Outputs of different shapes have nothing in common: -1.
    """
    least = 1.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return -1.0
        x, y = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            cosine = (x * y).sum(axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
        alike = np.isclose(x, y, rtol=1e-2, atol=1e-6, equal_nan=True).all(axis=1)
        least = min(least, float(np.where(alike, 1.0, np.nan_to_num(cosine, nan=-1.0)).min(initial=1.0)))
    return least
