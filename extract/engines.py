"""What runs a network: the only file that knows of devices.

An engine turns uint8 pictures into float32 features. Entries of `ENGINES` differ in speed, and agree with each
other within 1e-4 in cosine; what a feature is, the spec alone decides.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from data.errors import BackboneError, first_line
from extract.backbones import Backbone
from extract.preprocess import Pixels

Features = npt.NDArray[np.float32]

# Pictures in a batch. On a CPU larger ones gain nothing and cost memory; a GPU needs many to be busy.
_BATCH = {"cpu": 32, "mps": 64, "cuda": 128}


class Engine(Protocol):
    """Runs one backbone."""

    name: str
    device: str
    batch_size: int

    def forward(self, pixels: Pixels) -> Features:
        """Return the features, (B, dim) float32, of pictures (B, H, W, 3) uint8."""


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
    """PyTorch in float32 with channels-last memory; on CUDA with pinned memory and asynchronous copies.

    TF32 is off while it runs, so that a GPU's features equal a CPU's to about 1e-5.

    Parameters
    ----------
    backbone : Backbone
        Its network is moved to the device; parameters, buffers and mode stay as they are.
    device : str
        As `choose_device` returns it.
    batch_size : int
        Pictures in a batch; 0 chooses by device.
    """

    backbone: Backbone
    device: str
    batch_size: int = 0

    def __post_init__(self) -> None:
        kind = self.device.partition(":")[0]
        self.name = f"torch/{kind}"
        self.batch_size = self.batch_size or _BATCH[kind]
        self._network: Any = None

    def prepare(self) -> None:
        """Move the network to the device, once."""
        if self._network is None:
            spec = self.backbone.spec
            self._network = self.backbone.network.to(self.device, memory_format=torch.channels_last)
            self._mean = torch.tensor(spec.mean, device=self.device).view(1, -1, 1, 1)
            self._std = torch.tensor(spec.std, device=self.device).view(1, -1, 1, 1)

    def forward(self, pixels: Pixels) -> Features:
        """Return the features, (B, dim) float32, of pictures (B, H, W, 3) uint8.

        Raises
        ------
        BackboneError
            If the network's output is not one vector a picture.
        """
        self.prepare()
        on_gpu = self.device.startswith("cuda")
        # (B, H, W, 3) seen as (B, 3, H, W) is channels_last already: nothing is copied
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
        if on_gpu:
            batch = batch.pin_memory()
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            x = batch.to(self.device, non_blocking=on_gpu)
            x = x.float().div_(255).sub_(self._mean).div_(self._std)  # torchvision's ToTensor and Normalize
            try:
                features = self._network(x)[0]
            except (RuntimeError, AssertionError) as error:
                raise BackboneError(
                    f"{self.backbone.spec.title} failed on {len(x)} pictures of {tuple(x.shape[2:])} "
                    f"({first_line(error)}): try another --input-size, or a smaller --batch-size"
                ) from error
            if not isinstance(features, torch.Tensor) or features.ndim != 2:
                shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
                raise BackboneError(
                    f"{self.backbone.spec.title} gives {shape}, not one vector a picture: choose another network"
                )
            return features.float().cpu().numpy()


ENGINES: dict[str, Callable[[Backbone, str, int], Engine]] = {"torch": TorchEngine}


def open_engine(backbone: Backbone, engine: str = "auto", device: str = "auto", batch_size: int = 0) -> Engine:
    """Choose and build an engine.

    Parameters
    ----------
    backbone : Backbone
        What to run.
    engine : str
        A key of `ENGINES`, or ``auto``.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    batch_size : int
        0 chooses by device.
    """
    return ENGINES["torch" if engine == "auto" else engine](backbone, choose_device(device), batch_size)
