"""What runs a network: the only file that knows of devices; ONNX Runtime's side is in `extract.onnx`.

An engine turns uint8 pictures into float32 outputs. Entries of `ENGINES` differ in speed, and agree with each other
within `COSINE`; what a feature is, the spec alone decides.
"""

import contextlib
import dataclasses
import importlib.util
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from data.cores import available_cores
from data.errors import BackboneError, EngineError, MissingDependency, first_line
from data.words import counted
from extract import COSINE
from extract.backbones import Backbone
from extract.clock import DeviceClock
from extract.decode import Pixels
from extract.flow import BATCH_ON_CPU, share_cores
from extract.networks import Setup
from extract.tracing import HookedCut

Outputs = tuple[npt.NDArray[np.float32], ...]

# Pictures in a batch. On a CPU larger ones fall out of the caches; a GPU needs many to be busy.
_BATCH = {"cpu": BATCH_ON_CPU, "mps": 64, "cuda": 128}
_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = ("auto", "float32", *_AUTOCAST)
# Metal ends a process in which two threads give it work at once (pytorch#197805).
_METAL = threading.Lock()
# Of each device, for all engines on it.
_CLOCKS: dict[str, DeviceClock] = {}


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
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", wanted):
        raise BackboneError(f"no device {wanted!r}: use auto, cpu, cuda, cuda:1 or mps")
    kind, _, index = wanted.partition(":")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": mps}
    if not there[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise BackboneError(
            f"device {wanted} is not available to this PyTorch ({torch.__version__}): use --device auto"
        )
    return wanted


@dataclasses.dataclass
class TorchEngine:
    """PyTorch with channels-last memory; on CUDA with pinned memory, asynchronous copies and mixed precision.

    TF32 is off while it runs, so that float32 on a GPU equals a CPU's to about 1e-5. That and the thread counts of
    the threads that call `forward` are put back by `extract.flow.decoding`. A batch that does not fit into a device's
    memory is computed in parts, as are those after it, which changes no feature.

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
        self._place = choose_device(self.setup.device)
        kind = self._kind = self._place.partition(":")[0]
        self.device = self._place
        self.precision = self.setup.precision
        if self.precision == "auto":
            self.precision = "fp16" if kind == "cuda" else "float32"
        self.name = f"torch/{kind}"
        self.batch_size = self.setup.batch_size or _BATCH[kind]
        self.notes: list[str] = []
        # on CUDA the second batch is copied while the first is computed
        self.lanes, self._threads = share_cores(self.setup.cores) if kind == "cpu" else (2 if kind == "cuda" else 1, 1)
        if isinstance(self.backbone.network, HookedCut):  # which keeps the outputs of one pass in itself
            self.lanes, self._threads = 1, self.setup.cores or available_cores()
        self.clock: Callable[[], float] = lambda: self._threads * time.thread_time()
        self._busy: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        if kind != "cpu":
            clock = _CLOCKS.setdefault(self._place, DeviceClock())
            self.clock, self._busy = clock, clock.busy
        self._network: Any = None
        self._lock = threading.Lock()
        self._turn = _METAL if kind == "mps" else contextlib.nullcontext()
        self._streams: list[Any] = []  # those that no lane is using
        self._room = sys.maxsize  # pictures that the device's memory holds at once

    def prepare(self) -> None:
        """Move the network to the device, once.

        Raises
        ------
        BackboneError
            If the device does not take it.
        """
        with self._lock, self._turn:
            if self._network is not None:
                return
            try:
                network = self._move()
            except (RuntimeError, AssertionError) as error:
                title = self.backbone.spec.title
                raise BackboneError(
                    f"{title} cannot be put on {self.device} ({first_line(error)}): see `penult doctor`, or try "
                    "--device cpu"
                ) from error
            self._network = torch.compile(network) if self.setup.compile else network

    def _move(self) -> Any:
        if self._kind == "cuda":
            if ":" not in self._place:  # each thread has a current GPU of its own: a lane's may be another
                self._place = f"cuda:{torch.cuda.current_device()}"
            self.device = f"{self._place}, {torch.cuda.get_device_name(self._place)}"
        spec, float32 = self.backbone.spec, torch.float32
        network = self.backbone.network.to(self._place, memory_format=torch.channels_last)
        self._mean = torch.tensor(spec.mean, dtype=float32, device=self._place).view(1, -1, 1, 1)
        self._std = torch.tensor(spec.std, dtype=float32, device=self._place).view(1, -1, 1, 1)
        if self._kind == "cuda":
            torch.cuda.synchronize(self._place)  # the lanes' streams do not wait for the default one
        return network

    @contextlib.contextmanager
    def _stream(self) -> Iterator[None]:
        """Compute on a stream that no other lane uses, whose copies overlap with the layers of the other's batch.

        There are as many as lanes, however many threads come and go: the memory that one has used stays its own.
        """
        try:
            stream = self._streams.pop()
        except IndexError:
            stream = torch.cuda.Stream(self._place)  # type: ignore[no-untyped-call]
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            self._streams.append(stream)

    def forward(self, pixels: Pixels) -> Outputs:
        """Return each output, (B, dim) float32, for pictures (B, H, W, C) uint8.

        Raises
        ------
        BackboneError
            If the network fails on them.
        """
        self.prepare()
        if self._kind == "cpu" and torch.get_num_threads() != self._threads:  # of this thread
            torch.set_num_threads(self._threads)
        if self._kind == "cuda":  # each time: the engine may outlive a flow, which puts them back
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        parts: list[Outputs] = []
        row = 0
        while row < len(pixels):
            part = pixels[row : row + self._room]
            try:
                parts.append(self._compute(part))
            except (RuntimeError, AssertionError) as error:
                self._make_smaller(part, error)
            else:
                row += len(part)
        return parts[0] if len(parts) == 1 else tuple(np.concatenate(rows) for rows in zip(*parts, strict=True))

    def _compute(self, pixels: Pixels) -> Outputs:
        # (B, H, W, C) seen as (B, C, H, W) is channels_last already: nothing is copied
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._turn)
            stack.enter_context(self._busy())
            stack.enter_context(torch.inference_mode())
            if self._kind == "cuda":
                stack.enter_context(self._stream())
                batch = batch.pin_memory()
            if self.precision in _AUTOCAST:
                # it keeps no cast weights in inference mode: another lane's stream may not have written them yet
                stack.enter_context(torch.autocast(self._kind, _AUTOCAST[self.precision]))
            x = batch.to(self._place, non_blocking=self._kind == "cuda")
            x = x.float().div_(255).sub_(self._mean).div_(self._std)  # torchvision's ToTensor and Normalize
            return tuple(output.float().cpu().numpy() for output in self._network(x))

    def _make_smaller(self, pixels: Pixels, error: Exception) -> None:
        """Let batches be half of one that the device's memory did not hold.

        Raises
        ------
        BackboneError
            If it was anything else that went wrong, or a single picture.
        """
        title, n = self.backbone.spec.title, len(pixels)
        if self._kind == "cpu" or n == 1 or not re.search("out of memory|ALLOC_FAILED", str(error)):
            step = "leave out --compile" if self.setup.compile else "try another --input-size"
            device = "" if self._kind == "cpu" else ", --device cpu"
            raise BackboneError(
                f"{title} failed on {counted(n, 'picture')} of {pixels.shape[1:3]} ({first_line(error)}): "
                f"{step}{device}, or a smaller --batch-size"
            ) from error
        self._room = min(self._room, n // 2)
        note = f"{self.device} has no room for {title}'s batches and computes them in parts: try a smaller --batch-size"
        if note not in self.notes:
            self.notes.append(note)


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
    if setup.engine == "onnx" and setup.device == "auto":
        setup = dataclasses.replace(setup, device="cpu")
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
            reference.prepare()
            return reference
        problem = _disagreement(reference, engine, sample)
        if not problem:
            if name == "onnx":
                _note_agreement(backbone)
            return engine
    except (EngineError, MissingDependency) as error:
        if not automatic:
            raise
        problem = str(error)
    title = f"{name} in {engine.precision}" if name == "torch" else name
    if not automatic:
        step = "--precision auto" if name == "torch" else "--engine auto"
        raise EngineError(f"the engine {title} does not suit {backbone.spec.title}: {problem}: use {step}")
    reference.notes.append(f"the engine {title} was passed over for {reference.name}: {problem}")
    return reference


def _disagreement(reference: Engine, engine: Engine, sample: Pixels) -> str:
    """Return what keeps an engine from standing for the reference, or nothing."""
    expected = reference.forward(sample)
    try:
        least = agreement(expected, engine.forward(sample))
    except BackboneError as error:  # in this precision, or compiled
        return str(error)
    if least >= COSINE:
        return ""
    return f"its outputs have a cosine of {least:.5f} with the reference's, less than {COSINE}"


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
