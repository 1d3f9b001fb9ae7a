"""What running a network costs, counted rather than looked up."""

from typing import TYPE_CHECKING

from extract.zoo import build_network, require_torch, resolve_name

if TYPE_CHECKING:
    from torch import nn


def count_macs(name: str, crop: tuple[int, int]) -> int:
    """Return the multiply-adds of one picture's way through a network, with its last layer.

    Parameters
    ----------
    name : str
        As for `extract.backbones.open_backbone`.
    crop : tuple of int
        Height and width of the picture, in pixels.

    Raises
    ------
    BackboneError
        If there is no such network.
    MissingDependency
        If torch, torchvision or timm is not installed.

    Examples
    --------
    >>> round(count_macs("resnet18", (224, 224)) / 1e9, 2)
    1.81
    """
    require_torch()
    import torch

    library, arch = resolve_name(name)
    with torch.random.fork_rng(devices=[]):
        network, _ = build_network(library, arch, "random")
    return macs_of(network.eval(), (3, *crop))


def macs_of(network: "nn.Module", shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of one input's way through a network, which is on the CPU.

    Parameters
    ----------
    network : Module
        In eval mode.
    shape : tuple of int
        Of the input.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape))
    return int(counter.get_total_flops()) // 2  # a multiply-add is two operations
