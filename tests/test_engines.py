"""Engines: that they agree, how they share the cores, and what is done where they do not."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from engines_at_hand import CPU, PIXELS, SPEC, TORCH, Flat, Linear, backbone

from data.errors import BackboneError
from extract.engines import Setup, TorchEngine, agreement, open_engine, share_cores

pytestmark = pytest.mark.usefixtures("settings_kept")


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
