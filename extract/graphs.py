"""Networks as ONNX graphs, by PyTorch's exporter: from uint8 pictures, normalisation being a part of the graph."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from data.errors import EngineError, first_line
from extract.backbones import Backbone
from extract.session import OPSET, PIXELS


class Normalised(nn.Module):
    """A network from uint8 pictures (B, H, W, C).

    Parameters
    ----------
    backbone : Backbone
        The network and what it takes.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.network = backbone.network
        self.register_buffer("mean", torch.tensor(backbone.spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.spec.std).view(1, -1, 1, 1))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return what the network takes, (B, C, H, W) float32."""
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def forward(self, pixels: torch.Tensor) -> Any:
        """Return the network's outputs."""
        return self.network(self.normalise(pixels))


def export_graph(module: nn.Module, shape: tuple[int, int, int], outputs: Sequence[str], title: str) -> bytes:
    """Return the ONNX graph of a module from uint8 pictures, any number of them.

    Parameters
    ----------
    module : Module
        In eval mode, on the CPU.
    shape : tuple of int
        Height, width and channels of a picture.
    outputs : sequence of str
        Names of the outputs.
    title : str
        How messages call it.

    Raises
    ------
    EngineError
        If the exporter does not know an operation of it.
    """
    file: Any = io.BytesIO()
    try:
        with warnings.catch_warnings(), _quiet_exporter():
            warnings.simplefilter("ignore")  # of the exporter's age, and of shapes that are constant on purpose
            torch.onnx.export(
                module,
                (torch.zeros((2, *shape), dtype=torch.uint8),),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=[PIXELS],
                output_names=list(outputs),
                dynamic_axes={name: {0: "batch"} for name in (PIXELS, *outputs)},
            )
    except Exception as error:  # the exporter raises nearly anything on an operation that it does not know
        raise EngineError(f"{title} cannot be exported to ONNX ({first_line(error)})") from None
    return cast(bytes, file.getvalue())


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep what the exporter prints before it fails, the whole graph, out of standard output, where --json may write.

    It does so from C++, so the file descriptor itself looks elsewhere meanwhile.
    """
    try:
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # a process without standard output
        yield
        return
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
