"""What tests of engines share: toy networks, their pixels, and a machine with other devices."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import torch

from data.spec import FeatureSpec
from extract.backbones import Backbone
from extract.engines import Setup

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


def devices(monkeypatch, cuda=0, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: mps))
