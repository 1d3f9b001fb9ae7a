"""Engines on GPUs, whose paths are walked with fakes, and their half precision."""

import contextlib
import threading

import numpy as np
import pytest
import torch
from engines_at_hand import CPU, PIXELS, Flat, Linear, backbone, cosines, devices

from data.errors import BackboneError, EngineError
from extract.engines import Setup, TorchEngine, choose_device, open_engine
from extract.flow import decoding

pytestmark = pytest.mark.usefixtures("settings_kept")


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted", "chosen"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, True, "auto", "cuda"),
        (2, False, "cuda:1", "cuda:1"),
        (2, False, "cpu", "cpu"),
    ],
)
def test_the_device_is_the_fastest_there_is_or_the_one_named(monkeypatch, cuda, mps, wanted, chosen):
    devices(monkeypatch, cuda, mps)
    assert choose_device(wanted) == chosen


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("cuda", "not available"),
        ("cuda:5", "not available"),
        ("mps", "not available"),
        ("tpu", "no device 'tpu'"),
        ("cuda:x", "no device"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, wanted, words):
    devices(monkeypatch, cuda=2 if wanted == "cuda:5" else 0)
    with pytest.raises(BackboneError, match=words):
        choose_device(wanted)


def test_half_precision_is_used_where_it_agrees_with_float32():
    sample = PIXELS[:2]
    good = open_engine(backbone(Linear(0.0)), Setup(device="cpu", precision="bf16"), sample)
    assert (good.name, good.precision) == ("torch/cpu", "bf16")
    (ours,), (theirs,) = good.forward(sample), TorchEngine(backbone(Linear(0.0)), CPU).forward(sample)
    assert ours.dtype == np.float32
    assert not np.array_equal(ours, theirs)  # it was half precision
    assert cosines(ours, theirs).min() >= 0.9999


def test_half_precision_that_disagrees_is_an_error_where_it_was_named():
    alike = np.repeat(PIXELS[:1], 4, axis=0)
    alike[:, 0, 0] += np.arange(4, dtype=np.uint8)[:, None]  # differences that bf16 rounds away
    with pytest.raises(EngineError, match=r"the engine torch in bf16 does not suit test/none/.*: use --engine auto"):
        open_engine(backbone(Linear(1.0)), Setup(device="cpu", precision="bf16"), alike)
    assert open_engine(backbone(Linear(1.0)), Setup("torch", "cpu", precision="float32"), alike).precision == "float32"


class FakeCuda:
    """A CUDA device that is the CPU: what would run there is written down."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.streams = []
        devices(monkeypatch, cuda=2)
        real_to, real_module_to = torch.Tensor.to, torch.nn.Module.to
        real_tensor, real_autocast = torch.tensor, torch.autocast

        def to(tensor, *args, **kwargs):
            if args and str(args[0]).startswith("cuda"):
                self.calls.append(("copy", args[0], kwargs.get("non_blocking")))
                args = ("cpu", *args[1:])
            return real_to(tensor, *args, **kwargs)

        def module_to(module, device, **kwargs):
            self.calls.append(("move", device, kwargs.get("memory_format")))
            return real_module_to(module, "cpu", **kwargs)

        def pin(tensor):
            self.calls.append(("pin", None, None))
            return tensor

        def autocast(kind, dtype):
            self.calls.append(("autocast", kind, dtype))
            return real_autocast("cpu", torch.bfloat16)

        @contextlib.contextmanager
        def on_stream(stream):
            self.calls.append(("stream", stream, threading.get_ident()))
            yield

        def make_stream(device):
            self.streams.append(device)
            return len(self.streams)

        monkeypatch.setattr(torch.Tensor, "to", to)
        monkeypatch.setattr(torch.nn.Module, "to", module_to)
        monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
        monkeypatch.setattr(torch, "tensor", lambda *a, device=None, **k: real_tensor(*a, **k))
        monkeypatch.setattr(torch, "autocast", autocast)
        monkeypatch.setattr(torch.cuda, "Stream", make_stream)
        monkeypatch.setattr(torch.cuda, "stream", on_stream)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda d: self.calls.append(("synchronize", d, None)))

    def of(self, kind):
        return [call[1:] for call in self.calls if call[0] == kind]


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_the_cuda_path_pins_copies_without_waiting_and_has_a_stream_for_each_lane(monkeypatch, device):
    (reference,) = TorchEngine(backbone(Flat()), CPU).forward(PIXELS)
    cuda = FakeCuda(monkeypatch)
    tf32 = torch.backends.cudnn.allow_tf32
    with decoding():
        torch.backends.cudnn.allow_tf32 = True
        engine = TorchEngine(backbone(Flat()), Setup(device=device, precision="float32"))
        assert (engine.name, engine.device, engine.batch_size, engine.lanes) == ("torch/cuda", device, 128, 2)
        results = []
        for _ in range(2):
            thread = threading.Thread(target=lambda: results.extend(engine.forward(PIXELS) + engine.forward(PIXELS)))
            thread.start()
            thread.join()
        assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cudnn.allow_tf32 == tf32
    assert all(np.array_equal(result, reference) for result in results)
    assert cuda.of("move") == [(device, torch.channels_last)]  # once
    assert cuda.of("synchronize") == [(device, None)]  # once, after the move
    assert len(cuda.of("pin")) == 4
    assert cuda.of("copy") == [(device, True)] * 4
    assert cuda.of("autocast") == []
    assert cuda.streams == [device, device]
    assert [stream for stream, _ in cuda.of("stream")] == [1, 1, 2, 2]
    order = [call[0] for call in cuda.calls]
    assert order.index("synchronize") < order.index("stream") < order.index("pin") < order.index("copy")


def test_cuda_computes_in_half_precision_after_a_comparison(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    engine = open_engine(backbone(Linear(0.0)), Setup(), PIXELS[:2])
    assert (engine.name, engine.precision, engine.notes) == ("torch/cuda", "fp16", [])
    assert cuda.of("autocast") == [("cuda", torch.float16)]  # the reference had none
    bf16 = open_engine(backbone(Linear(0.0)), Setup(device="cuda", precision="bf16"), PIXELS[:2])
    assert bf16.precision == "bf16"
    assert cuda.of("autocast")[1:] == [("cuda", torch.bfloat16)]


def test_cuda_goes_back_to_float32_where_half_precision_disagrees(monkeypatch):
    FakeCuda(monkeypatch)
    alike = np.repeat(PIXELS[:1], 4, axis=0)
    alike[:, 0, 0] += np.arange(4, dtype=np.uint8)[:, None]
    for named in ("auto", "torch"):  # the precision was not named
        engine = open_engine(backbone(Linear(1.0)), Setup(named, "cuda"), alike)
        assert (engine.name, engine.precision) == ("torch/cuda", "float32")
        (note,) = engine.notes
        assert note.startswith("the engine torch in fp16 was passed over for torch/cuda: its outputs have a cosine of")
    with pytest.raises(EngineError, match="the engine torch in fp16 does not suit"):
        open_engine(backbone(Linear(1.0)), Setup("auto", "cuda", precision="fp16"), alike)


def test_the_mps_path_neither_pins_nor_waits_for_streams(monkeypatch):
    devices(monkeypatch, mps=True)
    moved = []
    real_to, real_module_to, real_tensor = torch.Tensor.to, torch.nn.Module.to, torch.tensor

    def to(tensor, *args, **kwargs):
        if args and args[0] == "mps":
            moved.append(kwargs.get("non_blocking"))
            args = ("cpu", *args[1:])
        return real_to(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.nn.Module, "to", lambda m, device, **k: real_module_to(m, "cpu", **k))
    monkeypatch.setattr(torch, "tensor", lambda *a, device=None, **k: real_tensor(*a, **k))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda _: pytest.fail("pinned for MPS"))
    engine = open_engine(backbone(Flat()), Setup(), PIXELS)
    assert (engine.name, engine.device, engine.precision) == ("torch/mps", "mps", "float32")
    assert (engine.batch_size, engine.lanes, engine.notes) == (64, 2, [])
    assert np.array_equal(engine.forward(PIXELS)[0], TorchEngine(backbone(Flat()), CPU).forward(PIXELS)[0])
    assert moved == [False]
