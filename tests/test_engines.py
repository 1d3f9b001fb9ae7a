"""Device choice and the torch engine; the CUDA path is walked with fakes on a CPU."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.errors import BackboneError
from data.spec import FeatureSpec
from extract.backbones import Backbone
from extract.engines import TorchEngine, choose_device, open_engine

SPEC = FeatureSpec("torchvision/none", "sha256:00", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)


class Flat(torch.nn.Module):
    def forward(self, x):
        self.seen = x
        return (x.flatten(1),)


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
    got = open_engine(Backbone(network, (SPEC,)), "auto", "cpu").forward(PIXELS)
    expected = torch.stack([F.normalize(F.to_tensor(p), SPEC.mean, SPEC.std) for p in PIXELS])
    assert np.array_equal(got.reshape(expected.shape), expected.numpy())
    assert network.seen.is_contiguous(memory_format=torch.channels_last)
    assert not network.seen.requires_grad


def test_a_network_without_one_vector_a_picture_is_refused():
    network = torch.nn.Sequential()
    network.forward = lambda x: (x,)
    with pytest.raises(BackboneError, match=r"gives \(4, 3, 8, 8\), not one vector a picture"):
        TorchEngine(Backbone(network, (SPEC,)), "cpu").forward(PIXELS)


def test_the_cuda_path_pins_copies_without_waiting_and_puts_tf32_back(monkeypatch):
    calls = []
    real_to = torch.Tensor.to

    def pin(self):
        calls.append("pinned")
        return self

    def to(self, *args, **kwargs):
        if args and args[0] == "cuda":
            calls.append(f"copied, non_blocking={kwargs.get('non_blocking')}")
            args = ("cpu", *args[1:])
        return real_to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    before = torch.backends.cudnn.allow_tf32
    engine = TorchEngine(Backbone(Flat(), (SPEC,)), "cpu")
    reference = engine.forward(PIXELS)
    engine.device = "cuda"
    assert np.array_equal(engine.forward(PIXELS), reference)
    assert calls == ["pinned", "copied, non_blocking=True"]
    assert torch.backends.cudnn.allow_tf32 == before
    assert TorchEngine(Backbone(Flat(), (SPEC,)), "cuda").batch_size == 128
