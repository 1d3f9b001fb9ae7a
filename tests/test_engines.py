"""Engines: which one runs, that they agree, and what is done where they do not; GPU paths are walked with fakes."""

import contextlib
import dataclasses
import importlib.util
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.errors import BackboneError, EngineError, MissingDependency
from data.spec import FeatureSpec
from extract.at_hand import graph_folder
from extract.backbones import Backbone, open_backbone
from extract.engines import Setup, TorchEngine, agreement, choose_device, open_engine, share_cores
from extract.flow import decoding
from extract.onnx import OnnxEngine
from extract.options import Options

SPEC = FeatureSpec("torchvision/none", "sha256:00", crop=(8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)


CPU = Setup(device="cpu")
TORCH = Setup("torch", "cpu")


class Flat(torch.nn.Module):
    def forward(self, x):
        self.seen = x
        return (x.flatten(1),)


class Linear(torch.nn.Module):
    """One layer, which autocast computes in half precision; `scale` decides whether that is good enough."""

    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(192, 8)
        self.scale = scale

    def forward(self, x):
        features = self.layer(x.flatten(1))
        return ((features - self.scale * features.mean(0)),)


def backbone(network, name="none"):
    return Backbone(network.eval(), (dataclasses.replace(SPEC, backbone=f"test/{name}"),))


def cosines(ours, theirs):
    return (ours * theirs).sum(1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))


@pytest.fixture(autouse=True)
def settings_kept():
    """Put back what engines set for their threads, as `extract.flow` does."""
    with decoding():
        yield


@pytest.fixture(scope="module")
def resnet():
    return open_backbone("timm/test_resnet", "random", Options(input_size=64))


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PENULT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/onnx"


def devices(monkeypatch, cuda=0, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: mps))


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


def test_pixels_are_normalised_as_torchvision_does_and_laid_out_channels_last():
    from torchvision.transforms import functional as F

    network = Flat()
    (got,) = TorchEngine(backbone(network), CPU).forward(PIXELS)
    expected = torch.stack([F.normalize(F.to_tensor(p), SPEC.mean, SPEC.std) for p in PIXELS])
    assert np.array_equal(got.reshape(expected.shape), expected.numpy())
    assert network.seen.is_contiguous(memory_format=torch.channels_last)
    assert not network.seen.requires_grad


def test_every_output_comes_back_in_its_place():
    class Two(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x.amax((2, 3))

    for engine in ("torch", "onnx"):
        mean, most = open_engine(backbone(Two(), "two"), Setup(engine, "cpu"), PIXELS).forward(PIXELS)
        assert mean.shape == most.shape == (4, 3)
        assert mean.dtype == most.dtype == np.float32
        assert (mean < most).all()


def test_a_cpu_runs_onnx_by_default_and_agrees_with_torch(resnet, photos):
    # This changed on purpose: the default engine on a CPU was torch.
    engine = open_engine(resnet, Setup(), photos)
    assert (engine.name, engine.device, engine.precision, engine.notes) == ("onnx/cpu", "cpu", "float32", [])
    reference = open_engine(resnet, TORCH, photos)
    assert (reference.name, reference.precision) == ("torch/cpu", "float32")
    for n in (1, 3, 8):
        (ours,), (theirs,) = engine.forward(photos[:n]), reference.forward(photos[:n])
        assert ours.dtype == np.float32
        assert ours.shape == theirs.shape == (n, 96)
        assert cosines(ours, theirs).min() >= 0.99999
        assert (np.linalg.norm(ours - theirs, axis=1) < 1e-3 * np.linalg.norm(theirs, axis=1)).all()


def test_onnx_agrees_with_torch_on_real_weights_and_pictures(real_data, real_weights):
    from extract.decode import decode
    from extract.preprocess import recipes, to_inputs

    opened = open_backbone("mobilenet_v2", str(real_weights / "mobilenet_v2.pth"))
    files = sorted((real_data / "hymenoptera/val/ants").iterdir())[:8]
    inputs = [to_inputs(decode(f.read_bytes()), recipes(opened.spec), b"0")[0] for f in files]
    sample = np.stack(inputs)
    (ours,), (theirs,) = (open_engine(opened, Setup(e, "cpu"), sample).forward(sample) for e in ("onnx", "torch"))
    assert cosines(ours, theirs).min() >= 0.99999
    centre = theirs.mean(0)
    assert cosines(ours - centre, theirs - centre).min() >= 0.999  # rows of other pictures would fail here


def test_pixels_in_any_layout_give_the_same(resnet, photos):
    for setup in (TORCH, Setup("onnx", "cpu")):
        engine = open_engine(resnet, setup, photos)
        strided = np.asfortranarray(photos)
        assert np.array_equal(engine.forward(strided)[0], engine.forward(photos)[0])


# What makes ONNX unusable, and what is said of it.
def refuse_to_export(monkeypatch):
    def export(*_, **__):
        raise NotImplementedError("Exporting the operator 'aten::magic' is not supported\nand much more")

    monkeypatch.setattr(torch.onnx, "export", export)


def answer_otherwise(monkeypatch):
    honest = OnnxEngine.forward
    monkeypatch.setattr(OnnxEngine, "forward", lambda self, pixels: tuple(o + o.std() for o in honest(self, pixels)))


def give_another_shape(monkeypatch):
    honest = OnnxEngine.forward
    monkeypatch.setattr(OnnxEngine, "forward", lambda self, pixels: tuple(o[:, :-1] for o in honest(self, pixels)))


def fail_on_pictures(monkeypatch):
    class Session:
        def run(self, *_):
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION")

    monkeypatch.setattr("extract.onnx._session", lambda *_: Session())


UNUSABLE = {
    "no export": (
        refuse_to_export,
        r"cannot be exported to ONNX \(Exporting the operator 'aten::magic' is not supported\)",
    ),
    "other outputs": (answer_otherwise, r"its outputs have a cosine of 0\.\d+ with the reference's, less than 0\.9999"),
    "other shapes": (give_another_shape, r"its outputs have a cosine of -1\.0+ with the reference's"),
    "a failure": (fail_on_pictures, r"ONNX Runtime failed on 8 pictures in timm/test_resnet.* RUNTIME_EXCEPTION"),
}


@pytest.mark.parametrize(("spoil", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_auto_passes_over_an_onnx_that_does_not_do_and_says_why(monkeypatch, empty_cache, resnet, photos, spoil, words):
    spoil(monkeypatch)
    engine = open_engine(resnet, CPU, photos)
    assert engine.name == "torch/cpu"
    (note,) = engine.notes
    assert note.startswith("the engine onnx was passed over for torch/cpu: ")
    assert re.search(words, note)
    assert "\n" not in note
    assert engine.forward(photos)[0].shape == (8, 96)


@pytest.mark.parametrize(("spoil", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_onnx_that_was_named_and_does_not_do_is_an_error(monkeypatch, empty_cache, resnet, photos, spoil, words):
    spoil(monkeypatch)
    with pytest.raises(EngineError, match=words):
        open_engine(resnet, Setup("onnx", "cpu"), photos)


@pytest.mark.parametrize("n", [1, 4])
def test_a_graph_that_only_takes_the_exporters_batch_is_passed_over(empty_cache, n):
    class Halves(torch.nn.Module):
        def forward(self, x):
            return (torch.cat([row.flatten()[None] for row in x]),)  # a loop over as many rows as the example has

    engine = open_engine(backbone(Halves(), "halves"), CPU, PIXELS[:n])
    assert engine.name == "torch/cpu"
    assert "passed over" in engine.notes[0]


def test_what_the_exporter_prints_does_not_reach_standard_output(empty_cache, capfd):
    opened = open_backbone("timm/test_vit", "random", Options(input_size=64))  # its positions are resized: no export
    sample = np.zeros((2, 64, 64, 3), np.uint8)
    print("before")
    engine = open_engine(opened, CPU, sample)
    print("after")
    assert "cannot be exported to ONNX" in engine.notes[0]
    assert capfd.readouterr().out == "before\nafter\n"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_where_onnx_is_not_installed_torch_runs(monkeypatch, resnet, photos, package):
    honest = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == package else honest(name))
    engine = open_engine(resnet, CPU, photos)
    assert (engine.name, engine.notes) == ("torch/cpu", [])
    monkeypatch.setitem(sys.modules, package, None)  # what an import finds then
    with pytest.raises(MissingDependency, match=rf"the engine onnx needs {package}.*pip install '\.\[extract\]'"):
        open_engine(resnet, Setup("onnx", "cpu"), photos)


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (Setup("onnx", "cuda"), "the engine onnx runs on the CPU alone, not on cuda: use --engine torch"),
        (Setup("onnx", "cpu", precision="fp16"), "computes in float32, not in fp16: use --engine torch"),
        (Setup("onnx", "cpu", precision="bf16"), "computes in float32, not in bf16: use --engine torch"),
    ],
)
def test_onnx_is_refused_where_it_cannot_run(monkeypatch, resnet, photos, setup, words):
    devices(monkeypatch, cuda=1)
    with pytest.raises(BackboneError, match=words):
        open_engine(resnet, setup, photos)


def test_a_graph_is_exported_once_and_kept(monkeypatch, empty_cache, resnet, photos):
    (first,) = open_engine(resnet, CPU, photos).forward(photos)
    (graph,) = empty_cache.iterdir()
    assert graph_folder() == empty_cache.parent
    written = graph.stat()
    refuse_to_export(monkeypatch)  # whoever exports again would be passed over
    again = open_engine(resnet, CPU, photos)
    assert again.name == "onnx/cpu"
    assert np.array_equal(again.forward(photos)[0], first)
    assert graph.stat().st_ino == written.st_ino


def test_graphs_of_other_networks_sizes_and_pixels_are_apart_and_views_share_one(empty_cache, resnet):
    of_pixels: dict[str, object] = {"resize": 300, "fit": "pad", "interpolation": "nearest"}
    for changes in ({}, {"view": "flip"}, {"decoder": "draft"}, of_pixels):
        other = Backbone(resnet.network, (dataclasses.replace(resnet.spec, **changes),))
        OnnxEngine(other, 4, 1, 1)
        assert len(list(empty_cache.iterdir())) == 1
    for changes in ({"crop": (96, 96)}, {"mean": (0.1,) * 3}, {"std": (0.1,) * 3}, {"weights": "sha256:01"}):
        before = len(list(empty_cache.iterdir()))
        OnnxEngine(Backbone(resnet.network, (dataclasses.replace(resnet.spec, **changes),)), 4, 1, 1)
        assert len(list(empty_cache.iterdir())) == before + 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"",
        lambda b: b[: len(b) // 2],
        lambda b: b"no graph at all" + b[15:],
        lambda b: b[:-2000] + bytes(x ^ 1 for x in b[-2000:-1000]) + b[-1000:],  # loads, with other weights
    ],
)
def test_a_damaged_graph_in_the_cache_is_replaced(empty_cache, resnet, photos, damage):
    open_engine(resnet, CPU, photos)
    (graph,) = empty_cache.iterdir()
    sound = graph.read_bytes()
    graph.write_bytes(damage(sound))
    assert open_engine(resnet, Setup("onnx", "cpu"), photos).name == "onnx/cpu"
    assert len(graph.read_bytes()) == len(sound)
    assert list(empty_cache.iterdir()) == [graph]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch, resnet, photos):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PENULT_CACHE", str(tmp_path / "file/cache"))
    engine = open_engine(resnet, CPU, photos)
    assert (engine.name, engine.notes) == ("onnx/cpu", [])
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_cache_is_where_the_user_keeps_such_things(monkeypatch, tmp_path):
    monkeypatch.delenv("PENULT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert graph_folder() == tmp_path / "penult"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert graph_folder() == tmp_path / ".cache/penult"


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


def test_a_compiled_network_is_compiled_once_and_compared(monkeypatch):
    compiled = []

    def fake(network):
        compiled.append(network)
        return network

    monkeypatch.setattr(torch, "compile", fake)
    engine = open_engine(backbone(Linear(0.0)), Setup(device="cpu", compile=True), PIXELS)
    assert (engine.name, engine.notes) == ("torch/cpu", [])
    engine.forward(PIXELS)
    assert len(compiled) == 1


def test_a_compiled_network_that_disagrees_is_passed_over(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: lambda x: tuple(-o for o in network(x)))
    engine = open_engine(backbone(Linear(0.0)), Setup(device="cpu", compile=True), PIXELS)
    assert "was passed over for torch/cpu" in engine.notes[0]
    assert np.array_equal(engine.forward(PIXELS)[0], TorchEngine(backbone(Linear(0.0)), CPU).forward(PIXELS)[0])


@pytest.mark.parametrize(
    ("cores", "lanes", "threads"), [(1, 1, 1), (2, 2, 1), (7, 7, 1), (16, 16, 1), (17, 16, 1), (64, 16, 4)]
)
def test_lanes_and_threads_share_the_cores(cores, lanes, threads):
    assert share_cores(cores) == (lanes, threads)
    assert lanes * threads <= cores


def test_the_cpu_engines_take_their_lanes_and_batches_from_the_cores(monkeypatch, resnet, photos):
    monkeypatch.setattr("extract.flow.available_cores", lambda: 64)
    for name in ("torch", "onnx"):
        engine = open_engine(resnet, Setup(name, "cpu"), photos)
        assert (engine.lanes, engine.batch_size) == (16, 4)
        assert open_engine(resnet, Setup(name, "cpu", batch_size=9), photos).batch_size == 9
    monkeypatch.setattr("extract.flow.available_cores", lambda: 2)
    assert open_engine(resnet, TORCH, photos).lanes == 2


def test_lanes_may_compute_at_once(resnet, photos):
    for name in ("torch", "onnx"):
        engine = open_engine(resnet, Setup(name, "cpu"), photos)
        alone = [engine.forward(photos[i : i + 2])[0] for i in range(0, 8, 2)]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda i, run=engine.forward: run(photos[i : i + 2])[0], [0, 2, 4, 6] * 5))
        for number, vectors in enumerate(together):
            assert np.array_equal(vectors, alone[number % 4])


def test_a_network_that_fails_names_the_pictures_and_what_to_try():
    class Broken(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    with pytest.raises(BackboneError, match=r"failed on 4 pictures of \(8, 8\) \(CUDA out of memory") as caught:
        TorchEngine(backbone(Broken()), CPU).forward(PIXELS)
    assert str(caught.value).endswith("try another --input-size, or a smaller --batch-size")
    assert "\n" not in str(caught.value)


def test_agreement_is_the_least_cosine_of_all_rows_and_outputs():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(5, 7)).astype(np.float32) for _ in range(2))
    assert agreement((a,), (a * 3,)) == pytest.approx(1)
    assert agreement((a, b), (a, b)) == 1
    turned = a.copy()
    turned[3] = b[3]
    want = (a[3] @ b[3]) / np.linalg.norm(a[3]) / np.linalg.norm(b[3])
    assert agreement((b, a), (b, turned)) == pytest.approx(want, rel=1e-5)
    bad = a.copy()
    bad[2, 2] = np.nan
    assert agreement((bad,), (bad,)) == 1  # a network that gives NaN gives it with every engine
    assert agreement((bad,), (a,)) == -1
    zero = a.copy()
    zero[1] = 0
    assert agreement((zero,), (zero,)) == 1
    assert agreement((zero,), (a,)) < 0.5
    assert agreement((a,), (a[:, :3],)) == -1
    assert agreement((a,), (a[:2],)) == -1
