"""Engines on GPUs, whose paths are walked with fakes, and their half precision."""

import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import ROOT
from engines_at_hand import CPU, PIXELS, Flat, Linear, backbone, cosines, devices

from data.errors import BackboneError, EngineError
from extract.clock import DeviceClock
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
        ("cuda:", "no device"),
        ("cpu:1", "no device"),
        ("mps:0", "no device"),
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
    with pytest.raises(EngineError, match=r"the engine torch in bf16 does not suit test/none/.*: use --precision auto"):
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
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: f"GPU {place[-1]}")
        monkeypatch.setattr(torch.cuda, "Stream", make_stream)
        monkeypatch.setattr(torch.cuda, "stream", on_stream)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda d: self.calls.append(("synchronize", d, None)))

    def of(self, kind):
        return [call[1:] for call in self.calls if call[0] == kind]


class Meeting(Flat):
    """Waits in its first pass for as many threads as are to compute at once."""

    def __init__(self, n):
        super().__init__()
        self.all_here = threading.Barrier(n, timeout=30)
        self.meet = True

    def forward(self, x):
        if self.meet:
            self.all_here.wait()
        return super().forward(x)


def at_once(call, n):
    with ThreadPoolExecutor(n) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(n)]]


@pytest.mark.parametrize(("device", "place"), [("cuda", "cuda:0"), ("cuda:1", "cuda:1")])
def test_the_cuda_path_pins_copies_without_waiting_and_has_a_stream_for_each_lane(monkeypatch, device, place):
    (reference,) = TorchEngine(backbone(Flat()), CPU).forward(PIXELS)
    cuda = FakeCuda(monkeypatch)
    network = Meeting(2)
    engine = TorchEngine(backbone(network), Setup(device=device, precision="float32"))
    assert (engine.name, engine.batch_size, engine.lanes) == ("torch/cuda", 128, 2)
    results = at_once(lambda: engine.forward(PIXELS), 2)
    assert engine.device == f"{place}, GPU {place[-1]}"
    network.meet = False
    for _ in range(3):  # threads of later flows
        results += at_once(lambda: engine.forward(PIXELS), 1)
    assert all(np.array_equal(result, reference) for (result,) in results)
    assert cuda.of("move") == [(place, torch.channels_last)]  # once
    assert cuda.of("synchronize") == [(place, None)]  # once, after the move
    assert len(cuda.of("pin")) == 5
    assert cuda.of("copy") == [(place, True)] * 5
    assert cuda.of("autocast") == []
    assert cuda.streams == [place, place]
    order = [call[0] for call in cuda.calls]
    assert order.index("synchronize") < order.index("stream") < order.index("pin") < order.index("copy")


def test_tf32_is_off_in_each_flow_of_an_engine_and_put_back_after_it(monkeypatch):
    FakeCuda(monkeypatch)
    engine = TorchEngine(backbone(Flat()), Setup(device="cuda", precision="float32"))
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    for switch in switches:
        switch.allow_tf32 = True  # put back by `settings_kept`
    for _ in range(2):
        with decoding():
            engine.forward(PIXELS)
            assert [switch.allow_tf32 for switch in switches] == [False, False]
        assert [switch.allow_tf32 for switch in switches] == [True, True]


def test_tf32_that_was_allowed_by_its_newer_name_is_put_back():
    code = """
import torch
from extract.flow import decoding
matmul = torch.backends.cuda.matmul
matmul.fp32_precision = "tf32"
with decoding():
    matmul.allow_tf32 = False
assert matmul.fp32_precision == "tf32"
"""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


class Small(Flat):
    """A network for whose passes the memory of the device is too small beyond some pictures."""

    def __init__(self, most):
        super().__init__()
        self.most, self.sizes = most, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().forward(x)


def test_a_batch_that_does_not_fit_is_computed_in_parts(monkeypatch):
    pixels = np.concatenate([PIXELS, PIXELS[::-1], PIXELS])
    (whole,) = TorchEngine(backbone(Flat()), CPU).forward(pixels)
    FakeCuda(monkeypatch)
    network = Small(3)
    engine = TorchEngine(backbone(network), Setup(device="cuda", precision="float32"))
    for _ in range(2):
        assert np.array_equal(engine.forward(pixels)[0], whole)
    assert network.sizes == [12, 6, *[3] * 8]  # what did not fit is not tried again
    assert engine.notes == [
        "cuda:0, GPU 0 has no room for test/none/penultimate's batches and computes them in parts: try a smaller "
        "--batch-size"
    ]
    with pytest.raises(BackboneError, match="failed on 1 picture of .* out of memory.*, --device cpu, or"):
        TorchEngine(backbone(Small(0)), Setup(device="cuda", precision="float32")).forward(pixels)


def test_a_device_that_does_not_take_the_network_is_named(monkeypatch):
    FakeCuda(monkeypatch)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(BackboneError, match=r"cannot be put on cuda:1, GPU 1 \(CUDA out of memory.*try --device cpu"):
        open_engine(backbone(Flat()), Setup(device="cuda:1"), PIXELS)


def test_casts_of_weights_are_not_shared_by_lanes():
    """One lane's stream may not have written them yet when another's reads them."""

    class Waiting(Linear):
        def forward(self, x):
            found = super().forward(x)
            first.set()
            go_on.wait(30)
            return found

    first, go_on = threading.Event(), threading.Event()
    network = Waiting(0.0)
    engine = TorchEngine(backbone(network), Setup(device="cpu", precision="bf16"))
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(engine.forward, PIXELS)
        assert first.wait(30)
        with torch.no_grad():
            network.layer.weight.zero_()
            network.layer.bias.fill_(3)
        late = pool.submit(engine.forward, PIXELS)
        go_on.set()
        assert (late.result()[0] == 3).all()
        assert not (early.result()[0] == 3).all()


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


def test_cuda_goes_back_to_float32_where_half_precision_fails(monkeypatch):
    class Whole(Flat):
        def forward(self, x):
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError('"pooling" not implemented for Half')
            return super().forward(x)

    FakeCuda(monkeypatch)
    engine = open_engine(backbone(Whole()), Setup(), PIXELS)
    assert (engine.precision, engine.forward(PIXELS)[0].shape) == ("float32", (4, 192))
    assert "not implemented for Half" in engine.notes[0]


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
    assert (engine.batch_size, engine.lanes, engine.notes) == (64, 1, [])
    assert np.array_equal(engine.forward(PIXELS)[0], TorchEngine(backbone(Flat()), CPU).forward(PIXELS)[0])
    assert moved == [False]
    meeting = Meeting(2)  # of two networks, whose threads Metal would not survive
    meeting.all_here = threading.Barrier(2, timeout=0.3)
    engines = [TorchEngine(backbone(meeting), Setup(device="mps")) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        failed = [pool.submit(engine.forward, PIXELS).exception() for engine in engines]
    assert all("BrokenBarrierError" in str(error) for error in failed)


def test_the_work_of_lanes_that_overlap_adds_up_to_what_the_device_was_busy(monkeypatch):
    class Slow(Flat):
        def forward(self, x):
            if both.wait(30) == 0:  # one of the two lanes, while both compute
                now[0] += 1
            both.wait(30)
            return super().forward(x)

    now, both = [0.0], threading.Barrier(2)
    monkeypatch.setattr("extract.engines._CLOCKS", {"cuda": DeviceClock(lambda: now[0])})
    FakeCuda(monkeypatch)
    engines = [TorchEngine(backbone(Slow()), Setup(device="cuda", precision="float32")) for _ in range(2)]
    work = []

    def lane(engine):
        for _ in range(3):
            began = engine.clock()
            begin.wait(30)
            engine.forward(PIXELS)
            end.wait(30)
            work.append(engine.clock() - began)

    begin, end = threading.Barrier(2), threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lane, engines))
    assert sum(work) == now[0] == 3
